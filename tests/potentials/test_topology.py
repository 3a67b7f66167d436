"""Edges are reused where atoms moved little, wherever their structure stands in a batch."""

from unittest import mock

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from torch import Tensor

from relaxrl.graph import AtomGraph
from relaxrl.io import graph_from_atoms
from relaxrl.potentials import EMT, topology
from relaxrl.potentials.topology import EdgeCache, Part


def crystal(seed: int) -> Atoms:
    atoms = bulk("Cu", cubic=True) * (1, 1, 1 + seed % 2)
    atoms.rattle(0.05, seed=seed)
    return atoms


def as_set(parts: list[Part], graph: AtomGraph, cutoff: float) -> set[tuple[float, ...]]:
    """Pairs within the cutoff as (centre, neighbour, vector)."""
    found: list[Tensor] = []
    for part in parts:
        vectors = part.edges.vectors(graph.positions[part.atoms])
        pairs = torch.stack([part.edges.topology.centre, part.edges.topology.neighbour], dim=1) + part.atoms.start
        assert torch.equal(graph.graph_index[pairs[:, 0]], part.edges.graph_index + part.graphs.start)
        found.append(torch.cat([pairs, vectors], dim=1)[torch.linalg.vector_norm(vectors, dim=1) < cutoff])
    assert [part.atoms.stop for part in parts] == [*(part.atoms.start for part in parts[1:]), graph.n_atoms]
    return {tuple(np.round(row, 6) + 0.0) for row in torch.cat(found).tolist()}


@pytest.mark.parametrize("undirected", [True, False])
def test_selections_and_replacements_find_their_edges_and_all_are_complete(undirected: bool) -> None:
    cutoff, rng = 4.0, np.random.default_rng(0)
    cache = EdgeCache(cutoff, 0.6, undirected)
    graph = graph_from_atoms([crystal(k) for k in range(6)])
    with mock.patch.object(topology, "pairs_within", wraps=topology.pairs_within) as made:
        cache(graph)
        assert made.call_count == 1
        cache(graph.select([4, 1]))
        cache(graph.replace(positions=graph.positions + 0.1))
        assert made.call_count == 1
        one_new = AtomGraph.batch([graph.select([3, 0]), graph_from_atoms(bulk("Al")), graph.select([2])])
        cache(one_new)
        assert made.call_count == 2
        assert made.call_args.args[0].n_graphs == 1
    for _ in range(8):
        graph = graph.replace(positions=graph.positions + torch.from_numpy(rng.normal(0, 0.06, (graph.n_atoms, 3))))
        chosen = graph.select(rng.permutation(6)[:4])
        fresh = EdgeCache(cutoff, 0.0, undirected)(chosen)
        assert as_set(cache(chosen), chosen, cutoff) == as_set(fresh, chosen, cutoff)


def test_a_new_cell_new_elements_and_new_periodicity_are_noticed() -> None:
    cache, graph = EdgeCache(4.0, 0.5, True), graph_from_atoms([crystal(0), crystal(2)])
    cache(graph)
    for changed in (
        graph.replace(cell=graph.cell * 1.05),
        graph.replace(pbc=torch.zeros_like(graph.pbc)),
        graph.replace(atomic_numbers=graph.atomic_numbers + 1),
    ):
        fresh = EdgeCache(4.0, 0.0, True)(changed)
        assert as_set(cache(changed), changed, 4.0) == as_set(fresh, changed, 4.0)
        numbers = torch.cat([part.edges.topology.atomic_numbers for part in cache(changed)])
        assert torch.equal(numbers, changed.atomic_numbers)


def test_results_do_not_depend_on_what_was_evaluated_before() -> None:
    """Bit for bit: a resumed run has an empty cache."""
    graph = graph_from_atoms([crystal(k) for k in range(4)])
    used, moved = EMT(), graph.replace(positions=graph.positions + 0.05 * torch.cos(graph.positions * 7))
    used.evaluate(graph)
    used.evaluate(graph.select([2]))
    got, fresh = used.evaluate(moved), EMT().evaluate(moved)
    assert torch.equal(got.energy, fresh.energy)
    assert torch.equal(got.forces, fresh.forces)


@pytest.mark.parametrize("size_too", [False, True])
def test_a_replaced_structure_touches_its_own_part_of_the_batch_only(
    size_too: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topology, "_PART_EDGES", 60)
    graph = graph_from_atoms([crystal(k) for k in range(8)])
    cache = EdgeCache(4.0, 0.5, True)
    before = cache(graph)
    assert len(before) > 3
    atoms = crystal(30 if size_too else 31)
    atoms.set_cell(1.03 * atoms.cell, scale_atoms=True)
    new = graph_from_atoms(atoms)
    replaced = AtomGraph.batch([graph.select(range(3)), new, graph.select(range(4, 8))])
    with mock.patch.object(topology, "pairs_within", wraps=topology.pairs_within) as made:
        after = cache(replaced)
    assert made.call_args.args[0].n_graphs == 1
    touched = [a.edges is not b.edges for a, b in zip(before, after, strict=True)]
    assert touched == [part.graphs.start <= 3 < part.graphs.stop for part in after]
    assert as_set(after, replaced, 4.0) == as_set(EdgeCache(4.0, 0.0, True)(replaced), replaced, 4.0)


def test_parts_do_not_change_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_from_atoms([crystal(k) for k in range(6)])
    whole = EMT().evaluate(graph, stress=True)
    monkeypatch.setattr(topology, "_PART_EDGES", 100)
    parts = EMT().evaluate(graph, stress=True)
    assert torch.equal(whole.energy, parts.energy)
    assert torch.equal(whole.forces, parts.forces)
    assert whole.stress is not None
    assert parts.stress is not None
    assert torch.equal(whole.stress, parts.stress)


def test_memory_is_bounded() -> None:
    cache = EdgeCache(4.0, 0.5, True)
    for k in range(40):
        cache(graph_from_atoms([bulk("Cu", a=3.5 + 0.1 * k), bulk("Cu", a=3.5 - 0.03 * k)]))
    assert len(cache) == 4
