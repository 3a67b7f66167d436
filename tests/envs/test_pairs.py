from __future__ import annotations

import torch
from ase.build import bulk

from relaxrl.envs.pairs import KeptPairs
from relaxrl.graph import AtomGraph
from relaxrl.io import graph_from_atoms
from relaxrl.neighbors import with_edges

from .conftest import cluster, rattled

RADIUS = 3.6


def within(graph: AtomGraph, radius: float = RADIUS) -> set[tuple[int, ...]]:
    near = torch.linalg.vector_norm(graph.edge_vectors(), dim=-1) <= radius
    rows = torch.cat([graph.edge_index.T, graph.edge_shift.to(torch.int64)], dim=1)[near]
    edges = [tuple(row) for row in rows.tolist()]
    assert len(edges) == len(set(edges))
    return set(edges)


def test_all_pairs_within_the_radius_are_there_while_structures_move_and_are_replaced():
    pool = [bulk("Cu", cubic=True), bulk("Au", cubic=True), cluster(n=4), bulk("Al", cubic=True).repeat((2, 1, 1))]
    parts = [graph_from_atoms(pool[k]) for k in (0, 1, 3, 2)]
    kept = KeptPairs(skin=0.4)
    generator = torch.Generator().manual_seed(0)
    for step in range(30):
        graph = AtomGraph.batch(parts)
        radius = RADIUS if step < 20 else RADIUS + 0.5
        assert within(kept(graph, radius), radius) == within(with_edges(graph, radius), radius)
        for k, part in enumerate(parts):
            size = (0.02, 0.0, 0.1, 0.05)[k]
            move = size * torch.randn(part.positions.shape, generator=generator, dtype=torch.float64)
            parts[k] = part.replace(positions=part.positions + move)
        if step % 7 == 3:
            parts[step % 4] = graph_from_atoms(rattled(pool[step % 3], seed=step))  # also of another size or cell


def test_lists_are_made_for_the_structures_that_need_them_only(monkeypatch):
    made = []
    monkeypatch.setattr("relaxrl.envs.pairs.with_edges", lambda g, r: made.append(g.n_graphs) or with_edges(g, r))
    graph = graph_from_atoms([bulk("Cu", cubic=True), bulk("Au", cubic=True), bulk("Ag", cubic=True)])
    kept = KeptPairs(skin=0.4)
    kept(graph, RADIUS)
    shift = torch.tensor([0.1, 0.3, 0.0], dtype=torch.float64)[graph.graph_index, None]
    kept(graph.replace(positions=graph.positions + shift * torch.tensor([1.0, 0.0, 0.0]).double()), RADIUS)
    assert made == [3, 1]
