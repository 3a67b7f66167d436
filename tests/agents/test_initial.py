"""Training that goes on from an agent: same parameters, only the heads learn, and refusals that say why."""

import numpy as np
import pytest
import torch

from relaxrl.agents import TD3, Agent, Sample, Schedule, TD3Config, start_from, train_only_heads
from relaxrl.errors import ConfigError
from relaxrl.nn import (
    CriticConfig,
    DirectActorConfig,
    HessianActorConfig,
    PolicyHeadsConfig,
    TrunkConfig,
    build_actor,
    build_critic,
)

SIZE = {"layers": 2, "channels": 4, "message_channels": 4, "cutoff": 4.0}
TRUNK = TrunkConfig(**SIZE, forces=False, history=False)


def actor(seed: int, heads: bool, **changes):
    config = HessianActorConfig(trunk=TRUNK, policy_heads=PolicyHeadsConfig() if heads else None, **changes)
    return build_actor(config, torch.Generator().manual_seed(seed))


def test_an_actor_with_heads_starts_as_the_agent_without(make_graph):
    agent = Agent(actor(0, heads=False))
    ours = actor(1, heads=True, env_input_dim=3)
    graph = make_graph([4, 6]).replace(features=torch.randn(2, 3).double())
    assert not torch.equal(ours(graph), agent.actor(graph))
    start_from(ours, agent, "theirs")
    assert torch.equal(ours(graph), agent.actor(graph))


def test_heads_are_taken_over_where_both_have_them(make_graph):
    theirs = actor(0, heads=True)
    with torch.no_grad():
        theirs.policy_heads.last.bias.add_(0.5)
    ours = actor(1, heads=True)
    start_from(ours, Agent(theirs), "theirs")
    graph = make_graph([5])
    assert ours.decisions(graph).gate.item() == theirs.decisions(graph).gate.item() != 1.0


@pytest.mark.parametrize(
    ("ours", "message"),
    [
        (lambda: actor(1, heads=True, stiffness=8.0), r"`actor.stiffness` is 8.0, the agent's 6.0"),
        (
            lambda: build_actor(DirectActorConfig(trunk=TrunkConfig(**SIZE))),
            r"`actor.kind` is direct, the agent's hess",
        ),
    ],
)
def test_another_architecture_is_refused(ours, message):
    with pytest.raises(ConfigError, match=message):
        start_from(ours(), Agent(actor(0, heads=False)), "theirs")


def test_heads_that_would_be_lost_are_named():
    with pytest.raises(ConfigError, match=r"`policy_heads.norm.weight`.*give `actor.policy_heads`"):
        start_from(actor(1, heads=False), Agent(actor(0, heads=True)), "theirs")
    with pytest.raises(ConfigError, match=r"set `actor.policy_heads=\{\}`"):
        train_only_heads(actor(0, heads=False))


def sample(make_transition, seed):
    return Sample(make_transition([4, 6], seed=seed), np.arange(2), np.ones(2))


@pytest.mark.parametrize("q_weight", [0.0, 1.0])
def test_td3_on_the_heads_changes_nothing_else(make_transition, q_weight):
    ours = actor(0, heads=True)
    train_only_heads(ours)
    critic = build_critic(CriticConfig(trunk=TrunkConfig(**SIZE)), torch.Generator().manual_seed(0))
    config = TD3Config(policy_delay=1, q_weight=Schedule(start=q_weight), bc_weight=Schedule(start=1.0))
    learner = TD3(ours, critic, config)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    noise = torch.Generator().manual_seed(0)
    for _ in range(3):
        learner.update(sample(make_transition, 0), sample(make_transition, 1), noise)
    changed = {name for name, value in ours.state_dict().items() if not torch.equal(value, before[name])}
    assert {"policy_heads.last.weight", "policy_heads.last.bias", "policy_heads.hidden.weight"} <= changed
    assert all(name.startswith("policy_heads.") for name in changed)
