"""Whether a structure is sound: no overlaps, no step longer than allowed."""

from __future__ import annotations

import numpy as np
import torch
from ase.data import covalent_radii
from torch import Tensor

from relaxrl.envs.config import EnvConfig
from relaxrl.graph import AtomGraph
from relaxrl.neighbors import pairs_within

_COVALENT_RADII = torch.from_numpy(np.asarray(covalent_radii, dtype=np.float64))  # (119,), Å, by atomic number


def radii_of(graph: AtomGraph, config: EnvConfig) -> Tensor:
    """Contact radii, (n_atoms,), Å: the sum of two is the r_min of that pair."""
    if config.r_min_unit == "angstrom":
        return torch.full_like(graph.positions[:, 0], 0.5 * config.r_min)
    return config.r_min * _COVALENT_RADII.to(graph.positions)[graph.atomic_numbers]


def overlaps(graph: AtomGraph, radii: Tensor) -> Tensor:
    """Whether each structure has atoms closer than the sum of their contact radii, (n_graphs,), bool.

    Distances of an atom to its own images are a property of the cell, no overlap that moving atoms could resolve: they
    are left out.

    Args:
        graph: The structures.
        radii: (n_atoms,), Å.
    """
    (centre, neighbour), shift = pairs_within(graph, 2.0 * float(radii.max()), each_once=True)
    graph = graph.replace(edge_index=torch.stack([centre, neighbour]), edge_shift=shift.to(graph.positions.dtype))
    distance = torch.linalg.vector_norm(graph.edge_vectors(), dim=-1)
    close = (centre != neighbour) & (distance < radii[centre] + radii[neighbour])
    found = torch.zeros(graph.n_graphs, dtype=torch.bool, device=radii.device)
    found[graph.graph_index[centre[close]]] = True
    return found


def limit_radially(displacements: Tensor, longest: float) -> Tensor:
    """Displacements (n_atoms, 3) with those longer than `longest` (Å) shortened along their own direction."""
    lengths = torch.linalg.vector_norm(displacements, dim=-1, keepdim=True)
    limited: Tensor = displacements * (longest / lengths.clamp(min=longest))
    return limited
