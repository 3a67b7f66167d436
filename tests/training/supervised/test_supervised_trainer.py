from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from relaxrl.checkpoint import load_checkpoint
from relaxrl.errors import CheckpointError, ConfigError, RelaxRLError
from relaxrl.metrics import read_metrics
from relaxrl.training.supervised import Batches, EarlyStoppingConfig, SupervisedTrainer, TrainerConfig, load_parameters
from relaxrl.training.supervised.early_stopping import EarlyStopping
from relaxrl.training.supervised.measures import LOSSES, EpochErrors

Make = Callable[..., SupervisedTrainer[Any]]


def errors_of(values: list[float], name: str = "energy") -> EpochErrors:
    errors = EpochErrors("mae", {})
    errors.add({name: (torch.tensor(values), torch.zeros(len(values)))})
    return errors


def test_losses_by_value():
    prediction, target = torch.tensor([0.5, -3.0]), torch.zeros(2)
    assert LOSSES["mae"](prediction, target).tolist() == [0.5, 3.0]
    assert LOSSES["mse"](prediction, target).tolist() == [0.25, 9.0]
    assert LOSSES["smoothl1"](prediction, target).tolist() == [0.125, 2.5]  # quadratic below 1, linear above


def test_the_loss_is_the_weighted_sum_over_targets():
    errors = EpochErrors("mse", {"energy": 1.0, "forces": 1000.0})
    terms = {"energy": (torch.tensor([2.0]), torch.tensor([0.0])), "forces": (torch.ones(2, 3), torch.zeros(2, 3))}
    assert float(errors.add(terms)) == 4.0 + 1000.0 * 1.0


def test_means_are_over_the_elements_of_an_epoch_and_rmse_is_a_root():
    errors = EpochErrors("mae", {})
    for values in ([1.0, 1.0, 1.0], [5.0]):  # the mean over batches of means would be 3
        errors.add({"energy": (torch.tensor(values), torch.zeros(len(values)))})
    energy = errors.targets["energy"]
    assert (energy.mae, energy.rmse, errors.loss) == (2.0, np.sqrt(28 / 4), 2.0)


def test_shapes_that_would_be_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"`energy`: prediction and label must have one shape, got \(3, 1\) and \(3,"):
        EpochErrors("mae", {}).add({"energy": (torch.zeros(3, 1), torch.zeros(3))})


def stopped_after(criteria: dict[str, EarlyStoppingConfig], mode: Any, *curves: list[float]) -> int | None:
    stopping = EarlyStopping(criteria, mode)
    for epoch, values in enumerate(zip(*curves, strict=True), start=1):
        stopping.update({name: errors_of([v]).targets["energy"] for name, v in zip(criteria, values, strict=True)})
        if stopping.met:
            return epoch
    return None


def test_early_stopping_waits_and_small_gains_do_not_count():
    patient = EarlyStoppingConfig(patience=2, threshold=0.1)
    assert stopped_after({"a": patient}, "and", [1.0, 0.8, 0.75, 0.72, 0.1]) == 4
    # Small gains add up: the comparison is with the last value that counted.
    assert stopped_after({"a": patient}, "and", [1.0, 0.95, 0.89, 0.85, 0.78]) is None
    assert stopped_after({"a": patient}, "and", [1.0, 0.95, 0.89, 0.85, 0.79]) == 5


def test_early_stopping_below_the_bound_and_modes():
    bound = {"a": EarlyStoppingConfig(lower_bound=0.5), "b": EarlyStoppingConfig(patience=2)}
    falling, flat = [1.0, 0.4, 0.3, 0.2, 0.1], [1.0, 1.0, 1.0, 1.0, 1.0]
    assert stopped_after(bound, "and", falling, flat) == 3
    assert stopped_after(bound, "or", falling, flat) == 2
    assert stopped_after({}, "and") is None
    assert not EarlyStopping({}, "and").met


