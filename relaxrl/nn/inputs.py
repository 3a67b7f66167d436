"""From an `AtomGraph` to what networks read: the one place where dtype, device and edges are settled."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from relaxrl.graph import AtomGraph
from relaxrl.neighbors import with_edges


@dataclass(frozen=True)
class NetworkInputs:
    """A batch of structures in a network's dtype and on its device.

    Attributes:
        atomic_numbers: (n_atoms,), int64.
        graph_index: (n_atoms,), int64.
        n_graphs: Structures in the batch.
        edge_index: (2, n_edges), int64, sorted by row 0, the centres.
        edge_vectors: (n_edges, 3), Å, from centre to neighbour.
        forces: (n_atoms, 3), eV/Å.
        previous_displacement: (n_atoms, 3), Å; zero where there is no history.
        force_change: (n_atoms, 3), eV/Å; forces minus those before the last displacement.
        features: (n_graphs, k), environment features, or None.
    """

    atomic_numbers: Tensor
    graph_index: Tensor
    n_graphs: int
    edge_index: Tensor
    edge_vectors: Tensor
    forces: Tensor
    previous_displacement: Tensor
    force_change: Tensor
    features: Tensor | None

    @property
    def n_atoms(self) -> int:
        """Atoms of all structures together."""
        return self.forces.shape[0]


def network_inputs(
    graph: AtomGraph, cutoff: float, max_neighbors: int | None, dtype: torch.dtype, device: torch.device
) -> NetworkInputs:
    """What networks read of a graph.

    Differences (edge vectors, change of the forces) are taken in the graph's own precision, before the conversion.

    Args:
        graph: The structures, with forces. Edges are made where it has none; those it has must reach to the cutoff.
        cutoff: Å.
        max_neighbors: See `relaxrl.neighbors.with_edges`.
        dtype: The network's.
        device: The network's.

    Raises:
        ValueError: The graph has no forces.
    """
    forces = graph.forces
    if forces is None:
        raise ValueError("networks read forces, but the graph has none; evaluate a potential first")
    if graph.edge_index is None:
        graph = with_edges(graph, cutoff, max_neighbors)
    edge_index, edge_vectors = _sorted_by_centre(graph)
    displacement, before = graph.previous_displacement, graph.previous_forces
    return NetworkInputs(
        atomic_numbers=graph.atomic_numbers.to(device),
        graph_index=graph.graph_index.to(device),
        n_graphs=graph.n_graphs,
        edge_index=edge_index.to(device),
        edge_vectors=edge_vectors.to(device, dtype),
        forces=forces.to(device, dtype),
        previous_displacement=torch.zeros_like(forces, dtype=dtype, device=device)
        if displacement is None
        else displacement.to(device, dtype),
        force_change=torch.zeros_like(forces, dtype=dtype, device=device)
        if before is None
        else (forces - before).to(device, dtype),
        features=None if graph.features is None else graph.features.to(device, dtype),
    )


def _sorted_by_centre(graph: AtomGraph) -> tuple[Tensor, Tensor]:
    edge_vectors = graph.edge_vectors()
    edge_index = graph.edge_index
    assert edge_index is not None  # edge_vectors() raises otherwise
    centre = edge_index[0]
    if centre.numel() and bool((centre[1:] < centre[:-1]).any()):
        order = torch.argsort(centre, stable=True)
        return edge_index[:, order], edge_vectors[order]
    return edge_index, edge_vectors
