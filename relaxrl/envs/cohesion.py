"""Whether structures hold together: an agent that takes atoms off where nothing is felt has not relaxed anything.

A structure is held together by the tree of its shortest bonds (single linkage: join the two nearest groups of atoms,
and again, until all are one; periodic images count). Lengths are in units of the sum of both covalent radii. Sorted,
the bonds of that tree are the distances at which the structure falls into two, three, ... pieces. It has come apart
where one of them is longer than `bond_stretch` times what it was at the start, or times 1 if that was shorter: so
squeezed starts may expand, and molecules that were apart from the start may stay so. Atoms and whole fragments that
leave a cluster, a molecule or the surface of a slab are noticed alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from ase.data import covalent_radii
from scipy.sparse import csr_array
from scipy.sparse.csgraph import minimum_spanning_tree
from torch import Tensor

from relaxrl.envs.config import EnvConfig
from relaxrl.graph import AtomGraph
from relaxrl.neighbors import pairs_within
from relaxrl.typing import FloatArray, IntArray

_RADII = np.asarray(covalent_radii, dtype=np.float64)  # (119,), Å, by atomic number


@dataclass(frozen=True)
class Bonds:
    """The tree of the shortest bonds of one structure; fewer than n_atoms - 1 where parts are out of reach.

    Attributes:
        centre: (n_bonds,), int64.
        neighbour: (n_bonds,), int64.
        shift: (n_bonds, 3); lattice translations of the neighbours.
        sums: (n_bonds,), Å; of the covalent radii of both atoms.
        lengths: (n_atoms - 1,), sorted, in sums of covalent radii; infinite where parts are out of reach.
    """

    centre: IntArray
    neighbour: IntArray
    shift: FloatArray
    sums: FloatArray
    lengths: FloatArray

    @classmethod
    def of(cls, graph: AtomGraph, reach: float) -> Bonds:
        """That of a batch of one.

        Args:
            graph: The structure.
            reach: Å; pairs farther apart are no bonds.
        """
        (i, j), shift = pairs_within(graph.to("cpu"), reach, each_once=True)
        real = i != j  # an atom's own images don't hold it
        centre, neighbour, cell = i[real].numpy(), j[real].numpy(), graph.cell[0].detach().cpu().numpy()
        shifts = shift[real].numpy().astype(np.float64)
        radii = _RADII[graph.atomic_numbers.detach().cpu().numpy()]
        sums = radii[centre] + radii[neighbour]
        lengths = _distances(graph.positions.detach().cpu().numpy(), centre, neighbour, shifts @ cell) / sums
        n = graph.n_atoms
        order = np.argsort(lengths, kind="stable")
        pairs, first = np.unique(centre[order] * n + neighbour[order], return_index=True)
        nearest = order[first]  # of all images of a pair
        tree = minimum_spanning_tree(csr_array((lengths[nearest], (pairs // n, pairs % n)), shape=(n, n))).tocoo()
        kept = nearest[np.searchsorted(pairs, tree.coords[0].astype(np.int64) * n + tree.coords[1])]
        missing = np.full(n - 1 - len(kept), np.inf)
        in_order = np.concatenate([np.sort(lengths[kept]), missing])
        return cls(centre[kept], neighbour[kept], shifts[kept], sums[kept], in_order)

    def now(self, positions: FloatArray, cell: FloatArray) -> FloatArray:
        """How long the same bonds are, (n_bonds,), in sums of covalent radii, elsewhere.

        Args:
            positions: (n_atoms, 3), Å.
            cell: (3, 3), Å.
        """
        stretched: FloatArray = _distances(positions, self.centre, self.neighbour, self.shift @ cell) / self.sums
        return stretched


class Cohesion:
    """Notices structures that come apart, with little work where no atom has gone far.

    A bond is stretched by no more than its two atoms have moved. So a structure in which each atom is nearer to its
    start than `bond_stretch` - 1 covalent radii is whole, and most of the others are so by the bonds they began with.
    Where cells strain, the start is carried along, and what they stretch is subtracted.

    Args:
        config: Options of the environment.
        n_envs: Structures in the batch.
    """

    def __init__(self, config: EnvConfig, n_envs: int) -> None:
        self.config = config
        self._bonds: list[Bonds | None] = [None] * n_envs  # of each start, once needed
        self._free = torch.empty(0)  # (n_atoms,), Å; how far each may go without a look at bonds
        self.free = 0.0
        """Å; as long as no atom is farther from its start, all structures are whole."""

    def begin(self, graph: AtomGraph, slots: Iterable[int]) -> None:
        """Take note of other structures.

        Args:
            graph: The structures from here on.
            slots: Those of them that are new.
        """
        for slot in slots:
            self._bonds[slot] = None
        radii = torch.from_numpy(_RADII).to(graph.positions)[graph.atomic_numbers]
        self._free = (self.config.bond_stretch - 1.0) * radii
        self.free = float(self._free.min())

    def broken(self, graph: AtomGraph, start: AtomGraph, moved: tuple[Tensor, Tensor] | None = None) -> Tensor | None:
        """Which structures have come apart, (n_graphs,), bool; None if none has.

        Args:
            graph: The structures.
            start: The same at the start of their episodes.
            moved: Where cells strain, where they have carried the atoms of the start, and their largest stretch; see
                `relaxrl.envs.cells.carried`.
        """
        origin, free = start.positions, self._free
        if moved is not None:
            origin, stretch = moved
            left = (self.config.bond_stretch - stretch.clamp(min=1.0)) / (self.config.bond_stretch - 1.0)
            free = free * left[graph.graph_index]
        gone: Tensor = torch.linalg.vector_norm(graph.positions - origin, dim=1)
        far = gone > free
        if not bool(far.any()):
            return None
        doubtful = torch.unique(graph.graph_index[far]).tolist()
        positions, ptr = graph.positions.detach().cpu().numpy(), graph.ptr.tolist()
        cells = graph.cell.detach().cpu().numpy()
        broken = [
            slot
            for slot in doubtful
            if self._apart(slot, positions[ptr[slot] : ptr[slot + 1]], cells[slot], start)
            and self._in_pieces(slot, graph)
        ]
        if not broken:
            return None
        found = torch.zeros(graph.n_graphs, dtype=torch.bool, device=graph.positions.device)
        found[broken] = True
        return found

    def _apart(self, slot: int, positions: FloatArray, cell: FloatArray, start: AtomGraph) -> bool:
        """Whether the bonds that a structure began with are too long; others may hold it still."""
        bonds = self._bonds[slot]
        if bonds is None:
            first = start.select([slot])
            reach = max(self.config.neighbor_cutoff, self.config.bond_stretch * _largest(first))
            bonds = self._bonds[slot] = Bonds.of(first, reach)
        present = np.sort(bonds.now(positions, cell))
        return bool((present > self._limits(bonds)[: len(present)]).any())

    def _in_pieces(self, slot: int, graph: AtomGraph) -> bool:
        """Whether no bonds at all hold a structure, one of those that `_apart` has looked at."""
        bonds, structure = self._bonds[slot], graph.select([slot])
        assert bonds is not None, "made by _apart"
        limits = self._limits(bonds)
        reach = _largest(structure) * float(limits[: len(bonds.centre)].max())
        return bool((Bonds.of(structure, reach).lengths > limits).any())

    def _limits(self, bonds: Bonds) -> FloatArray:
        """Longest bonds allowed, (n_atoms - 1,), sorted; parts that were out of reach at the start may stay so."""
        limits: FloatArray = self.config.bond_stretch * np.maximum(bonds.lengths, 1.0)
        return limits


def came_apart(start: AtomGraph, end: AtomGraph) -> Tensor:
    """Which structures of a batch have come apart on the way from start to end, (n_graphs,), bool; see the module."""
    cohesion = Cohesion(EnvConfig(), start.n_graphs)
    cohesion.begin(start, range(start.n_graphs))
    broken = cohesion.broken(end, start)
    return torch.zeros(start.n_graphs, dtype=torch.bool) if broken is None else broken


def _largest(structure: AtomGraph) -> float:
    """Largest sum of two covalent radii, Å."""
    return 2.0 * float(_RADII[structure.atomic_numbers.detach().cpu().numpy()].max())


def _distances(positions: FloatArray, centre: IntArray, neighbour: IntArray, translation: FloatArray) -> FloatArray:
    distances: FloatArray = np.linalg.norm(positions[neighbour] + translation - positions[centre], axis=1)
    return distances
