"""Gate and trust radius: no effect before training, invariant, and a step that keeps its direction."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from ase import Atoms
from e3nn import o3

from relaxrl.agents import Agent, load_agent
from relaxrl.graph import AtomGraph
from relaxrl.nn import Actor, DirectActorConfig, HessianActorConfig, PolicyHeadsConfig, TrunkConfig, build_actor
from relaxrl.nn.actor import limited
from relaxrl.nn.heads import Decisions, within_trust_radius

EXACT = 1e-10
ROUNDING = 1e-12
VECTORS = ("positions", "cell", "forces", "previous_displacement", "previous_forces")
SIZE = {"layers": 2, "cutoff": 4.5, "channels": 6, "message_channels": 4}


def make(kind: str, heads: PolicyHeadsConfig | None, env_input_dim: int = 2) -> Actor:
    generator = torch.Generator().manual_seed(3)
    if kind == "direct":
        config = DirectActorConfig(trunk=TrunkConfig(**SIZE), env_input_dim=env_input_dim, policy_heads=heads)
        return build_actor(config, generator)
    trunk = TrunkConfig(**SIZE, forces=False, history=False)
    return build_actor(HessianActorConfig(trunk=trunk, env_input_dim=env_input_dim, policy_heads=heads), generator)


@pytest.fixture(params=["direct", "hessian"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def decisive(kind: str, shake: Callable[[torch.nn.Module], None]) -> Actor:
    actor = make(kind, PolicyHeadsConfig()).double()
    assert actor.policy_heads is not None
    shake(actor.policy_heads)
    return actor


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_untrained_heads_change_no_bit(
    kind: str, crystal: Callable[..., Atoms], graph_of: Callable[..., AtomGraph], dtype: torch.dtype, scale: float
) -> None:
    graph = graph_of(crystal(0))
    graph = graph.replace(forces=scale * graph.forces)
    plain, headed = make(kind, None, 0).to(dtype), make(kind, PolicyHeadsConfig()).to(dtype)
    assert torch.equal(plain(graph), headed(graph))
    decisions = headed.decisions(graph)
    assert decisions.gate.item() == 1.0
    assert decisions.trust_radius.item() == headed.max_step


def test_agents_without_heads_keep_their_parameters(kind: str) -> None:
    names = set(make(kind, None, 0).state_dict())
    headed = set(make(kind, PolicyHeadsConfig(), 0).state_dict())
    assert names < headed
    assert all(name.startswith("policy_heads.") for name in headed - names)
    assert not [name for name in headed if name.startswith("environment_gate")]


def test_the_shipped_agent_has_no_heads_and_still_loads() -> None:
    actor = load_agent("metals").actor
    assert actor.policy_heads is None
    assert actor.environment_gate is None


def test_decisions_are_invariant_and_the_step_rotates(
    decisive: Actor, crystal: Callable[..., Atoms], graph_of: Callable[..., AtomGraph]
) -> None:
    graph = graph_of(crystal(1))
    rotation = -o3.rand_matrix(dtype=torch.float64)  # an inversion too
    turned = graph.replace(**{name: getattr(graph, name) @ rotation.T for name in VECTORS})
    ours, theirs = decisive.decisions(graph), decisive.decisions(turned)
    assert ours.gate != 1
    assert ours.trust_radius != decisive.max_step
    torch.testing.assert_close(theirs.gate, ours.gate, rtol=0, atol=EXACT)
    torch.testing.assert_close(theirs.trust_radius, ours.trust_radius, rtol=0, atol=EXACT)
    torch.testing.assert_close(decisive(turned), decisive(graph) @ rotation.T, rtol=0, atol=EXACT)


def test_structures_of_a_batch_decide_for_themselves(
    decisive: Actor, crystal: Callable[..., Atoms], graph_of: Callable[..., AtomGraph]
) -> None:
    graphs = [graph_of(crystal(2)), graph_of(crystal(3, repeat=(1, 1, 1)), seed=1)]
    together, alone = decisive(AtomGraph.batch(graphs)), torch.cat([decisive(graph) for graph in graphs])
    torch.testing.assert_close(together, alone, rtol=0, atol=EXACT)
    gates = decisive.decisions(AtomGraph.batch(graphs)).gate
    assert gates[0] != gates[1]


def test_features_enter_after_the_geometry(
    decisive: Actor, crystal: Callable[..., Atoms], graph_of: Callable[..., AtomGraph]
) -> None:
    graph = graph_of(crystal(4))
    other = graph.replace(features=graph.features + 1)
    assert decisive.decisions(other).gate != decisive.decisions(graph).gate
    first, second = (decisive.trunk(decisive._inputs(seen)).node_features for seen in (graph, other))
    assert torch.equal(first, second)
    with pytest.raises(ValueError, match=r"env_input_dim=2.*got none"):
        decisive(graph.replace(features=None))


@pytest.mark.parametrize("radius", [0.08, 0.3, 0.5])
@pytest.mark.parametrize("size", [1e-3, 0.2, 3.0, 1e6])
def test_the_trust_radius_shortens_the_whole_step_and_keeps_its_direction(
    decisive: Actor, radius: float, size: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    step = size * torch.randn(9, 3, generator=generator, dtype=torch.float64)
    index = torch.tensor([0] * 5 + [1] * 4)
    trusted = Decisions(torch.ones(2).double(), torch.tensor([radius, decisive.max_step], dtype=torch.float64))
    before, after = limited(step, decisive.max_step), decisive.decided(step, trusted, index)
    assert torch.equal(after[5:], before[5:])  # the other structure trusts itself
    lengths = after.norm(dim=-1)
    assert lengths[:5].max() <= radius * (1 + ROUNDING)
    factors = (after[:5] / before[:5]).flatten()
    assert torch.allclose(factors, factors[0].expand(15), rtol=1e-9)
    if size > 100 * radius:
        assert lengths[:5].max() == pytest.approx(radius, rel=1e-6)  # a long step goes as far as it is trusted
    if size < 0.03 * radius:
        assert torch.allclose(after, before, rtol=1e-4)  # a short one is not touched


def test_a_radius_beyond_the_longest_step_does_not_break_its_promise() -> None:
    step = torch.tensor([[2.0, 0, 0], [0, 0.4, 0]]).double()
    index = torch.zeros(2, dtype=torch.int64)
    before = limited(step, 0.5)
    after = within_trust_radius(step, before, torch.tensor([3.0]).double(), 0.5, index, 1)
    assert after.norm(dim=-1).max() == pytest.approx(0.5, rel=1e-9)
    assert after[1, 1] > before[1, 1]
    assert after[1, 1] / before[1, 1] == pytest.approx((after[0, 0] / before[0, 0]).item())


def test_both_outputs_get_gradients_before_training(
    kind: str, crystal: Callable[..., Atoms], graph_of: Callable[..., AtomGraph]
) -> None:
    graph = graph_of(crystal(5))
    actor = make(kind, PolicyHeadsConfig()).double()
    assert actor.policy_heads is not None
    actor(graph).square().sum().backward()
    assert (actor.policy_heads.last.bias.grad.abs() > 0).all()


def test_detached_heads_leave_the_trunk_to_the_step(
    kind: str, crystal: Callable[..., Atoms], graph_of: Callable[..., AtomGraph], shake: Callable[..., None]
) -> None:
    graph = graph_of(crystal(6))
    for detach in (True, False):
        actor = make(kind, PolicyHeadsConfig(detach=detach)).double()
        shake(actor)
        actor.decisions(graph).gate.sum().backward()
        reached = [name for name, value in actor.trunk.named_parameters() if value.grad is not None]
        assert bool(reached) is not detach


def test_heads_are_saved_with_the_agent(
    kind: str, tmp_path, crystal: Callable[..., Atoms], graph_of: Callable[..., AtomGraph], shake: Callable[..., None]
) -> None:
    actor = make(kind, PolicyHeadsConfig(channels=5))
    shake(actor.policy_heads)
    graph = graph_of(crystal(7))
    Agent(actor).save(tmp_path / "agent")
    again = load_agent(tmp_path / "agent")
    assert torch.equal(again.act(graph), Agent(actor).act(graph))
    assert again.actor.config.policy_heads == PolicyHeadsConfig(channels=5)
