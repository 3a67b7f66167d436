"""Training of the surrogate on a few cells, and the agent that plans in it."""

from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from relaxrl import RLOptimizer
from relaxrl.agents import load_agent
from relaxrl.checkpoint import load_model
from relaxrl.errors import CheckpointError, ConfigError
from relaxrl.io import graph_from_atoms
from relaxrl.metrics import read_metrics
from relaxrl.nn import PlanningActor, TrunkEnergyModel, build_energy_model, save_pretrained
from relaxrl.training import RunFolder, load_run_config, resume, train
from relaxrl.training.surrogate import SurrogateTrainer
from relaxrl.training.surrogate_config import SurrogateConfig


@pytest.fixture(scope="module")
def minima(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("crystals") / "cells.extxyz"
    ase.io.write(path, [bulk(symbol, cubic=True) for symbol in ("Cu", "Ag", "Au")])
    return str(path)


def configuration(minima: str, folder: Path, **run: Any) -> dict[str, Any]:
    return {
        "method": "surrogate",
        "structures": minima,
        "kind": "minimum",
        "planning": {"energy": {"densities": 2, "pairs": 2, "hidden": 16, "element_channels": 8}},
        "batch_size": 6,
        "updates_per_epoch": 5,
        "unroll_from": 0.5,
        "evaluation": {"structures": minima, "count": 3, "steps": 30, "every": 24},
        "run": {"dir": str(folder), "updates": 16, "log_every": 12} | run,
    }


def trainer_of(settings: dict[str, Any], folder: Path) -> SurrogateTrainer:
    config = load_run_config(settings)
    assert isinstance(config, SurrogateConfig)
    return SurrogateTrainer(config, RunFolder.create(str(folder), 0))


@pytest.fixture(scope="module")
def trained(minima: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    settings = configuration(minima, folder, updates=250, log_every=120)
    settings |= {"trainer": {"max_lr": 0.01}, "evaluation": settings["evaluation"] | {"every": 1500}}
    return train(settings, verbose=False).folder


def test_learns_to_end_relaxations_in_few_evaluations(trained: Path) -> None:
    logged = read_metrics(trained / "metrics.csv")
    errors = np.array(logged["train/displacement_error"])
    errors = errors[np.isfinite(errors)]
    assert errors[-1] < 0.5 * errors[0]
    ratios = np.array(logged["eval/ratio_to_bfgs"])
    ratios = ratios[np.isfinite(ratios)]
    assert ratios.min() < 0.75 * ratios[0]  # the first is that of the quasi-Newton fallback
    assert np.nanmin(logged["eval/handed_over"]) == 0.0


def test_the_agent_is_used_like_any_other(trained: Path) -> None:
    agent = load_agent(trained)
    assert isinstance(agent.actor, PlanningActor)
    assert agent.metadata["method"] == "surrogate"
    assert next(agent.actor.parameters()).dtype == torch.float64
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    atoms.calc = EMT()
    optimizer = RLOptimizer(atoms, agent=trained, logfile=None)
    assert optimizer.run(fmax=0.01)
    assert optimizer.agent_in_charge
    assert optimizer.force_evaluations <= 6


def test_the_policys_reach_is_the_agents_unless_it_is_given() -> None:
    class Far:
        """Sends the first atom 1.4 Å away, 2 Å at most."""

        max_step = 2.0

        def act(self, graph: Any) -> torch.Tensor:
            move = torch.zeros_like(graph.positions)
            move[0, 0] = 1.4
            return move

    class Recorded(EMT):
        """Keeps where it was asked."""

        def calculate(self, atoms: Any = None, *arguments: Any) -> None:
            super().calculate(atoms, *arguments)
            asked.append(atoms.positions.copy())

    reached = []
    for maxstep in (None, 0.3):
        asked: list[Any] = []
        atoms = Atoms("Cu2", [[0, 0, 0], [4.0, 0, 0]], calculator=Recorded())
        RLOptimizer(atoms, agent=Far(), maxstep=maxstep, logfile=None).run(fmax=1e-6, steps=1)
        reached.append(float(np.abs(asked[1] - asked[0]).max()))
    assert reached == pytest.approx([1.4, 0.3])


def test_the_error_of_the_minimum_is_that_of_the_planned_step(minima: str, tmp_path: Path) -> None:
    """Two evaluations and a matrix tell where planning ends, as far as the error is small."""
    trainer = trainer_of(configuration(minima, tmp_path / "run"), tmp_path / "run")
    model = trainer.potential  # as its own surrogate, its forces wrong by a little
    graph = graph_from_atoms(trainer.minima[0])
    residual = 1e-4 * torch.randn(graph.positions.shape, generator=torch.Generator().manual_seed(1)).double()
    residual -= residual.mean(0)
    error = trainer._displacement_error([0], residual, graph)
    forces = model.evaluate(graph.replace(positions=graph.positions + error)).forces
    torch.testing.assert_close(forces, -residual, rtol=1e-2, atol=1e-7)


def test_without_a_hessian_of_the_calculator_the_models_own_serves(minima: str, tmp_path: Path) -> None:
    settings = configuration(minima, tmp_path / "run") | {"calculator": "ase.calculators.emt:EMT"}
    trainer = trainer_of(settings, tmp_path / "run")
    assert np.isfinite(trainer.update()["train/surrogate_loss"])
    assert not trainer._factors


def test_a_pretrained_potential_is_an_agent_and_a_beginning(minima: str, tmp_path: Path) -> None:
    trunk = {"layers": 2, "cutoff": 4.0, "channels": 2, "message_channels": 2, "radial_functions": 2}
    energy = {"kind": "trunk", "head_channels": 4, "trunk": trunk}
    settings = configuration(minima, tmp_path / "run") | {"planning": {"energy": energy}, "batch_size": 2}
    config = load_run_config(settings)
    assert isinstance(config, SurrogateConfig)
    model = build_energy_model(config.planning.energy, torch.Generator().manual_seed(9))
    assert isinstance(model, TrunkEnergyModel)
    save_pretrained(tmp_path / "pretrained", model, [29, 47, 79], {"method": "pretraining"})

    agent = load_agent(tmp_path / "pretrained")
    graph = graph_from_atoms(bulk("Cu", cubic=True)).replace(forces=torch.full((4, 3), 0.01, dtype=torch.float64))
    graph = graph.replace(forces=graph.forces * torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]))
    assert agent.metadata == {"method": "pretraining"}
    assert 0 < float(agent.act(graph).abs().max()) <= agent.max_step
    agent.save(tmp_path / "agent")
    assert torch.equal(load_agent(tmp_path / "agent").act(graph), agent.act(graph))

    trainer = trainer_of(settings | {"trainer": {"ckpt_file": str(tmp_path / "pretrained")}}, tmp_path / "run")
    assert torch.equal(trainer.module.state_dict()["readout.3.weight"], model.state_dict()["readout.3.weight"])
    assert np.isfinite(trainer.update()["train/surrogate_loss"])
    with pytest.raises(CheckpointError, match="architecture: it has no parameter `embedding"):
        trainer_of(
            configuration(minima, tmp_path / "b") | {"trainer": {"ckpt_file": str(tmp_path / "pretrained")}},
            tmp_path / "b",
        )


