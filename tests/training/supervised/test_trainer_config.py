from __future__ import annotations

from pathlib import Path

import pytest

from relaxrl.config import configclass, dump_config, from_dict, load_config
from relaxrl.errors import ConfigError
from relaxrl.training.supervised import EarlyStoppingConfig, TrainerConfig


@configclass
class Stage:
    trainer: TrainerConfig


def read(**trainer: object) -> TrainerConfig:
    return from_dict(Stage, {"trainer": trainer}, source="stage.yaml").trainer


def test_defaults_are_those_of_the_specification():
    config = TrainerConfig()
    expected = {
        "run_name": "relaxrl",
        "resume": False,
        "ckpt_file": None,
        "finetune_modules": None,
        "lossfn": "smoothl1",
        "optimizer": "AdamW",
        "optimizer_kwargs": {},
        "max_lr": 5e-4,
        "min_lr": 0.0,
        "warmup_scheduler": "linear",
        "warmup_epochs": 10,
        "lr_scheduler": "cosine_annealing",
        "lr_scheduler_kwargs": {},
        "early_stoppings": {},
        "early_stopping_mode": "and",
        "ema_decay": 0.995,
        "save_dir": "./",
        "best_k": 1,
        "log_file": "loss.log",
        "log_steps": 50,
        "log_epochs": 1,
        "max_epochs": 300,
        "grad_clip": None,
        "seed": None,
        "num_workers": 0,
    }
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("key", "given", "meant"),
    [
        ("lossfn", "L1", "mae"),
        ("lossfn", "MAE", "mae"),
        ("lossfn", "l2", "mse"),
        ("lossfn", "Mse", "mse"),
        ("lossfn", "SmoothL1", "smoothl1"),
        ("optimizer", "adam", "Adam"),
        ("optimizer", "ADAMW", "AdamW"),
        ("optimizer", "nadam", "NAdam"),
        ("optimizer", "RAdam", "RAdam"),
        ("lr_scheduler", "Cosine", "cosine_annealing"),
        ("lr_scheduler", "COSINE_ANNEALING", "cosine_annealing"),
        ("lr_scheduler", "plateau", "reduce_on_plateau"),
        ("lr_scheduler", "Reduce_On_Plateau", "reduce_on_plateau"),
        ("warmup_scheduler", None, None),
        ("warmup_scheduler", "Untuned_Linear", "untuned_linear"),
        ("warmup_scheduler", "RADAM", "radam"),
        ("early_stopping_mode", "OR", "or"),
        ("early_stoppings", None, {}),
    ],
)
def test_names_have_aliases_and_no_case(key: str, given: object, meant: object):
    assert getattr(read(**{key: given}), key) == meant


