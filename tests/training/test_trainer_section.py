"""The section `trainer` of cloning, training by constraints and surrogates: every key does what it does elsewhere."""

import math
import os
import signal
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk

from relaxrl.agents import load_agent
from relaxrl.checkpoint import load_checkpoint, load_model
from relaxrl.errors import CheckpointError, ConfigError, RelaxRLError
from relaxrl.metrics import read_metrics
from relaxrl.nn import TrunkEnergyConfig, build_trunk_energy, save_pretrained
from relaxrl.potentials import TorchPotential
from relaxrl.training import (
    Cloner,
    CloningConfig,
    ConstraintsConfig,
    ConstraintTrainer,
    RunFolder,
    SurrogateConfig,
    SurrogateTrainer,
    load_run_config,
    resume,
    train,
)
from relaxrl.training.progress import TrainingProgress

TRUNK = {"layers": 2, "cutoff": 4.0, "channels": 4, "message_channels": 4}
ACTOR = {"kind": "hessian", "trunk": TRUNK, "head_channels": 8, "vector_channels": 4}
BATCH, EPOCH = 3, 4
"""Crystals per update, updates per epoch."""


@pytest.fixture(scope="module")
def minima(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("crystals") / "cells.extxyz"
    ase.io.write(path, [bulk(symbol, cubic=True) for symbol in ("Cu", "Ag", "Au")])
    return str(path)


def settings(minima: str, folder: Path, updates: int = 12, **trainer: Any) -> dict[str, Any]:
    return {
        "method": "cloning",
        "structures": minima,
        "kind": "minimum",
        "actor": ACTOR,
        "batch_size": BATCH,
        "updates_per_epoch": EPOCH,
        "trainer": trainer,
        "evaluation": {"structures": minima, "count": 2, "steps": 10, "every": 1000},
        "run": {"dir": str(folder), "updates": updates, "log_every": BATCH},
    }


def cloner(minima: str, folder: Path, updates: int = 12, **trainer: Any) -> Cloner:
    config = load_run_config(settings(minima, folder, updates, **trainer))
    assert isinstance(config, CloningConfig)
    return Cloner(config, RunFolder.create(str(folder), 0))


def column(folder: Path, name: str) -> list[float]:
    return [value for value in read_metrics(folder / "metrics.csv")[name] if value == value]


def test_defaults_are_those_that_the_recipes_were_made_with():
    trainer = load_run_config({"method": "cloning", "structures": "metals:train"}).trainer
    assert (trainer.optimizer, trainer.max_lr, trainer.min_lr) == ("Adam", 2e-3, 2e-5)
    assert (trainer.warmup_scheduler, trainer.warmup_epochs, trainer.lr_scheduler) == ("linear", 1, "cosine_annealing")
    assert (trainer.ema_decay, trainer.ema_warmup, trainer.grad_clip) == (0.99, True, 5.0)
    surrogate = load_run_config({"method": "surrogate", "structures": "metals:train", "trainer": {"best_k": 2}})
    assert (surrogate.trainer.max_lr, surrogate.trainer.min_lr, surrogate.trainer.best_k) == (6e-3, 6e-5, 2)


def test_rates_are_warm_up_times_cosine_by_updates(minima: str, tmp_path: Path):
    train(settings(minima, tmp_path / "run", max_lr=0.01, min_lr=0.001, warmup_epochs=2), verbose=False)
    cosine = [0.001 + 0.009 * 0.5 * (1 + math.cos(math.pi * t / 12)) for t in range(12)]
    expected = [rate * min(1.0, (t + 1) / (2 * EPOCH)) for t, rate in enumerate(cosine)]
    np.testing.assert_allclose(column(tmp_path / "run", "train/lr"), expected, rtol=1e-12)


def test_the_optimizer_is_the_one_that_is_named(minima: str, tmp_path: Path):
    run = cloner(minima, tmp_path / "run", optimizer="nadam", optimizer_kwargs={"betas": [0.8, 0.9]}, max_lr=3e-3)
    assert isinstance(run.engine.optimizer, torch.optim.NAdam)
    assert run.engine.optimizer.param_groups[0]["betas"] == (0.8, 0.9)
    assert run.engine.rate.undampened == 3e-3


def test_the_gradient_is_clipped_and_the_norm_before_is_logged(minima: str, tmp_path: Path):
    free = cloner(minima, tmp_path / "free", grad_clip=None)
    clipped = cloner(minima, tmp_path / "clipped", grad_clip=1e-3)
    norms = [run.update()["train/grad_norm"] for run in (free, clipped)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)
    assert norms[0] > 1e-3

    def length(run: Cloner) -> float:
        return float(torch.cat([p.grad.flatten() for p in run.module.parameters() if p.grad is not None]).norm())

    assert length(free) == pytest.approx(norms[0], rel=1e-5)
    assert length(clipped) == pytest.approx(1e-3, rel=1e-3)


def test_epochs_are_logged_and_the_best_checkpoints_kept(minima: str, tmp_path: Path):
    folder = tmp_path / "run"
    train(settings(minima, folder, 18, best_k=2, log_steps=3, log_epochs=2, run_name="net"), verbose=False)
    lines = (folder / "loss.log").read_text().splitlines()
    heads = [line.partition(" |")[0] for line in lines]
    assert heads == [
        *("epoch 1/5 step 3", "epoch 2/5 step 6", "epoch 2/5 step 8", "epoch 3/5 step 9"),
        *("epoch 4/5 step 15", "epoch 4/5 step 16", lines[-1]),  # 18 updates: the last epoch is shorter
    ]
    losses = column(folder, "validation/loss")
    assert column(folder, "epoch") == [1, 2, 3, 4, 5]
    files = {path.name: load_checkpoint(path, "supervised") for path in (folder / "checkpoints").iterdir()}
    assert sorted(files) == ["net_0.pt", "net_1.pt", "net_last.pt"]
    kept = {files[name]["epoch"] for name in ("net_0.pt", "net_1.pt")}
    assert kept == {1 + k for k in np.argsort(losses)[:2]}
    best = 1 + int(np.argmin(losses))
    assert f"(epoch {best}, validation loss {min(losses):.6g})" in lines[-1]
    trained = column(folder, "train/loss")  # a row per update
    np.testing.assert_allclose(column(folder, "train/epoch_loss")[0], np.mean(trained[:4]), rtol=1e-12)
    assert (folder / "plots" / "loss.png").exists()


def test_early_stopping_goes_by_the_displacement_on_the_development_set(minima: str, tmp_path: Path):
    criteria = {"displacement": {"metric": "rmse", "patience": 2, "threshold": 10.0}}  # Å: nothing is a gain
    result = train(settings(minima, tmp_path / "run", 100, early_stoppings=criteria), verbose=False)
    assert result.updates == 3 * EPOCH
    assert not result.interrupted
    assert "(early stopping)" in (tmp_path / "run" / "loss.log").read_text().splitlines()[-1]
    assert "eval/ratio_to_bfgs" in result.metrics


def test_training_on_a_plateau_ends_below_min_lr(minima: str, tmp_path: Path):
    plateau = {"factor": 0.1, "patience": 0, "threshold": 1e9, "threshold_mode": "abs"}
    trainer = {"lr_scheduler": "plateau", "lr_scheduler_kwargs": plateau, "warmup_scheduler": None, "min_lr": 1.5e-4}
    result = train(settings(minima, tmp_path / "run", 100, **trainer), verbose=False)
    rates = column(tmp_path / "run", "train/lr")
    np.testing.assert_allclose(rates, [2e-3] * 2 * EPOCH + [2e-4] * EPOCH, rtol=1e-9)
    assert result.updates == 3 * EPOCH


def test_max_epochs_ends_the_run_and_the_cosine(minima: str, tmp_path: Path):
    result = train(settings(minima, tmp_path / "run", 100, max_epochs=2, warmup_epochs=0), verbose=False)
    assert result.updates == 2 * EPOCH
    last = 2e-5 + 1.98e-3 * 0.5 * (1 + math.cos(math.pi * 7 / 8))
    np.testing.assert_allclose(column(tmp_path / "run", "train/lr")[-1], last, rtol=1e-9)


def test_a_loss_that_is_not_finite_ends_training(minima: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = cloner(minima, tmp_path / "run")
    monkeypatch.setattr(run, "loss", lambda: (torch.tensor(torch.nan, requires_grad=True), {}))
    with pytest.raises(RelaxRLError, match=r"step 1: the loss is not finite; .*lower `max_lr`"):
        run.update()


def test_fine_tuning_moves_the_named_modules_alone(minima: str, tmp_path: Path):
    run = cloner(minima, tmp_path / "run", finetune_modules=["head"])
    before = {name: value.clone() for name, value in run.module.state_dict().items()}
    run.update()
    moved = {name.partition(".")[0] for name, value in run.module.state_dict().items() if (value != before[name]).any()}
    assert moved == {"head"}
    with pytest.raises(ConfigError, match=r"'trnk' is in no parameter's name; did you mean `trunk`\?"):
        cloner(minima, tmp_path / "other", finetune_modules=["head", "trnk"])


def test_beginning_with_a_pretrained_trunk_an_agent_or_a_checkpoint(minima: str, tmp_path: Path):
    config = TrunkEnergyConfig(trunk=TRUNK | {"forces": False, "history": False}, head_channels=4)  # type: ignore[arg-type]
    potential = build_trunk_energy(config, torch.Generator().manual_seed(7))
    save_pretrained(tmp_path / "potential" / "best", potential, [29, 47, 79])
    plain = cloner(minima, tmp_path / "plain").module.state_dict()
    begun = cloner(minima, tmp_path / "begun", ckpt_file=str(tmp_path / "potential")).module.state_dict()
    for name, value in begun.items():
        expected = potential.state_dict()[name] if name.startswith("trunk.") else plain[name]
        assert torch.equal(value, expected), name

    train(settings(minima, tmp_path / "first", ema_decay=0.9), verbose=False)
    agent = load_agent(str(tmp_path / "first" / "last")).actor.state_dict()
    for source in ("first/last", "first/checkpoints/agent_last.pt"):
        taken = cloner(minima, tmp_path / source.replace("/", "-"), ckpt_file=str(tmp_path / source))
        assert taken.updates == 0
        assert all(torch.equal(value, agent[name]) for name, value in taken.module.state_dict().items())
        judged = taken.current_agent().actor.state_dict()  # before any update, too
        assert all(torch.equal(value, agent[name]) for name, value in judged.items())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "metals",
            r"`trainer.ckpt_file`: metals: .*parameter `trunk.elements.network.0.weight` has the shape \(32, 12",
        ),
        ("metals-planner", "belongs to another architecture: it has no parameter `trunk."),
        ("metalz", r"no agent 'metalz': .*did you mean 'metals'\?"),
        ("nothing.pt", "`trainer.ckpt_file`: nothing.pt: can't read the checkpoint"),
    ],
)
def test_what_can_not_be_begun_with(minima: str, tmp_path: Path, source: str, message: str):
    with pytest.raises(CheckpointError, match=message):
        cloner(minima, tmp_path / "run", ckpt_file=source)


