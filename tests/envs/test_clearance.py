"""What bounds and kept pairs say of a step is what the full check of all pairs says."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from ase import Atoms
from ase.build import bulk

from relaxrl.envs import correct
from relaxrl.envs.clearance import Clearance
from relaxrl.envs.correction import Pairs
from relaxrl.graph import AtomGraph
from relaxrl.io import graph_from_atoms
from relaxrl.potentials import EMT, LennardJones, Potential, topology

from .conftest import AseEmt, cluster, rattled

R_MIN, CUTOFF, MAX_STEP = 1.6, 4.0, 0.5


def structures() -> list[Atoms]:
    return [
        rattled(bulk("Cu", cubic=True)),
        rattled(bulk("Au", cubic=True).repeat((2, 1, 1)), seed=1),
        cluster(distance=3.8),
        rattled(bulk("Al").repeat((1, 2, 2)), seed=2),
    ]


def displaced(graph: AtomGraph, size: float, generator: torch.Generator) -> torch.Tensor:
    """Random displacements, no longer than allowed; the third structure's atoms drift apart."""
    moves = size * torch.randn(graph.positions.shape, generator=generator, dtype=torch.float64)
    moves[graph.graph_index == 2] += 0.3 * torch.linspace(-1, 1, 4, dtype=torch.float64)[:, None]
    lengths = torch.linalg.vector_norm(moves, dim=1, keepdim=True)
    return moves * (MAX_STEP / lengths.clamp(min=MAX_STEP))


@pytest.mark.parametrize("size", [0.02, 0.1, 0.4])
@pytest.mark.parametrize("potential", [EMT(), AseEmt(), LennardJones(sigma=2.0, epsilon=0.1, rc=3.0)])
def test_the_legal_fraction_is_that_of_the_full_check(size: float, potential: Potential) -> None:
    generator, pool, asked = torch.Generator().manual_seed(0), structures(), 0
    parts = [graph_from_atoms(atoms) for atoms in pool]
    graph = AtomGraph.batch(parts)
    radii = torch.full_like(graph.positions[:, 0], R_MIN / 2)
    clearance = Clearance(CUTOFF, MAX_STEP)
    clearance.begin(graph, radii)
    for step in range(30):
        moves = displaced(graph, size, generator)
        expected = correct(graph, moves, R_MIN, CUTOFF)
        legal = clearance.legal(graph, moves, moves.norm(dim=1), potential)
        asked += legal is not None
        found = torch.zeros_like(expected.a_back) if legal is None else 1.0 - legal
        torch.testing.assert_close(found, expected.a_back, rtol=0.0, atol=1e-12)
        graph = graph.replace(positions=graph.positions + expected.applied)
        if step % 10 == 9:  # another structure, also of another size
            parts = graph.unbatch()
            parts[step % 4] = graph_from_atoms(rattled(pool[(step + 1) % 4], seed=step))
            graph = AtomGraph.batch(parts)
            radii = torch.full_like(graph.positions[:, 0], R_MIN / 2)
            clearance.begin(graph, radii)
    assert asked > 0


def test_small_steps_need_no_look_at_pairs() -> None:
    graph = graph_from_atoms([bulk("Cu", cubic=True), bulk("Au", cubic=True)])
    clearance = Clearance(CUTOFF, MAX_STEP)
    clearance.begin(graph, torch.full_like(graph.positions[:, 0], R_MIN / 2))
    with mock.patch.object(Clearance, "_parts", autospec=True, side_effect=Clearance._parts) as looked:
        for _ in range(10):
            moves = 0.02 * torch.cos(7 * graph.positions)
            assert clearance.legal(graph, moves, moves.norm(dim=1), EMT()) is None
            graph = graph.replace(positions=graph.positions + moves)
    assert looked.call_count == 1


def test_a_structure_in_doubt_is_the_only_one_that_is_looked_at() -> None:
    graph = graph_from_atoms([bulk("Cu", cubic=True), bulk("Au", cubic=True), bulk("Ag", cubic=True)])
    clearance = Clearance(CUTOFF, MAX_STEP)
    clearance.begin(graph, torch.full_like(graph.positions[:, 0], R_MIN / 2))
    moves = torch.zeros_like(graph.positions)
    assert clearance.legal(graph, moves, moves.norm(dim=1), AseEmt()) is None
    moves[0] = torch.tensor([0.35, 0.35, 0.0])
    moves[1] = -moves[0]
    with (
        mock.patch.object(topology, "pairs_within", wraps=topology.pairs_within) as made,
        mock.patch.object(Pairs, "of", side_effect=Pairs.of) as used,
    ):
        clearance.legal(graph, moves, moves.norm(dim=1), AseEmt())
    assert made.call_count == 0
    ((centre, neighbour, _, _), _) = used.call_args
    assert set(graph.graph_index[torch.cat([centre, neighbour])].tolist()) == {0}