def test_early_stopping_on_rmse_sees_a_root():
    bound = EarlyStoppingConfig(metric="rmse", lower_bound=0.2)
    stopping = EarlyStopping({"energy": bound})
    stopping.update(errors_of([0.3, 0.3]).targets)  # a mean square of 0.09 is below the bound, its root is not
    assert not stopping.met
    stopping.update(errors_of([0.1, 0.1]).targets)
    assert stopping.met


def test_a_run_ends_by_early_stopping(make: Make):
    criteria = {"forces": {"metric": "rmse", "patience": 2, "threshold": 100.0}}
    result = make(early_stoppings=criteria, max_epochs=20).run()
    assert (result.epochs, result.reason) == (3, "early stopping")


def test_a_run_on_a_plateau_ends_below_min_lr(make: Make):
    kwargs = {"factor": 0.1, "patience": 0, "threshold": 0.99}  # nothing counts as a gain
    trainer = make(
        lr_scheduler="plateau", lr_scheduler_kwargs=kwargs, min_lr=5e-6, max_epochs=20, warmup_scheduler=None
    )
    result = trainer.run()
    assert (result.epochs, result.reason) == (4, "the learning rate fell below `min_lr` = 5e-06")
    np.testing.assert_allclose(read_metrics(trainer.metrics_file)["lr"], [5e-4, 5e-4, 5e-5, 5e-6], rtol=1e-9)


