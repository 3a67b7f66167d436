"""The loop on a handful of copper cells: identical after a resume, orderly after an interruption."""

import os
import signal
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from relaxrl.checkpoint import load_model
from relaxrl.errors import CheckpointError, ConfigError
from relaxrl.metrics import read_metrics
from relaxrl.training import RunFolder, Trainer, resume, train


@pytest.fixture(scope="module")
def crystals(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("crystals") / "cells.extxyz"
    cells: list[Atoms] = []
    for k, symbol in enumerate(("Cu", "Ag", "Au", "Cu", "Ag", "Au")):
        atoms = bulk(symbol, cubic=True).repeat((1 + k // 3, 1, 1))
        atoms.info = {"relaxrl_kind": "minimum", "relaxrl_parent": f"{symbol}{k}"}
        cells.append(atoms)
    ase.io.write(path, cells)
    return str(path)


def configuration(crystals: str, folder: Path, **run: Any) -> dict[str, Any]:
    trunk = {"layers": 2, "cutoff": 4.0, "channels": 4, "message_channels": 4}
    return {
        "structures": crystals,
        "evaluation": {"structures": crystals, "count": 3, "steps": 4, "every": 32},
        "env": {"fmax": 0.01, "max_steps": 6},
        "actor": {"trunk": trunk, "head_channels": 8},
        "critic": {"trunk": trunk, "head_channels": 8},
        "expert": {"probability": {"start": 0.3}, "takeover": {"start": 0.2}},
        "replay": {"batch_size": 6, "n_step": 2, "priority": {}},
        "warm_up": {"expert_steps": 8, "cloning_updates": 2},
        "curriculum": {"limits": [6], "episodes": [4]},
        "run": {"dir": str(folder), "n_envs": 4, "updates_per_step": 0.25, "log_every": 16} | run,
    }


def columns(folder: Path) -> dict[str, list[float]]:
    return {name: values for name, values in read_metrics(folder / "metrics.csv").items() if "time/" not in name}


class Killed(BaseException):
    """What no handler catches, as kill -9."""


def train_and_die(configuration: dict[str, Any], at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is gone at this step, without a checkpoint there."""
    learn = Trainer._learn

    def killed(self: Trainer) -> None:
        learn(self)
        if self.t_total == at:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_learn", killed)
        with pytest.raises(Killed):
            train(configuration, verbose=False)


def test_a_resumed_run_equals_one_that_was_never_interrupted(
    crystals: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    straight = train(configuration(crystals, tmp_path / "straight", steps=96), verbose=False)
    train_and_die(configuration(crystals, tmp_path / "killed", steps=96), 56, monkeypatch)
    with (tmp_path / "killed" / "metrics.csv").open("a") as file:
        file.write("56,2")  # half a line
    resumed = resume(tmp_path / "killed", verbose=False)
    expected, got = columns(tmp_path / "straight"), columns(tmp_path / "killed")
    assert list(expected) == list(got)
    for name, values in expected.items():
        np.testing.assert_array_equal(got[name], values, err_msg=name)
    assert straight.metrics == resumed.metrics
    first, second = (load_model(tmp_path / name / "last")[0] for name in ("straight", "killed"))
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())


def test_two_runs_of_one_seed_are_equal_and_of_two_seeds_are_not(crystals: str, tmp_path: Path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(configuration(crystals, tmp_path / name, steps=32, seed=seed), verbose=False)
    first, second, other = (columns(tmp_path / name) for name in "abc")
    for name, values in first.items():
        np.testing.assert_array_equal(second[name], values, err_msg=name)
    assert other["eval/fmax_final"] != first["eval/fmax_final"]


def test_the_warm_up_is_told_where_there_is_no_bar(crystals: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    train(configuration(crystals, tmp_path / "run", steps=8))
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("warming up: 8 steps of the expert, 2 updates that imitate it, 0 steps of the agent")
    assert told[1].startswith("t_total 8")


def test_a_run_folder_has_all_that_is_promised(crystals: str, tmp_path: Path):
    result = train(configuration(crystals, tmp_path / "run", steps=32), verbose=False)
    names = {path.name for path in result.folder.iterdir()}
    assert names >= {
        "config.yaml",
        "versions.json",
        "metrics.csv",
        "tensorboard",
        "plots",
        "checkpoints",
        "best",
        "last",
    }
    assert len(list((result.folder / "plots").glob("*.png"))) == 5
    assert columns(result.folder)["t_total"][0] == 8  # the expert's steps count
    assert result.best == min(columns(result.folder)["eval/ratio_to_bfgs"])


def test_a_run_starts_in_a_folder_of_its_own(crystals: str, tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty, and a run starts at step 0"):
        train(configuration(crystals, tmp_path, steps=32), verbose=False)


def test_ctrl_c_ends_in_order_and_leaves_a_checkpoint(crystals: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    collect = Trainer._collect

    def interrupted(self: Trainer, expert_only: bool = False) -> None:
        collect(self, expert_only)
        if self.t_total == 20:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Trainer, "_collect", interrupted)
    result = train(configuration(crystals, tmp_path / "run", steps=64), verbose=False)
    assert (result.interrupted, result.t_total) == (True, 20)
    monkeypatch.undo()
    assert resume(tmp_path / "run", verbose=False).t_total == 64
    train(configuration(crystals, tmp_path / "straight", steps=64), verbose=False)
    expected, got = columns(tmp_path / "straight"), columns(tmp_path / "run")
    different = {
        name: (got[name], values)
        for name, values in expected.items()
        if not np.array_equal(got[name], values, equal_nan=True)
    }
    assert different == {}


@pytest.mark.parametrize("at", [4, 12])  # the expert acts; the untrained agent does
def test_ctrl_c_while_warming_up_loses_nothing(crystals: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int):
    settings = [configuration(crystals, tmp_path / name, steps=32) for name in ("straight", "run")]
    for setting in settings:
        setting["warm_up"]["agent_steps"] = 8
    collect = Trainer._collect

    def interrupted(self: Trainer, expert_only: bool = False) -> None:
        collect(self, expert_only)
        if self.t_total == at:
            os.kill(os.getpid(), signal.SIGINT)

    train(settings[0], verbose=False)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_collect", interrupted)
        assert train(settings[1], verbose=False).t_total == at
    resume(tmp_path / "run", verbose=False)
    resume(tmp_path / "run", verbose=False)  # a finished run: adds nothing
    expected, got = columns(tmp_path / "straight"), columns(tmp_path / "run")
    assert list(expected) == list(got)
    for name, values in expected.items():
        np.testing.assert_array_equal(got[name], values, err_msg=name)


def test_only_the_length_of_a_resumed_run_may_change(tmp_path: Path):
    with pytest.raises(ConfigError, match="a resumed run keeps its configuration"):
        resume(tmp_path, ("td3.gamma=0.5",))
    with pytest.raises(CheckpointError, match="not a run folder"):
        resume(tmp_path)


def test_a_damaged_checkpoint_is_named(crystals: str, tmp_path: Path):
    train(configuration(crystals, tmp_path / "run", steps=32), verbose=False)
    newest = RunFolder(tmp_path / "run").checkpoints()[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="truncated or foreign"):
        resume(tmp_path / "run", verbose=False)