def test_a_run_that_began_with_a_file_is_resumed_without_it(minima: str, tmp_path: Path):
    train(settings(minima, tmp_path / "first", 4), verbose=False)
    source = tmp_path / "first" / "checkpoints" / "agent_last.pt"
    train(settings(minima, tmp_path / "second", 4, ckpt_file=str(source)), verbose=False)
    source.unlink()
    assert resume(tmp_path / "second", ("run.updates=6",), verbose=False).updates == 6


def test_a_cosine_that_is_prolonged_goes_on_along_the_longer_one(minima: str, tmp_path: Path):
    train(settings(minima, tmp_path / "run", 8), verbose=False)
    resume(tmp_path / "run", ("run.updates=16",), verbose=False)
    cosine = [2e-5 + 1.98e-3 * 0.5 * (1 + math.cos(math.pi * t / 16)) for t in range(8, 16)]
    np.testing.assert_allclose(column(tmp_path / "run", "train/lr")[8:], cosine, rtol=1e-9)


def assert_same(first: Path, second: Path) -> None:
    expected, got = (read_metrics(folder / "metrics.csv") for folder in (first, second))
    assert list(expected) == list(got)
    for name, values in expected.items():
        if "time/" not in name:
            np.testing.assert_array_equal(got[name], values, err_msg=name)
    assert (first / "loss.log").read_bytes() == (second / "loss.log").read_bytes()
    for which in ("best", "last"):
        parameters, others = (load_model(folder / which)[0] for folder in (first, second))
        assert all(torch.equal(others[name], value) for name, value in parameters.items())
    for path in sorted((first / "checkpoints").iterdir()):
        one, other = (load_checkpoint(folder / "checkpoints" / path.name, "supervised") for folder in (first, second))
        assert (one["best"], one["stopping"], one["epoch"]) == (other["best"], other["stopping"], other["epoch"])
        for part in ("model", "average"):
            assert all(torch.equal(other[part][name], value) for name, value in one[part].items()), path.name