def test_updates_are_those_of_a_loop_by_hand(make: Make):
    config = {"losses_weight": {"energy": 1.0, "forces": 10.0}, "warmup_scheduler": None, "grad_clip": 0.5, "seed": 3}
    first, second = nn.Linear(3, 2), nn.Linear(3, 2)
    second.load_state_dict(first.state_dict())
    trainer = make(model=first, max_epochs=2, max_lr=0.01, **config)
    trainer.run()

    optimizer = torch.optim.AdamW(second.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
    shadow = None
    batches = make("other", seed=3)
    for _ in range(2):
        for x, y in batches.train.epoch(batches.generators.torch("order"), 0):
            predicted = second(x)
            loss = F.smooth_l1_loss(predicted[:, 0], y[:, 0]) + 10 * F.smooth_l1_loss(predicted[:, 1], y[:, 1])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(second.parameters(), 0.5)
            optimizer.step()
            scheduler.step()
            value = second.weight.detach().clone()
            shadow = value if shadow is None else 0.995 * shadow + 0.005 * value
    torch.testing.assert_close(first.weight, second.weight)
    torch.testing.assert_close(trainer.exported.weight, shadow)
    assert not torch.equal(trainer.exported.weight, first.weight)


def test_validation_uses_the_averaged_parameters_in_evaluation_mode(make: Make):
    seen: list[tuple[nn.Module, bool, bool]] = []

    def spied(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        seen.append((model, model.training, torch.is_grad_enabled()))
        return {"energy": (model(batch[0])[:, 0], batch[1][:, 0])}

    trainer = make(loss_terms=spied, max_epochs=2)
    trainer.run()
    assert [mode for _, *mode in seen] == 2 * (3 * [[True, True]] + 2 * [[False, False]])
    assert seen[0][0] is trainer.model
    assert seen[3][0] is trainer.exported is not trainer.model
    plain = make("plain", ema_decay=None)
    assert plain.exported is plain.model


def test_log_lines_are_means_over_the_epoch(make: Make):
    batches: list[float] = []

    def spied(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        predicted = model(batch[0])[:, 0]
        if model.training:
            batches.append(float((predicted - batch[1][:, 0]).detach().abs().sum()))
        return {"energy": (predicted, batch[1][:, 0])}

    trainer = make(loss_terms=spied, lossfn="l1", max_epochs=3, log_steps=2, log_epochs=2, log_file="mine.log")
    trainer.run()
    lines = (trainer.folder / "mine.log").read_text().splitlines()
    heads = [line.partition(" |")[0] for line in lines]
    assert heads[:-1] == [
        "epoch 1/3 step 2",
        "epoch 2/3 step 4",
        "epoch 2/3 step 6",
        "epoch 2/3 step 6",
        "epoch 3/3 step 8",
    ]
    logged = [float(re.findall(r"train/loss (\S+)", line)[0]) for line in lines[:-1]]
    expected = [sum(batches[:2]) / 8, batches[3] / 4, sum(batches[3:6]) / 10, sum(batches[3:6]) / 10]
    np.testing.assert_allclose(logged[:4], expected, rtol=1e-5)
    rows = read_metrics(trainer.metrics_file)
    assert (rows["epoch"], rows["t_total"]) == ([1, 2, 3], [3, 6, 9])
    np.testing.assert_allclose(rows["train/loss"], [sum(batches[3 * k : 3 * k + 3]) / 10 for k in range(3)], rtol=1e-6)


def scripted(errors: list[float]) -> Any:
    """A model's validation error as a script has it, whatever its parameters."""
    epochs = iter(errors)

    def terms(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        value = model(batch[0])[:1, 0]
        shift = 0.0 if model.training else next(epochs)
        return {"energy": (0.0 * value + shift, torch.zeros(1))}

    return terms


def test_the_best_k_are_kept_and_the_message_names_the_smallest(make: Make):
    errors = [5.0, 1.0, 3.0, 2.0, 4.0]
    repeated = [error for error in errors for _ in range(2)]  # two validation batches
    trainer = make(loss_terms=scripted(repeated), lossfn="l1", best_k=3, max_epochs=5, run_name="net")
    result = trainer.run()
    names = sorted(path.name for path in trainer.folder.glob("*.pt"))
    assert names == ["net_0.pt", "net_1.pt", "net_2.pt", "net_last.pt"]
    epochs = {name: load_checkpoint(trainer.folder / name, "supervised")["epoch"] for name in names}
    assert epochs == {"net_0.pt": 4, "net_1.pt": 2, "net_2.pt": 3, "net_last.pt": 5}  # epoch 4 replaced the worst, 5.0
    assert (result.best_file, result.best_epoch, result.best_error) == (trainer.folder / "net_1.pt", 2, 1.0)
    last = (trainer.folder / "loss.log").read_text().splitlines()[-1]
    expected = "training ended after epoch 5 (`max_epochs`); best checkpoint: net_1.pt (epoch 2, validation loss 1)"
    assert last == expected


def test_fine_tuning_moves_the_named_modules_only(make: Make):
    trainer = make(finetune_modules=["head"], max_epochs=1)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.run()
    moved = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"head.weight", "head.bias"}


def test_modules_that_are_not_there_are_named(make: Make):
    message = r"`finetune_modules`: 'haed' is in no parameter's name; did you mean `head`\? The modules are head, head."
    with pytest.raises(ConfigError, match=message):
        make(finetune_modules=["trunk", "haed"])


def test_targets_that_are_not_there_are_named(make: Make):
    with pytest.raises(ConfigError, match=r"unknown target `losses_weight.enrgy`; did you mean `losses_weight.energy`"):
        make("a", losses_weight={"enrgy": 1.0, "forces": 1.0}).run()
    with pytest.raises(ConfigError, match="`losses_weight` has no `energy`; give every target"):
        make("b", losses_weight={"forces": 1.0}).run()
    with pytest.raises(ConfigError, match=r"unknown target `early_stoppings.stress`; the targets are energy, forces"):
        make("c", early_stoppings={"stress": {}}).run()


def test_divergence_says_where(make: Make):
    with pytest.raises(RelaxRLError, match=r"epoch 1, step 2: the loss is not finite \(.*lower `max_lr`"):
        make(loss_terms=diverging(), model=nn.Linear(3, 2)).run()


def diverging() -> Any:
    calls = iter(range(100))

    def terms(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        value = model(batch[0])[:, 0]
        return {"energy": (value * (torch.nan if next(calls) else 1.0), batch[1][:, 0])}

    return terms


def test_a_checkpoint_begins_another_run_with_its_averaged_parameters(make: Make):
    first = make("first", max_epochs=2)
    result = first.run()
    second = make("second", ckpt_file=str(first.checkpoint_file("last")))
    assert second.epoch == second.step == 0
    for name, value in first.exported.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value)
    assert result.best_file is not None
    model = nn.Module()
    with pytest.raises(CheckpointError, match=r"parameter `trunk.weight` is unknown to this model"):
        load_parameters(model, result.best_file)


def test_a_run_that_began_with_a_checkpoint_resumes_from_its_own(make: Make):
    first = make("first", max_epochs=2, best_k=2)
    first.run()
    config = {"max_epochs": 4, "lr_scheduler": "plateau", "best_k": 2, "ckpt_file": str(first.checkpoint_file("last"))}
    second = make("second", **(config | {"max_epochs": 3}))
    second.run()
    assert make("second", resume=True, **config).epoch == 3
    # One of its own can be chosen, and gives the state of the run as it was then.
    chosen = make("second", resume=True, **(config | {"ckpt_file": str(second.checkpoint_file(0))}))
    assert chosen.epoch == load_checkpoint(second.checkpoint_file(0), "supervised")["epoch"]
    # A run that has none yet goes on from the one that is given, in a folder of its own.
    third = make("third", resume=True, max_epochs=2, best_k=2, ckpt_file=str(first.checkpoint_file("last")))
    assert third.epoch == 2


def test_a_checkpoint_of_another_architecture_names_the_parameter(make: Make):
    first = make("first", max_epochs=1)
    first.run()
    file = str(first.checkpoint_file(0))
    wider = type(first.model)(hidden=9)
    with pytest.raises(CheckpointError, match=r"parameter `trunk.weight` has the shape \(8, 3\), expected \(9, 3\)"):
        make("second", model=wider, ckpt_file=file)
    deeper = type(first.model)()
    deeper.extra = nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match=r"another architecture: it has no parameter `extra.weight`"):
        make("third", model=deeper, ckpt_file=file)


def test_a_new_run_does_not_overwrite_another(make: Make):
    make(max_epochs=1).run()
    with pytest.raises(
        ConfigError, match=r"relaxrl_last.pt` belongs to an earlier run; continue it with `resume: true`"
    ):
        make(max_epochs=1)
    with pytest.raises(CheckpointError, match=r"no such checkpoint to resume; start anew with `resume: false`"):
        make("elsewhere", resume=True)


SCHEDULES = [
    {"warmup_epochs": 3},
    {"warmup_scheduler": "exponential", "lr_scheduler": "cosine_restarts", "lr_scheduler_kwargs": {"T_0": 1.5}},
    {
        "optimizer": "nadam",
        "warmup_scheduler": "radam",
        "lr_scheduler": "plateau",
        "lr_scheduler_kwargs": {"factor": 0.5, "patience": 0, "threshold": 0.5},
        "early_stoppings": {"energy": {"patience": 4, "threshold": 0.3}},
    },
]


def left_behind(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".log", ".csv")}


class KilledError(Exception):
    """No handler of the trainer's catches it."""


class DyingBatches(Batches[Any, Any]):
    """Batches whose reader dies after some of them."""

    left = 0

    def epoch(self, generator: torch.Generator | None, num_workers: int = 0) -> Iterator[Any]:
        for batch in super().epoch(generator, num_workers):
            if not self.left:
                raise KilledError
            self.left -= 1
            yield batch


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("died_after", [0, 2, 3, 7, 13])
def test_a_run_that_died_and_was_resumed_equals_one_left_alone(make: Make, schedule: dict[str, Any], died_after: int):
    config = {"max_epochs": 5, "best_k": 2, "log_steps": 2, "max_lr": 0.01} | schedule
    alone = make("alone", **config)
    expected = alone.run()

    killed = make("killed", **config)
    dying = DyingBatches(killed.train.samples, killed.train.collate, killed.train.batch_size)
    dying.left = died_after
    killed.train = dying
    if died_after < expected.steps:
        with pytest.raises(KilledError):
            killed.run()
    resumed = make("killed", resume=True, **config)
    assert resumed.epoch == min(died_after // 3, expected.epochs)
    result = resumed.run()
    assert left_behind(killed.folder) == left_behind(alone.folder)
    assert (result.epochs, result.best_error, result.reason) == (expected.epochs, expected.best_error, expected.reason)
    for name in ("relaxrl_0.pt", "relaxrl_1.pt", "relaxrl_last.pt"):
        first, second = (load_checkpoint(folder / name, "supervised") for folder in (alone.folder, killed.folder))
        for part in ("model", "average"):
            assert all(torch.equal(second[part][key], value) for key, value in first[part].items()), (name, part)
        assert torch.equal(first["dropout"], second["dropout"])
        assert (first["rate"], first["best"], first["stopping"]) == (second["rate"], second["best"], second["stopping"])


def test_resuming_a_finished_run_adds_nothing(make: Make):
    first = make(max_epochs=2)
    result = first.run()
    before = left_behind(first.folder)
    assert make(max_epochs=2, resume=True).run() == result
    assert left_behind(first.folder) == before


def test_a_plateau_run_can_be_prolonged_and_equals_a_long_one(make: Make):
    config = {"lr_scheduler": "plateau", "lr_scheduler_kwargs": {"patience": 0}}
    make("parts", max_epochs=2, **config).run()
    parts = make("parts", max_epochs=4, resume=True, **config)
    parts.run()
    whole = make("whole", max_epochs=4, **config)
    whole.run()
    assert parts.metrics_file.read_bytes() == whole.metrics_file.read_bytes()


def test_a_resumed_run_keeps_its_configuration(make: Make):
    make(max_epochs=2).run()
    with pytest.raises(ConfigError, match=r"`lossfn` is 'mse', but the run in .*_last.pt was started with 'smoothl1'"):
        make(max_epochs=2, resume=True, lossfn="mse")
    with pytest.raises(ConfigError, match=r"`max_epochs` is 3, but the cosine of the run in .* ends at 2"):
        make(max_epochs=3, resume=True)


def test_runs_depend_on_their_seed_and_on_nothing_else(make: Make):
    curves = []
    for number, config in enumerate([{"seed": 1}, {"seed": 1}, {"seed": 2}]):
        torch.manual_seed(number)
        state = torch.get_rng_state()
        trainer = make(f"run{number}", **config)
        trainer.run()
        assert torch.equal(torch.get_rng_state(), state)  # and they leave the global generator alone
        curves.append(trainer.metrics_file.read_text())
    assert curves[0] == curves[1] != curves[2]


def test_a_seed_that_was_drawn_is_remembered(make: Make):
    first = make(seed=None, max_epochs=1)
    first.run()
    assert make(seed=None, max_epochs=1, resume=True).generators.seed == first.generators.seed
    assert make("other", seed=None).generators.seed != first.generators.seed


def test_workers_load_the_same_batches(make: Make):
    batches = make().train
    alone = list(batches.epoch(torch.Generator().manual_seed(3), 0))
    helped = list(batches.epoch(torch.Generator().manual_seed(3), 2))
    assert [len(x) for x, _ in alone] == [4, 4, 2]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(alone, helped, strict=True))
    other = list(batches.epoch(torch.Generator().manual_seed(4), 0))
    assert not torch.equal(alone[0][0], other[0][0])
    with pytest.raises(ValueError, match="at least one sample"):
        Batches([], list, 4)


def test_the_trainer_learns(make: Make):
    trainer = make(max_epochs=60, max_lr=0.05, ema_decay=0.9, model=type(make("x").model)(dropout=0.0))
    result = trainer.run()
    losses = read_metrics(trainer.metrics_file)["train/loss"]
    assert losses[-1] < 0.1 * losses[0]
    assert result.best_error < 0.5 * read_metrics(trainer.metrics_file)["validation/loss"][0]
    assert isinstance(trainer.config, TrainerConfig)
