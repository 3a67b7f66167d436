"""Saved agents act as before, and whatever else lies in a folder is refused with a reason."""

import argparse
import json
import math

import pytest
import torch

import relaxrl.agents.registry
from relaxrl.agents import Agent, find_agent, load_agent, shipped_agents
from relaxrl.cli import agents as command
from relaxrl.errors import CheckpointError, RelaxRLError
from relaxrl.nn import DirectActorConfig, HessianActorConfig, TrunkConfig, build_actor

SMALL = {"layers": 2, "channels": 4, "message_channels": 4, "cutoff": 4.0}
CONFIGS = {
    "direct": DirectActorConfig(trunk=TrunkConfig(**SMALL), max_step=0.3),
    "hessian": HessianActorConfig(trunk=TrunkConfig(**SMALL, forces=False, history=False)),
}


def make_agent(kind: str = "direct", **metadata) -> Agent:
    return Agent(build_actor(CONFIGS[kind], torch.Generator().manual_seed(0)), 0.3, metadata)


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A package that ships two agents."""
    monkeypatch.setattr(relaxrl.agents.registry, "SHIPPED", tmp_path / "shipped")
    make_agent(description="For metals.", feature_names=[]).save(tmp_path / "shipped" / "metals")
    make_agent("hessian", description="For all else.").save(tmp_path / "shipped" / "universal")
    return tmp_path / "shipped"


def run_command(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["agents", *arguments])
    return args.run(args)


@pytest.mark.parametrize("kind", CONFIGS)
def test_saved_and_loaded_agents_act_the_same(kind, tmp_path, make_graph):
    graph = make_graph([4, 2])
    agent = make_agent(kind, feature_names=["density"], seed=3)
    agent.save(tmp_path)
    loaded = Agent.load(tmp_path)
    assert torch.equal(agent.act(graph), loaded.act(graph))
    assert loaded.metadata == {"feature_names": ["density"], "seed": 3}
    assert loaded.feature_names == ("density",)
    assert loaded.max_step == 0.3


def test_precision_survives(tmp_path, make_graph):
    agent = make_agent()
    agent.actor.double()
    agent.save(tmp_path)
    loaded = Agent.load(tmp_path)
    assert next(loaded.actor.parameters()).dtype == torch.float64
    assert torch.equal(agent.act(make_graph([3])), loaded.act(make_graph([3])))


def test_act_is_double_limited_by_length_and_without_gradient(make_graph):
    agent = make_agent()
    agent.max_step = 0.05
    displacement = agent.act(make_graph([4, 3]))
    assert displacement.dtype == torch.float64
    assert displacement.shape == (7, 3)
    assert not displacement.requires_grad
    assert displacement.norm(dim=-1).max().item() == pytest.approx(0.05)


def test_act_never_gives_nan(make_graph):
    agent, graph = make_agent(), make_graph([3])
    broken = graph.forces.clone()
    broken[0, 0] = math.nan
    with pytest.raises(RelaxRLError, match="calculator"):
        agent.act(graph.replace(forces=broken))
    with torch.no_grad():
        next(agent.actor.parameters()).fill_(math.nan)
    with pytest.raises(RelaxRLError, match="not finite"):
        agent.act(graph)
    with pytest.raises(ValueError, match="forces"):
        make_agent().act(graph.replace(forces=None))


def test_damaged_or_foreign_agents_are_refused(tmp_path):
    make_agent().save(tmp_path)
    path = tmp_path / "model.json"
    good = json.loads(path.read_text())

    def refused(match: str, **changes) -> None:
        path.write_text(json.dumps(good | {"meta": good["meta"] | changes}))
        with pytest.raises(CheckpointError, match=match):
            Agent.load(tmp_path)

    actor = good["meta"]["actor"]
    refused("unknown kind of actor 'quantum'", actor=actor | {"kind": "quantum"})
    refused("not an agent", actor={})
    refused("don't fit", actor=actor | {"head_channels": 7})
    refused("unknown key", actor=actor | {"colour": "red"})
    refused("not an agent", max_step="far")
    with pytest.raises(TypeError, match="direct, hessian"):
        Agent(torch.nn.Linear(1, 1)).save(tmp_path)
    with pytest.raises(ValueError, match="max_step"):
        Agent(make_agent().actor, max_step=0.0)


def test_agents_by_name_folder_and_run(shipped, tmp_path):
    assert list(shipped_agents()) == ["metals", "universal"]
    assert find_agent("metals") == shipped / "metals"
    run = tmp_path / "run"
    make_agent(seed=5).save(run / "best")
    assert load_agent(run).metadata["seed"] == 5
    assert find_agent(run / "best") == run / "best"
    assert find_agent(str(run / "best" / "model.json")) == run / "best"


@pytest.mark.usefixtures("shipped")
def test_unknown_names_and_empty_folders_say_what_was_expected(tmp_path):
    with pytest.raises(CheckpointError, match=r"did you mean 'metals'\?"):
        load_agent("metal")
    with pytest.raises(CheckpointError, match="metals, universal"):
        load_agent("xyzzy")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="best evaluation"):
        load_agent(tmp_path / "empty")


def test_command_lists_and_describes(shipped, capsys):
    assert run_command() == 0
    assert capsys.readouterr().out == "metals     For metals.\nuniversal  For all else.\n"
    assert run_command("metals") == 0
    described = capsys.readouterr().out
    assert "DirectActor" in described
    assert "For metals." in described
    assert run_command(str(shipped / "universal"), "--json") == 0
    assert json.loads(capsys.readouterr().out)["actor"] == "HessianActor"
    with pytest.raises(CheckpointError, match="did you mean 'metals'"):
        run_command("metls")


def test_command_without_shipped_agents(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(relaxrl.agents.registry, "SHIPPED", tmp_path)
    assert run_command() == 0
    assert "relaxrl train" in capsys.readouterr().out