SCHEDULES = [
    {"best_k": 2, "log_steps": 2},
    {"lr_scheduler": "plateau", "lr_scheduler_kwargs": {"factor": 0.5, "patience": 0, "threshold": 0.5}, "min_lr": 0},
    {"lr_scheduler": "cosine_restarts", "lr_scheduler_kwargs": {"T_0": 2}, "warmup_scheduler": "exponential"},
]


STOPPING = {"early_stoppings": {"displacement": {"patience": 9}}, "optimizer": "AdamW"}


@pytest.fixture(scope="module", params=range(len(SCHEDULES)), ids=["cosine", "plateau", "restarts"])
def alone(request: pytest.FixtureRequest, minima: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder, trainer = tmp_path_factory.mktemp("alone") / "run", SCHEDULES[request.param] | STOPPING
    train(settings(minima, folder, **trainer), verbose=False)
    return folder, trainer


@pytest.mark.parametrize("at", [0, 4, 6, 11])
def test_killed_at_any_update_and_resumed_the_curve_is_the_same(
    minima: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: tuple[Path, Any], at: int
):
    update = Cloner.update

    def killed(self: Cloner) -> dict[str, float]:
        if self.updates == at:
            raise SystemExit
        return update(self)

    with monkeypatch.context() as patch:
        patch.setattr(Cloner, "update", killed)
        with pytest.raises(SystemExit):
            train(settings(minima, tmp_path / "killed", **alone[1]), verbose=False)
    resume(tmp_path / "killed", verbose=False)
    assert_same(alone[0], tmp_path / "killed")


@pytest.mark.parametrize("at", [6])
def test_ctrl_c_in_the_middle_of_an_epoch_loses_no_update(
    minima: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
):
    train(settings(minima, tmp_path / "alone", log_steps=1), verbose=False)
    update = Cloner.update

    def pressed(self: Cloner) -> dict[str, float]:
        metrics = update(self)
        if self.updates == at:
            os.kill(os.getpid(), signal.SIGINT)
        return metrics

    with monkeypatch.context() as patch:
        patch.setattr(Cloner, "update", pressed)
        result = train(settings(minima, tmp_path / "pressed", log_steps=1), verbose=False)
    assert (result.interrupted, result.updates) == (True, at)
    # As the key of the section asks for it, from the same file.
    again = settings(minima, tmp_path / "pressed", log_steps=1, resume=True)
    assert train(again, verbose=False).updates == 12
    assert_same(tmp_path / "alone", tmp_path / "pressed")


def test_a_run_is_resumed_by_its_own_configuration_only(minima: str, tmp_path: Path):
    train(settings(minima, tmp_path / "run", 4), verbose=False)
    with pytest.raises(ConfigError, match=r"`trainer.max_lr` is 0.5, but the run in .* was started with 0.002"):
        train(settings(minima, tmp_path / "run", 4, resume=True, max_lr=0.5), verbose=False)
    with pytest.raises(ConfigError, match=r"override `batch_size=2`: a resumed run keeps its configuration"):
        resume(tmp_path / "run", ("batch_size=2",), verbose=False)
    assert train(settings(minima, tmp_path / "run", 8, resume=True), verbose=False).updates == 8
    with pytest.raises(CheckpointError, match="not a run folder"):
        train(settings(minima, tmp_path / "nowhere", 8, resume=True), verbose=False)


class Still(torch.nn.Module):
    """An actor that does not move, but for a part of the way if there is one."""

    def __init__(self, way: torch.Tensor | None = None) -> None:
        super().__init__()
        self.way = way

    def forward(self, graph: Any) -> torch.Tensor:
        """Displacements, Å."""
        return torch.zeros_like(graph.positions) if self.way is None else self.way


def way_of(run: Cloner | ConstraintTrainer) -> torch.Tensor:
    """From the held-out starts to their minima, without the drift of each cell of four atoms."""
    assert run.held_out is not None
    way = run.held_out.ends - run.held_out.graph.positions
    return way - torch.cat([part.mean(0, keepdim=True).expand_as(part) for part in way.split(4)])


def test_the_validation_of_cloning_by_value(minima: str, tmp_path: Path):
    run = cloner(minima, tmp_path / "run")
    way = way_of(run)
    still = run.validation(Still())
    assert still.targets["displacement"].mae == pytest.approx(float(way.abs().mean()), rel=1e-9)
    assert still.targets["displacement"].rmse == pytest.approx(float(way.square().mean().sqrt()), rel=1e-9)
    # Logarithm of the squared relative error: a tenth of the error is 2 log 10 less.
    most = run.validation(Still(0.9 * way))
    assert still.loss - most.loss == pytest.approx(2 * math.log(10), rel=0.03)  # the loss has a floor


def test_the_validation_of_constraints_by_value(minima: str, tmp_path: Path):
    values = settings(minima, tmp_path / "run") | {"method": "constraints", "expert": "teleport"}
    config = load_run_config(values)
    assert isinstance(config, ConstraintsConfig)
    run = ConstraintTrainer(config, RunFolder.create(str(tmp_path / "run"), 0))
    assert run.held_out is not None
    graph = run.held_out.graph
    still = run.validation(Still())
    assert graph.forces is not None
    assert graph.energy is not None
    above = (graph.energy - run.held_out.lowest) / graph.atoms_per_graph
    assert still.targets["forces"].mae == pytest.approx(float(graph.forces.abs().mean()), rel=1e-9)
    assert still.targets["energy"].mae == pytest.approx(float(above.mean()), rel=1e-9)
    there = run.validation(Still(way_of(run)))
    assert there.targets["displacement"].mae < 1e-9
    assert there.loss < still.loss


def test_the_validation_of_a_surrogate_that_is_exact(minima: str, tmp_path: Path):
    values = settings(minima, tmp_path / "run") | {"method": "surrogate"}
    del values["actor"]
    config = load_run_config(values)
    assert isinstance(config, SurrogateConfig)
    run = SurrogateTrainer(config, RunFolder.create(str(tmp_path / "run"), 0))
    assert run.held_out is not None
    assert isinstance(run.potential, TorchPotential)
    exact = run.validation(run.potential)  # type: ignore[arg-type]  # forces are all that is asked of it
    assert exact.loss == pytest.approx(math.log(config.accuracy**2), rel=1e-6)
    assert exact.targets["forces"].mae < 1e-9
    assert run.validation(run.module).loss > exact.loss


def test_a_length_that_epochs_cut_is_told(minima: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = cloner(minima, tmp_path / "cut", updates=12, max_epochs=1)
    cut.progress = TrainingProgress("cloning")
    cut.run()
    assert f"{EPOCH} updates, not the 12 of `run.updates`" in " ".join(capsys.readouterr().err.split())
    assert cut.updates == EPOCH
    whole = cloner(minima, tmp_path / "whole", updates=4, max_epochs=1)
    whole.progress = TrainingProgress("cloning")
    whole.run()
    assert "run.updates" not in capsys.readouterr().err
