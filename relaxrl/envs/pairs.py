"""Neighbour lists of a batch in which some structures move a little and others are replaced."""

from __future__ import annotations

import torch
from torch import Tensor

from relaxrl.graph import AtomGraph, scatter_max
from relaxrl.neighbors import with_edges


class KeptPairs:
    """Edges of each structure of a batch, kept until it has moved too far or another has taken its place.

    Structure by structure, since hardly a step passes without the end of some episode. Which edges are kept depends on
    the past, but all within the radius are always among them.

    Args:
        skin: Å; an atom may move by half of it before the edges of its structure are made anew.
    """

    def __init__(self, skin: float = 0.6) -> None:
        self.skin = skin
        self._radius = 0.0  # the largest asked for so far
        self._built: AtomGraph | None = None  # each structure as it was when its own edges were made

    def __call__(self, graph: AtomGraph, radius: float) -> AtomGraph:
        """The graph with all edges up to `radius` and some beyond it."""
        if radius > self._radius:
            self._radius, self._built = radius, None
        stale = self._stale(graph)
        if self._built is None or bool(stale.all()):
            self._built = with_edges(graph, self._radius + self.skin)
        elif bool(stale.any()):
            self._built = _renewed(self._built, graph, stale, self._radius + self.skin)
        return graph.replace(edge_index=self._built.edge_index, edge_shift=self._built.edge_shift)

    def _stale(self, graph: AtomGraph) -> Tensor:
        """Structures whose edges can't be used any more, (n_graphs,), bool."""
        built = self._built
        if built is None or not torch.equal(built.atoms_per_graph, graph.atoms_per_graph):
            return torch.ones(graph.n_graphs, dtype=torch.bool)
        moved = scatter_max(
            torch.linalg.vector_norm(graph.positions - built.positions, dim=-1), graph.graph_index, graph.n_graphs
        )
        other = (graph.cell != built.cell).flatten(1).any(dim=1) | (graph.pbc != built.pbc).any(dim=1)
        return other | (moved >= 0.5 * self.skin)


def _renewed(built: AtomGraph, graph: AtomGraph, stale: Tensor, radius: float) -> AtomGraph:
    """The structures as they were, and the stale ones as they are, each with its own edges."""
    new = with_edges(graph.select(torch.nonzero(stale).flatten()), radius)
    assert built.edge_index is not None, "made by with_edges"
    assert built.edge_shift is not None, "made by with_edges"
    assert new.edge_index is not None, "made by with_edges"
    assert new.edge_shift is not None, "made by with_edges"
    kept = ~stale[built.graph_index[built.edge_index[0]]]
    stale_atoms = stale[graph.graph_index]
    places = torch.nonzero(stale_atoms).flatten()
    return built.replace(
        positions=torch.where(stale_atoms[:, None], graph.positions, built.positions),
        cell=torch.where(stale[:, None, None], graph.cell, built.cell),
        pbc=torch.where(stale[:, None], graph.pbc, built.pbc),
        edge_index=torch.cat([built.edge_index[:, kept], places[new.edge_index]], dim=1),
        edge_shift=torch.cat([built.edge_shift[kept], new.edge_shift]),
    )
