"""Doubles small enough to compute by hand, and random transitions."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from relaxrl.agents import Transition
from relaxrl.graph import AtomGraph, scatter_mean

MakeTransition = Callable[..., Transition]


class GainActor(nn.Module):
    """Displacement = gain * force."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain, dtype=torch.float64))

    def forward(self, graph: AtomGraph) -> Tensor:
        return self.gain * graph.forces


class QuadraticCritic(nn.Module):
    """Twin values linear in (1, a², a·F, F²): exact for the quadratic returns of a harmonic well."""

    def __init__(self, first: list[float], second: list[float]) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([first, second], dtype=torch.float64))

    def per_atom(self, graph: AtomGraph, action: Tensor) -> tuple[Tensor, Tensor]:
        force = graph.forces
        invariants = (torch.ones_like(force[:, 0]), (action**2).sum(-1), (action * force).sum(-1), (force**2).sum(-1))
        values = torch.stack(invariants, dim=-1) @ self.weights.T
        return values[:, 0], values[:, 1]

    def forward(self, graph: AtomGraph, action: Tensor) -> tuple[Tensor, Tensor]:
        q1, q2 = self.per_atom(graph, action)
        index, n = graph.graph_index, graph.n_graphs
        return scatter_mean(q1, index, n), scatter_mean(q2, index, n)


@pytest.fixture
def gain_actor():
    return GainActor


@pytest.fixture
def quadratic_critic():
    return QuadraticCritic


@pytest.fixture
def make_graph():
    """Random structures of the given sizes in cubic cells of 6 Å."""

    def make(sizes: list[int], seed: int = 0) -> AtomGraph:
        generator = torch.Generator().manual_seed(seed)
        n_atoms, n_graphs = sum(sizes), len(sizes)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        return AtomGraph(
            positions=normal(n_atoms, 3),
            cell=6.0 * torch.eye(3, dtype=torch.float64).repeat(n_graphs, 1, 1),
            pbc=torch.ones(n_graphs, 3, dtype=torch.bool),
            atomic_numbers=torch.randint(1, 90, (n_atoms,), generator=generator),
            graph_index=torch.repeat_interleave(torch.arange(n_graphs), torch.tensor(sizes)),
            forces=normal(n_atoms, 3),
            energy=normal(n_graphs),
            previous_displacement=normal(n_atoms, 3),
            previous_forces=normal(n_atoms, 3),
        )

    return make


@pytest.fixture
def make_transition(make_graph):
    """Random transitions of structures of the given sizes; the rewards number them from `first`."""

    def make(sizes: list[int], seed: int = 0, first: int = 0, terminated: bool = False) -> Transition:
        graph, later = make_graph(sizes, seed), make_graph(sizes, seed + 1000)
        later = later.replace(atomic_numbers=graph.atomic_numbers)
        generator = torch.Generator().manual_seed(seed + 2000)
        applied = 0.1 * torch.randn(graph.n_atoms, 3, generator=generator, dtype=torch.float64)
        reward = torch.arange(first, first + len(sizes), dtype=torch.float64)
        return Transition.of_step(
            graph=graph,
            proposed=2.0 * applied,
            applied=applied,
            reward=reward,
            atom_reward=reward[graph.graph_index],
            next_graph=later,
            terminated=torch.full((len(sizes),), terminated),
        )

    return make
