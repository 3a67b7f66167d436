"""Stage (c) end to end on a few copper cells: an agent gets trained heads, or a critic that chooses."""

from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.emt import EMT

from relaxrl import RLOptimizer
from relaxrl.agents import Agent, load_agent
from relaxrl.errors import ConfigError
from relaxrl.io import graph_from_atoms
from relaxrl.nn import HessianActorConfig, RankedActor, TrunkConfig, build_actor
from relaxrl.training import load_run_config, resume, train

SIZE = {"layers": 2, "cutoff": 4.0, "channels": 4, "message_channels": 4}
FEATURES = ["fmax", "gain", "slope"]


@pytest.fixture(scope="module")
def crystals(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("crystals") / "cells.extxyz"
    cells = [bulk(symbol, cubic=True) for symbol in ("Cu", "Ag")]
    for atoms in cells:
        atoms.info = {"relaxrl_kind": "minimum", "relaxrl_parent": str(atoms.symbols)}
    ase.io.write(path, cells)
    return str(path)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agent")
    config = HessianActorConfig(trunk=TrunkConfig(**SIZE, forces=False, history=False))
    Agent(build_actor(config, torch.Generator().manual_seed(5))).save(folder)
    return folder


def configuration(crystals: str, first: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "structures": crystals,
        "init_agent": str(first),
        "evaluation": {"structures": crystals, "count": 2, "steps": 3, "every": 1000},
        "env": {"fmax": 0.01, "max_steps": 6, "features": FEATURES},
        "actor": {"kind": "hessian", "trunk": SIZE},
        "critic": {"trunk": SIZE, "head_channels": 8, "env_input_dim": 3},
        "expert": {"name": "teleport", "probability": {"start": 0.3}},
        "replay": {"batch_size": 4},
        "curriculum": {"advance": "off"},
        "warm_up": {"expert_steps": 4},
        "run": {"dir": str(folder), "n_envs": 2, "updates_per_step": 0.25, "updates": 4},
    } | changes


def test_heads_are_trained_on_top_of_an_agent(crystals: str, first: Path, tmp_path: Path) -> None:
    actor = {"kind": "hessian", "trunk": SIZE, "env_input_dim": 3, "policy_heads": {"channels": 8}}
    train(configuration(crystals, first, tmp_path / "run", actor=actor, trained="heads"), verbose=False)
    agent, before = load_agent(tmp_path / "run" / "last"), load_agent(first)
    assert agent.feature_names == tuple(FEATURES)
    assert agent.metadata["init_agent"] == str(first)
    ours = agent.actor.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in before.actor.state_dict().items())
    assert ours["policy_heads.last.bias"].abs().min() > 0
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    atoms.calc = EMT()
    optimizer = RLOptimizer(atoms, agent=agent, logfile=None)
    assert optimizer.run(fmax=0.05, steps=50)


def test_candidates_are_ranked_on_top_of_an_agent_and_resume_is_exact(
    crystals: str, first: Path, tmp_path: Path
) -> None:
    candidates = {"gates": [0.7], "secant": True}

    def run(name: str, updates: int) -> dict[str, Any]:
        changes = {"candidates": candidates, "expert": {"probability": {"start": 0.0}}}
        content = configuration(crystals, first, tmp_path / name, **changes)
        content["warm_up"], content["run"]["updates"] = {"expert_steps": 0, "agent_steps": 8}, updates
        return content

    train(run("whole", 4), verbose=False)
    train(run("halves", 2), verbose=False)
    resume(tmp_path / "halves", ("run.updates=4",), verbose=False)
    whole, halves = (load_agent(tmp_path / name / "last") for name in ("whole", "halves"))
    assert isinstance(whole.actor, RankedActor)
    ours = whole.actor.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in halves.actor.state_dict().items())
    base = load_agent(first).actor.state_dict()
    assert all(torch.equal(ours[f"base.{name}"], value) for name, value in base.items())
    graph = graph_from_atoms(bulk("Cu", cubic=True)).replace(
        forces=torch.from_numpy(np.random.default_rng(0).normal(size=(4, 3))), features=torch.zeros(1, 3).double()
    )
    made, offered = whole.act(graph), whole.actor.candidates(graph)
    assert any(torch.allclose(made, one) for one in offered)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trained": "heads"}, r"set `actor.policy_heads: \{\}`"),
        ({"candidates": {}, "init_agent": None}, "give `init_agent`"),
    ],
)
def test_what_makes_no_sense_is_refused(
    crystals: str, first: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_run_config(configuration(crystals, first, tmp_path / "run", **changes))


def test_the_recipe_is_read() -> None:
    config = load_run_config("configs/critic.yaml")
    assert config.trained == "heads"
    assert config.init_agent == "metals"
