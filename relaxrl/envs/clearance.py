"""Correction of displacements, step after step: pairs of atoms are looked at only where one could matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from relaxrl.envs.correction import MARGIN, NEAR, Pairs, legal_fraction
from relaxrl.graph import AtomGraph, scatter_max
from relaxrl.potentials.base import Potential
from relaxrl.potentials.topology import EdgeCache, Part

_SLACK = 1e-6
"""Å; far more than rounding can make of a distance."""

_SKIN = 0.6
"""Å; an atom may move by half of it before the pairs of its structure are listed anew."""


@dataclass(frozen=True)
class _Listed:
    """Pairs of some structures: who, the vectors between them (n_pairs, 3) in Å, and among which atoms they count."""

    centre: Tensor
    neighbour: Tensor
    vectors: Tensor
    atoms: slice

    @staticmethod
    def of(part: Part, graph: AtomGraph, asked: Tensor) -> _Listed:
        """Those of a part of the batch that belong to the structures `asked` for, (n_graphs,), bool."""
        edges, asked = part.edges, asked[part.graphs]
        centre, neighbour, translation = edges.topology.centre, edges.topology.neighbour, edges.translation
        if not bool(asked.all()):
            kept = torch.nonzero(asked.index_select(0, edges.graph_index)).flatten()
            centre, neighbour = centre.index_select(0, kept), neighbour.index_select(0, kept)
            translation = translation.index_select(0, kept)
        positions = graph.positions[part.atoms]
        vectors = positions.index_select(0, neighbour).sub_(positions.index_select(0, centre)).add_(translation)
        return _Listed(centre, neighbour, vectors, part.atoms)


class Clearance:
    """Finds out how much of a displacement is legal, as `relaxrl.envs.correct` does, with less work.

    The distance of each atom to its nearest neighbour is measured at some step and bounded from both sides in the steps
    after it, since no pair's distance changes by more than its two atoms have moved. So most steps cost a few
    operations per atom, and none per pair. Where the bounds do not suffice, pairs come from the
    potential's list if it keeps one, and from an own one otherwise.

    Args:
        cutoff: Å; an atom may not lose all neighbours within it.
        max_step: Å; the longest displacement there will be.
    """

    def __init__(self, cutoff: float, max_step: float) -> None:
        self.cutoff = cutoff
        self.max_step = max_step
        self._own: EdgeCache | None = None
        self._radii = torch.empty(0)  # (n_atoms,), Å
        self._contact = torch.empty(0)  # (n_atoms,), Å; r_min of no pair with this atom is larger
        self._radius = 0.0  # Å, within which pairs are looked at
        self._there: Tensor | None = None  # (n_atoms, 3), Å; where the nearest neighbours were measured
        self._least_spare = 0.0  # Å, of any atom
        self._spare = torch.empty(0)  # (n_atoms,), Å; how much nearer they could come, or farther go

    def begin(self, graph: AtomGraph, radii: Tensor) -> None:
        """Take note of other structures, or of the same in other places.

        Args:
            graph: The structures from here on.
            radii: (n_atoms,), Å; the sum of two is the r_min of a pair.
        """
        largest = scatter_max(radii, graph.graph_index, graph.n_graphs)
        self._radii, self._contact = radii, radii + largest.index_select(0, graph.graph_index) + _SLACK
        needed = 2.0 * (float(largest.max()) + self.max_step) + MARGIN
        self._radius = max(needed, NEAR * self.cutoff, self._radius)
        self._there = None

    def legal(self, graph: AtomGraph, displacement: Tensor, lengths: Tensor, potential: Potential) -> Tensor | None:
        """Fraction of the displacement of each structure that is legal, (n_graphs,); None where all of it is.

        Args:
            graph: The structures before the step.
            displacement: (n_atoms, 3), Å.
            lengths: (n_atoms,), Å; of the displacements.
            potential: Asked for the pairs it knows.
        """
        if self._there is None:
            self._there, self._spare = graph.positions, torch.full_like(lengths, -torch.inf)
            self._least_spare = -torch.inf
        elif self._least_spare > 0.0:
            gone = float((_lengths(graph.positions - self._there) + lengths).max())
            if 2.0 * gone <= self._least_spare:
                return None
        asked = self._doubtful(graph, displacement)
        if asked is None:
            return None
        listed = [_Listed.of(part, graph, asked) for part in self._parts(graph, potential)]
        self._measure(graph, listed, asked[graph.graph_index])
        asked = self._doubtful(graph, displacement)
        if asked is None:
            return None
        pairs = (
            (Pairs.of(here.centre, here.neighbour, here.vectors, displacement[here.atoms]), here.atoms)
            for here in listed
        )
        return legal_fraction(graph, displacement, self._radii, self.cutoff, pairs, asked)

    def _doubtful(self, graph: AtomGraph, displacement: Tensor) -> Tensor | None:
        """Structures whose atoms could come too close or be left alone, (n_graphs,), bool; None if there are none."""
        assert self._there is not None, "set by legal"
        drift = graph.positions - self._there
        # On a straight path, an atom is farthest from anywhere at one of its ends.
        gone = torch.maximum(_lengths(drift), _lengths(drift + displacement))
        farthest = scatter_max(gone, graph.graph_index, graph.n_graphs)
        doubt = gone + farthest.index_select(0, graph.graph_index) > self._spare
        if not bool(doubt.any()):
            return None
        found = torch.zeros(graph.n_graphs, dtype=torch.bool, device=doubt.device)
        found[graph.graph_index[doubt]] = True
        return found

    def _measure(self, graph: AtomGraph, listed: Sequence[_Listed], atoms: Tensor) -> None:
        """Find out how far the nearest neighbour of each of some `atoms` (n_atoms,), bool, is."""
        nearest = torch.full_like(self._contact, torch.inf)
        for here in listed:
            least, distances = nearest[here.atoms], _lengths(here.vectors)
            least.scatter_reduce_(0, here.centre, distances, reduce="amin")
            least.scatter_reduce_(0, here.neighbour, distances, reduce="amin")
        # Lists may hold a few pairs beyond the radius, but not all of them.
        nearer = nearest.clamp(max=self._radius) - self._contact
        farther = (self.cutoff - _SLACK) - nearest.masked_fill(nearest > self._radius, torch.inf)
        assert self._there is not None, "set by legal"
        self._there = torch.where(atoms[:, None], graph.positions, self._there)
        self._spare = torch.where(atoms, torch.minimum(nearer, farther), self._spare)
        self._least_spare = float(self._spare.min())

    def _parts(self, graph: AtomGraph, potential: Potential) -> list[Part]:
        known = potential.pairs(graph, self._radius)
        if known is not None:
            return known
        if self._own is None or self._own.cutoff < self._radius:
            self._own = EdgeCache(self._radius, _SKIN, undirected=True)
        return self._own(graph)


def _lengths(vectors: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=1)
    return lengths
