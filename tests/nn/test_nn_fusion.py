"""Environment features: absent means absent, present means an invariant gate or a tail after the geometry."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from ase import Atoms
from e3nn import o3

from relaxrl.graph import AtomGraph
from relaxrl.nn import CriticConfig, DirectActorConfig, TrunkConfig, build_actor, build_critic

SMALL = TrunkConfig(layers=2, cutoff=4.5, channels=6, message_channels=4)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def test_without_features_actor_and_critic_have_no_gate_and_no_tail() -> None:
    actor = build_actor(DirectActorConfig(trunk=SMALL))
    critic = build_critic(CriticConfig(trunk=SMALL))
    assert actor.environment_gate is None
    assert critic.first.tail is None
    names = [*actor.state_dict(), *critic.state_dict()]
    assert not [name for name in names if "gate" in name or "tail" in name]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_parameters_give_bit_identical_outputs_with_and_without_features(
    crystal: Callable[..., Atoms], graph_of: Callable[..., AtomGraph], dtype: torch.dtype
) -> None:
    graph = graph_of(crystal(0))
    plain = build_actor(DirectActorConfig(trunk=SMALL), generator()).to(dtype)
    gated = build_actor(DirectActorConfig(trunk=SMALL, env_input_dim=2), generator()).to(dtype)
    state, wanted = gated.state_dict(), plain.state_dict()
    for name, value in wanted.items():
        assert torch.equal(state[name], value)
    assert torch.equal(plain(graph), gated(graph))
    assert torch.equal(plain(graph), plain(graph.replace(features=None)))

    action = 0.1 * graph.forces
    critics = [build_critic(CriticConfig(trunk=SMALL, env_input_dim=k), generator()).first.to(dtype) for k in (0, 2)]
    assert torch.equal(critics[0](graph, action), critics[1](graph, action))


def test_the_plain_critic_returns_the_mean_of_its_atoms(
    crystal: Callable[..., Atoms], graph_of: Callable[..., AtomGraph]
) -> None:
    graph = graph_of(crystal(1))
    critic = build_critic(CriticConfig(trunk=SMALL)).first.double()
    values = critic.per_atom(graph, 0.1 * graph.forces)
    assert values.shape == (graph.n_atoms,)
    assert torch.allclose(critic(graph, 0.1 * graph.forces), values.mean(), atol=1e-14)


def test_the_gate_starts_at_exactly_one_and_multiplies(
    crystal: Callable[..., Atoms], graph_of: Callable[..., AtomGraph], shake: Callable[[torch.nn.Module], None]
) -> None:
    graph = graph_of(crystal(2))
    graph = graph.replace(forces=1e-3 * graph.forces)  # far from the limit of a step, where the gate is a plain factor
    actor = build_actor(DirectActorConfig(trunk=SMALL, env_input_dim=2), generator()).double()
    assert torch.equal(actor.gate(graph), torch.ones(1, dtype=torch.float64))
    before = actor(graph)
    assert actor.environment_gate is not None
    shake(actor.environment_gate)
    gate = actor.gate(graph)
    assert 0 < gate < 2
    assert gate != 1
    assert torch.allclose(actor(graph), gate * before, rtol=1e-6)


def test_a_trained_gate_still_rotates_with_the_crystal_and_never_reaches_the_trunk(
    actor: torch.nn.Module, crystal: Callable[..., Atoms], graph_of: Callable[..., AtomGraph]
) -> None:
    graph = graph_of(crystal(3))
    rotation = o3.rand_matrix(dtype=torch.float64)
    vectors = ("positions", "cell", "forces", "previous_displacement", "previous_forces")
    turned = graph.replace(**{name: getattr(graph, name) @ rotation.T for name in vectors})
    assert actor.gate(turned) == actor.gate(graph) != 1
    assert torch.allclose(actor(turned), actor(graph) @ rotation.T, rtol=0, atol=1e-10)
    inputs = actor._inputs(graph)
    other = actor._inputs(graph.replace(features=graph.features + 1))
    assert torch.equal(actor.trunk(inputs).node_features, actor.trunk(other).node_features)


def test_missing_or_wrong_features_are_named(crystal: Callable[..., Atoms], graph_of: Callable[..., AtomGraph]) -> None:
    graph = graph_of(crystal(4))
    actor = build_actor(DirectActorConfig(trunk=SMALL, env_input_dim=3))
    with pytest.raises(ValueError, match=r"env_input_dim=3.*got features of shape \(1, 2\)"):
        actor(graph)
    with pytest.raises(ValueError, match="got none"):
        actor(graph.replace(features=None))