def test_more_steps_than_one_begin_where_the_ones_before_lead(
    minima: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(configuration(minima, tmp_path / "run") | {"unroll": 3}, tmp_path / "run")
    calls = []
    evaluate = trainer.potential.evaluate
    monkeypatch.setattr(trainer.potential, "evaluate", lambda graph: calls.append(graph) or evaluate(graph))
    trainer.update()
    assert len(calls) == 1
    trainer.engine.step = 8
    calls.clear()
    assert "train/displacement_error_last" in trainer.update()
    assert len(calls) == 3


def test_a_run_in_two_parts_equals_one_in_a_single_part(minima: str, tmp_path: Path) -> None:
    train(configuration(minima, tmp_path / "straight", steps=96), verbose=False)
    train(configuration(minima, tmp_path / "parts", steps=48), verbose=False)
    assert resume(tmp_path / "parts", ("run.steps=96",), verbose=False).t_total == 96
    expected, got = (read_metrics(tmp_path / name / "metrics.csv") for name in ("straight", "parts"))
    for name, values in expected.items():
        if "time/" not in name:
            np.testing.assert_array_equal(got[name], values, err_msg=name)
    parameters, others = (load_model(tmp_path / name / "last")[0] for name in ("straight", "parts"))
    assert all(torch.equal(others[name], tensor) for name, tensor in parameters.items())


@pytest.mark.parametrize(
    ("key", "value"), [("force_weight", 2), ("accuracy", 0), ("unroll", 0), ("unroll_from", -1), ("planning", {"a": 1})]
)
def test_wrong_values_are_named(minima: str, tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=key):
        load_run_config(configuration(minima, tmp_path / "run") | {key: value})
