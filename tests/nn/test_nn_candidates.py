"""Candidates and the choice among them: the actor's own step is there, the best is picked, all of it equivariant."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from e3nn import o3

from relaxrl.agents import Agent, load_agent
from relaxrl.graph import AtomGraph
from relaxrl.neighbors import with_edges
from relaxrl.nn import (
    CandidatesConfig,
    CriticConfig,
    DirectActorConfig,
    HessianActor,
    HessianActorConfig,
    RankedActor,
    RankedActorConfig,
    TrunkConfig,
    build_ranked_actor,
)
from relaxrl.nn.candidates import repeated

EXACT = 1e-10
VECTORS = ("positions", "cell", "forces", "previous_displacement", "previous_forces")
SIZE = {"layers": 2, "cutoff": 4.5, "channels": 6, "message_channels": 4}
SMALL = 1e-4
"""On the forces: steps so short that no limit touches them."""


def make(**candidates: object) -> RankedActor:
    config = RankedActorConfig(
        actor=HessianActorConfig(trunk=TrunkConfig(**SIZE, forces=False, history=False)),
        critic=CriticConfig(trunk=TrunkConfig(**SIZE), env_input_dim=2),
        candidates=CandidatesConfig(**candidates),
    )
    return build_ranked_actor(config, torch.Generator().manual_seed(2)).double()


@pytest.fixture
def graph(crystal: Callable[..., Atoms], graph_of: Callable[..., AtomGraph]) -> AtomGraph:
    graphs = [graph_of(crystal(0)), graph_of(crystal(1, repeat=(1, 1, 1)), seed=1)]
    batch = AtomGraph.batch(graphs)
    # Forces change against the step: curvature along it is positive.
    return batch.replace(previous_forces=batch.forces + 5.0 * batch.previous_displacement)


def test_the_first_candidate_is_the_actors_own_step(graph: AtomGraph) -> None:
    ranked = make(gates=(0.5, 1.3))
    candidates = ranked.candidates(graph)
    assert len(candidates) == 4
    assert torch.equal(candidates[0], ranked.base(graph))
    few = ranked.candidates(graph.replace(forces=SMALL * graph.forces))
    torch.testing.assert_close(few[1], 0.5 * few[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(few[2], 1.3 * few[0], rtol=1e-6, atol=0)


def test_the_secant_candidate_has_the_curvature_that_was_seen(graph: AtomGraph) -> None:
    """BFGS: with the force change of the last step for a force, the corrected step is that last step itself."""
    ranked = make(gates=(), secant=True)
    change = graph.previous_forces - graph.forces
    seen = graph.replace(forces=SMALL * change, previous_forces=(1 + SMALL) * change)
    own, secant = ranked.candidates(seen)
    torch.testing.assert_close(secant, SMALL * seen.previous_displacement, rtol=1e-6, atol=1e-12)
    assert not torch.allclose(own, secant, rtol=0.1)


def test_without_a_usable_last_step_the_secant_candidate_is_the_own_step(graph: AtomGraph) -> None:
    ranked = make(gates=(), secant=True)
    fresh = graph.replace(previous_displacement=torch.zeros_like(graph.forces), previous_forces=graph.forces)
    concave = graph.replace(previous_forces=graph.forces - 5.0 * graph.previous_displacement)
    for useless in (fresh, concave):
        own, secant = ranked.candidates(useless)
        torch.testing.assert_close(secant, own, rtol=0, atol=1e-14)


def test_the_best_candidate_is_made_under_a_known_critic(graph: AtomGraph) -> None:
    """A critic that likes long steps in structures with a positive first feature, and short ones elsewhere."""
    ranked = make(gates=(0.5, 1.3), secant=False)
    graph = graph.replace(forces=SMALL * graph.forces, features=torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).double())

    class Known(torch.nn.Module):
        def forward(self, graph: AtomGraph, displacement: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            length = torch.zeros(graph.n_graphs).double().index_add(0, graph.graph_index, displacement.norm(dim=-1))
            value = length * graph.features[:, 0]
            return value + 1.0, value  # the smaller one counts

    ranked.critic = Known()
    own = ranked.base(graph)
    factors = torch.tensor([1.3, 0.5]).double()[graph.graph_index].unsqueeze(-1)
    torch.testing.assert_close(ranked(graph), factors * own, rtol=1e-6, atol=0)


def test_margin_keeps_the_own_step_where_little_is_to_be_gained() -> None:
    values = torch.tensor([[1.0, 1.0, 3.0], [1.2, 2.0, 2.0], [0.0, 1.4, 2.9]])
    assert make(margin=0.0).choose(values).tolist() == [1, 1, 0]
    assert make(margin=0.5).choose(values).tolist() == [0, 1, 0]


def test_the_hessian_of_the_actor_is_shown(crystal: Callable[..., Atoms], graph_of: Callable[..., AtomGraph]) -> None:
    ranked, graph = make(gates=(0.7,)), graph_of(crystal(0))
    assert isinstance(ranked.base, HessianActor)
    assert np.array_equal(ranked.hessian(graph), ranked.base.hessian(graph))


def test_choices_rotate_with_the_crystal(graph: AtomGraph, shake: Callable[[torch.nn.Module], None]) -> None:
    ranked = make()
    shake(ranked.critic)
    rotation = -o3.rand_matrix(dtype=torch.float64)
    turned = graph.replace(**{name: getattr(graph, name) @ rotation.T for name in VECTORS})
    torch.testing.assert_close(ranked.candidates(turned), ranked.candidates(graph) @ rotation.T, rtol=0, atol=EXACT)
    values = ranked.values(graph, ranked.candidates(graph))
    torch.testing.assert_close(ranked.values(turned, ranked.candidates(turned)), values, rtol=0, atol=EXACT)
    torch.testing.assert_close(ranked(turned), ranked(graph) @ rotation.T, rtol=0, atol=EXACT)


def test_values_are_those_of_each_candidate_alone(graph: AtomGraph, shake: Callable[[torch.nn.Module], None]) -> None:
    ranked = make()
    shake(ranked.critic)
    candidates = ranked.candidates(graph)
    alone = torch.stack([torch.minimum(*ranked.critic(graph, candidate)) for candidate in candidates])
    torch.testing.assert_close(ranked.values(graph, candidates), alone, rtol=0, atol=EXACT)
    assert alone.std(dim=0).min() > 0


def test_copies_keep_their_edges(graph: AtomGraph) -> None:
    copies = repeated(with_edges(graph, 4.0), 3)
    again = with_edges(copies.without_edges(), 4.0)
    assert copies.edge_index.shape == again.edge_index.shape
    assert torch.equal(
        copies.edge_vectors().norm(dim=-1).sort().values, again.edge_vectors().norm(dim=-1).sort().values
    )


def test_a_ranked_agent_is_saved_with_its_critic(graph: AtomGraph, tmp_path) -> None:
    ranked = make(gates=(0.6,), margin=0.25)
    Agent(ranked, metadata={"feature_names": ["fmax", "gain"]}).save(tmp_path / "agent")
    again = load_agent(tmp_path / "agent")
    assert isinstance(again.actor, RankedActor)
    assert again.actor.config == ranked.config
    assert again.feature_names == ("fmax", "gain")
    assert torch.equal(again.act(graph), Agent(ranked).act(graph))


def test_what_can_not_be_proposed_is_refused() -> None:
    sizes = {"trunk": TrunkConfig(**SIZE)}
    with pytest.raises(ValueError, match="needs a Hessian"):
        build_ranked_actor(RankedActorConfig(actor=DirectActorConfig(**sizes), critic=CriticConfig(**sizes)))
    with pytest.raises(ValueError, match="nothing to choose from"):
        CandidatesConfig(gates=(), secant=False)
    with pytest.raises(ValueError, match="positive factors"):
        CandidatesConfig(gates=(0.0,))