def test_restarts_under_both_names():
    for name in ("cosine_restarts", "cosine_annealing_warm_restarts"):
        assert read(lr_scheduler=name, lr_scheduler_kwargs={"T_0": 3}).lr_scheduler == "cosine_annealing_warm_restarts"


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"max_epoch": 3}, "unknown key `trainer.max_epoch`; did you mean `trainer.max_epochs`?"),
        ({"lossfn": "smothl1"}, "in `trainer.lossfn`: expected one of mae, mse, smoothl1, l1, l2, got 'smothl1'; did"),
        ({"optimizer": "AdmW"}, "in `trainer.optimizer`: expected one of Adam, AdamW, NAdam, RAdam, got 'AdmW'; did"),
        ({"lr_scheduler": "cosin"}, "got 'cosin'; did you mean `cosine`?"),
        ({"warmup_scheduler": "linar"}, "in `trainer.warmup_scheduler`: expected one of null, linear, exponential"),
        ({"max_epochs": 2.5}, "`trainer.max_epochs` must be a valid integer"),
        ({"max_lr": "fast"}, "`trainer.max_lr` must be a valid number, got 'fast' (str)"),
        ({"resume": "perhaps"}, "`trainer.resume` must be a valid boolean"),
        ({"losses_weight": {"energy": "much"}}, "`trainer.losses_weight.energy` must be a valid number"),
        ({"losses_weight": {"energy": -1}}, "`losses_weight.energy` must be finite and not negative, got -1.0"),
        ({"optimizer_kwargs": {"weight_decy": 1}}, "`optimizer_kwargs.weight_decy`; did you mean `optimizer_kwargs.we"),
        ({"optimizer_kwargs": {"lr": 1}}, "`optimizer_kwargs.lr`: leave it out; the key `max_lr` decides it"),
        ({"optimizer_kwargs": {"betas": [0.9, 2.0]}}, "`optimizer_kwargs.betas` = (0.9, 2.0)"),
        ({"optimizer_kwargs": {"weight_decay": "much"}}, "`optimizer_kwargs.weight_decay` = 'much'"),
        ({"lr_scheduler_kwargs": {"T_mx": 3}}, "key `lr_scheduler_kwargs.T_mx`; did you mean `lr_scheduler_kwargs.T_m"),
        ({"lr_scheduler_kwargs": {"T_0": 3}}, "unknown key `lr_scheduler_kwargs.T_0`"),
        ({"lr_scheduler_kwargs": {"T_max": "long"}}, "`lr_scheduler_kwargs.T_max` must be a number, got 'long'"),
        ({"lr_scheduler_kwargs": {"eta_min": 0}}, "the key `min_lr` decides it"),
        ({"lr_scheduler": "cosine_restarts"}, "`lr_scheduler_kwargs.T_0` is missing"),
        ({"lr_scheduler": "plateau", "lr_scheduler_kwargs": {"factor": 2}}, "`lr_scheduler_kwargs.factor` must be be"),
        ({"early_stoppings": {"energy": {"patince": 3}}}, "did you mean `trainer.early_stoppings.energy.patience`?"),
        ({"early_stoppings": {"energy": {"metric": "mse"}}}, "expected one of mae, rmse, got 'mse'; did you mean `rm"),
        ({"early_stoppings": {"energy": {"patience": 0}}}, "`patience` must be at least 1, got 0"),
        ({"min_lr": 1.0}, "`min_lr` must be between 0 and `max_lr` = 0.0005, got 1.0"),
        ({"ema_decay": 1.0}, "`ema_decay` must be at least 0 and below 1, or null, got 1.0"),
        ({"best_k": 0}, "`best_k` must be at least 1, got 0"),
        ({"seed": -1}, "`seed` must not be negative, got -1"),
        ({"finetune_modules": "head"}, "`trainer.finetune_modules` must be a list, got 'head' (str)"),
        ({"finetune_modules": []}, "`finetune_modules` must hold words, or be null"),
    ],
)
def test_mistakes_are_named_with_file_and_key(trainer: dict[str, object], message: str):
    with pytest.raises(ConfigError) as caught:
        read(**trainer)
    assert message in str(caught.value)
    assert str(caught.value).startswith("stage.yaml: ")


def test_numbers_as_yaml_1_1_has_them_are_numbers_everywhere(tmp_path: Path):
    path = tmp_path / "stage.yaml"
    path.write_text(
        "trainer:\n  max_lr: 1e-3\n  optimizer_kwargs: {weight_decay: 1e-2, betas: [0.9, 99e-2]}\n"
        "  early_stoppings: {forces: {metric: RMSE, patience: 3, threshold: 1e-4, lower_bound: 1e-2}}\n"
    )
    config = load_config(Stage, path).trainer
    assert (config.max_lr, config.optimizer_kwargs) == (1e-3, {"weight_decay": 0.01, "betas": [0.9, 0.99]})
    stopping = EarlyStoppingConfig(metric="rmse", patience=3, threshold=1e-4, lower_bound=0.01)
    assert config.early_stoppings == {"forces": stopping}
    dump_config(Stage(trainer=config), path)
    assert load_config(Stage, path).trainer == config
