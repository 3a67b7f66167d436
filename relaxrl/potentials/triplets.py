"""Pairs of edges that share their centre: the angles of three-body potentials."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from relaxrl.potentials.topology import Topology


@dataclass(frozen=True)
class Bonds:
    """Directed edges near enough to interact, ordered by their centre.

    Attributes:
        centre: (n_bonds,), int64.
        neighbour: (n_bonds,), int64.
        vectors: (n_bonds, 3), Å.
        lengths: (n_bonds,), Å.
        centre_type: (n_bonds,), int64; place of the centre's element among the potential's.
        neighbour_type: (n_bonds,), int64.
    """

    centre: Tensor
    neighbour: Tensor
    vectors: Tensor
    lengths: Tensor
    centre_type: Tensor
    neighbour_type: Tensor

    @staticmethod
    def within(topology: Topology, vectors: Tensor, types: Tensor, cutoff: Tensor) -> Bonds:
        """The edges shorter than the cutoff of their elements.

        Args:
            topology: Directed edges.
            vectors: (n_edges, 3), Å.
            types: (n_atomic_numbers,), int64; place of each atomic number among the potential's n elements.
            cutoff: (n²,), Å; of centre a with neighbour b at a n + b.
        """
        of_atom = types.to(topology.centre.device)[topology.atomic_numbers]
        of_i, of_j = of_atom[topology.centre], of_atom[topology.neighbour]
        n = round(len(cutoff) ** 0.5)
        lengths = torch.linalg.vector_norm(vectors.detach(), dim=1)
        near = torch.nonzero(lengths < cutoff.to(lengths)[of_i * n + of_j]).flatten()
        near = near[torch.argsort(topology.centre[near], stable=True)]
        chosen = vectors[near]
        return Bonds(
            centre=topology.centre[near],
            neighbour=topology.neighbour[near],
            vectors=chosen,
            lengths=torch.linalg.vector_norm(chosen, dim=1),
            centre_type=of_i[near],
            neighbour_type=of_j[near],
        )

    def angles(self) -> tuple[Tensor, Tensor]:
        """Both bonds of each angle, (n_angles,) each, every unordered pair of bonds at a centre once."""
        n = len(self.centre)
        places = torch.arange(n, device=self.centre.device)
        last = torch.searchsorted(self.centre, self.centre, right=True)
        later = last - places - 1
        first = torch.repeat_interleave(places, later)
        start = torch.cumsum(later, dim=0) - later
        second = first + 1 + torch.arange(len(first), device=first.device) - start[first]
        return first, second

    def cosines(self, first: Tensor, second: Tensor) -> Tensor:
        """Cosine of the angle between two bonds, (n_angles,)."""
        products = (self.vectors[first] * self.vectors[second]).sum(dim=1)
        return products / (self.lengths[first] * self.lengths[second])
