"""Which atoms interact: edges of many structures, made anew only for those whose atoms have moved too far."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from relaxrl.graph import AtomGraph, scatter_sum
from relaxrl.neighbors import with_edges
from relaxrl.typing import FloatArray

_KEPT_BATCHES = 2
"""Structures remembered, in units of the largest batch so far: an environment's batches are changing selections."""


@dataclass(frozen=True)
class Topology:
    """Everything about the edges that stays the same while atoms move a little.

    Attributes:
        centre: (n_edges,), int64.
        neighbour: (n_edges,), int64.
        atomic_numbers: (n_atoms,), int64.
        cache: Values that a potential computes once for this topology, such as parameters gathered on edges.
    """

    centre: Tensor
    neighbour: Tensor
    atomic_numbers: Tensor
    cache: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)

    def once(self, name: str, make: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """The value of `make()`, computed at the first call with this name."""
        if name not in self.cache:
            self.cache[name] = make()
        return self.cache[name]

    def sum_to_atoms(self, values: Tensor, index: Tensor) -> Tensor:
        """Sums of edge `values` (n_edges, ...) over equal atoms `index` (n_edges,): (n_atoms, ...)."""
        return scatter_sum(values, index, len(self.atomic_numbers))

    def share_pairs(self, energies: Tensor) -> Tensor:
        """Pair energies (n_edges,), each pair once, as half for each of its atoms: (n_atoms,)."""
        return 0.5 * self.sum_to_atoms(energies, self.centre).index_add(0, self.neighbour, energies)


@dataclass(frozen=True)
class Edges:
    """The edges of a batch.

    Attributes:
        topology: Who is joined to whom.
        translation: (n_edges, 3), Å; what to add to the neighbour's position.
        graph_index: (n_edges,), int64; which structure an edge belongs to.
    """

    topology: Topology
    translation: Tensor
    graph_index: Tensor

    def vectors(self, positions: Tensor) -> Tensor:
        """Vectors from centres to neighbours, (n_edges, 3), Å, for positions (n_atoms, 3)."""
        vectors = positions.index_select(0, self.topology.neighbour) + self.translation
        return vectors - positions.index_select(0, self.topology.centre)


@dataclass(frozen=True)
class _Structure:
    """The edges of one structure, on the CPU, with atoms counted from 0, and the positions they were made for."""

    positions: FloatArray
    centre: Tensor
    neighbour: Tensor
    translation: Tensor


class _Variants:
    """Structures with the same elements and cell that differ in their positions."""

    def __init__(self) -> None:
        self.structures: list[_Structure] = []
        self._positions: FloatArray | None = None

    def add(self, structure: _Structure) -> None:
        self.structures.append(structure)
        self._positions = None

    def forget_oldest(self) -> None:
        del self.structures[0]
        self._positions = None

    def within(self, distance: float, positions: FloatArray) -> _Structure | None:
        """The newest of them whose atoms are all nearer than `distance` to `positions` (n, 3)."""
        if not self.structures:
            return None
        if self._positions is None:
            self._positions = np.stack([structure.positions for structure in self.structures])
        moved = np.square(self._positions - positions).sum(axis=-1).max(axis=-1)
        near = np.flatnonzero(moved < distance**2)
        return self.structures[near[-1]] if len(near) else None


class EdgeCache:
    """Edges with a skin, remembered for each structure until one of its atoms has moved by half of it.

    A structure is recognised by its elements, its cell and positions nearby, wherever in a batch it stands: selections
    of a batch, and batches in which a few structures are replaced, find most of their edges made.

    Args:
        cutoff: Å.
        skin: Å; 0 makes new edges at every call.
        undirected: Whether each pair appears once, rather than in both directions.
    """

    def __init__(self, cutoff: float, skin: float, undirected: bool) -> None:
        self.cutoff = cutoff
        self.skin = skin
        self.undirected = undirected
        self._known: OrderedDict[tuple[bytes, ...], _Variants] = OrderedDict()
        self._count = 0
        self._capacity = 0
        self._last: tuple[AtomGraph, Tensor, Edges] | None = None

    def __len__(self) -> int:
        """Structures remembered."""
        return self._count

    def __call__(self, graph: AtomGraph) -> Edges:
        """Edges of all pairs within the cutoff and some beyond it; positions must not be tracked by autograd."""
        if self._last is not None and self._unchanged(*self._last[:2], graph):
            return self._last[2]
        structures = self._structures(graph)
        reference = torch.from_numpy(np.concatenate([structure.positions for structure in structures]))
        edges = _joined(structures, graph)
        self._last = (graph, reference.to(graph.positions), edges)
        return edges

    def _unchanged(self, last: AtomGraph, reference: Tensor, graph: AtomGraph) -> bool:
        pairs = (
            (last.graph_index, graph.graph_index),
            (last.atomic_numbers, graph.atomic_numbers),
            (last.cell, graph.cell),
            (last.pbc, graph.pbc),
        )
        if not all(a.shape == b.shape and a.device == b.device and torch.equal(a, b) for a, b in pairs):
            return False
        moved = torch.linalg.vector_norm(graph.positions - reference, dim=-1)
        return bool((moved < 0.5 * self.skin).all())

    def _structures(self, graph: AtomGraph) -> list[_Structure]:
        self._capacity = max(self._capacity, _KEPT_BATCHES * graph.n_graphs)
        keys, positions = _keys_and_positions(graph)
        found = [self._recall(key, here) for key, here in zip(keys, positions, strict=True)]
        missing = [k for k, structure in enumerate(found) if structure is None]
        if missing:
            made = _make(graph.select(missing), self.cutoff + self.skin, self.undirected)
            for k, structure in zip(missing, made, strict=True):
                found[k] = structure
                self._remember(keys[k], structure)
        return [structure for structure in found if structure is not None]

    def _recall(self, key: tuple[bytes, ...], positions: FloatArray) -> _Structure | None:
        variants = self._known.get(key)
        structure = None if variants is None else variants.within(0.5 * self.skin, positions)
        if structure is not None:
            self._known.move_to_end(key)
        return structure

    def _remember(self, key: tuple[bytes, ...], structure: _Structure) -> None:
        if self.skin <= 0.0:
            return
        self._known.setdefault(key, _Variants()).add(structure)
        self._known.move_to_end(key)
        self._count += 1
        while self._count > self._capacity:
            oldest = next(iter(self._known.values()))
            oldest.forget_oldest()
            self._count -= 1
            if not oldest.structures:
                self._known.popitem(last=False)


def one_of_each_pair(centre: Tensor, neighbour: Tensor, shift: Tensor) -> Tensor:
    """Places of the edges with i < j, or with a lexicographically positive shift where an atom meets its own image."""
    x, y, z = shift.unbind(dim=1)
    positive = (x > 0) | ((x == 0) & ((y > 0) | ((y == 0) & (z > 0))))
    return torch.nonzero((centre < neighbour) | ((centre == neighbour) & positive)).flatten()


def _keys_and_positions(graph: AtomGraph) -> tuple[list[tuple[bytes, ...]], list[FloatArray]]:
    ends = np.cumsum(graph.atoms_per_graph.cpu().numpy())[:-1]
    numbers = np.split(graph.atomic_numbers.cpu().numpy(), ends)
    positions: list[FloatArray] = np.split(graph.positions.cpu().numpy(), ends)
    cells, pbc = graph.cell.cpu().numpy(), graph.pbc.cpu().numpy()
    keys: list[tuple[bytes, ...]] = [
        (a.tobytes(), b.tobytes(), c.tobytes()) for a, b, c in zip(numbers, cells, pbc, strict=True)
    ]
    return keys, positions


def _make(graph: AtomGraph, cutoff: float, undirected: bool) -> list[_Structure]:
    """The edges of each structure."""
    graph = with_edges(graph.to("cpu"), cutoff)
    if graph.edge_index is None or graph.edge_shift is None:
        raise AssertionError("with_edges makes edges")
    (centre, neighbour), shift = graph.edge_index, graph.edge_shift
    if undirected:
        kept = one_of_each_pair(centre, neighbour, shift)
        centre, neighbour, shift = centre[kept], neighbour[kept], shift[kept]
    of_edge = graph.graph_index[centre]
    translation = torch.einsum("es,esc->ec", shift, graph.cell[of_edge])
    first, counts = graph.ptr[:-1][of_edge], torch.bincount(of_edge, minlength=graph.n_graphs).tolist()
    columns = (
        torch.split(centre - first, counts),
        torch.split(neighbour - first, counts),
        torch.split(translation, counts),
    )
    _, positions = _keys_and_positions(graph)
    # Copies: a view would keep the whole batch alive for as long as one structure is remembered.
    return [
        _Structure(here.copy(), *(column.clone() for column in row))
        for here, *row in zip(positions, *columns, strict=True)
    ]


def _joined(structures: Sequence[_Structure], graph: AtomGraph) -> Edges:
    """The edges of all structures, on the graph's device, with atoms counted through the batch."""
    device = graph.positions.device
    counts = torch.tensor([len(structure.centre) for structure in structures], device=device)
    of_edge = torch.repeat_interleave(torch.arange(len(structures), device=device), counts)
    first = graph.ptr[:-1][of_edge]
    topology = Topology(
        centre=torch.cat([structure.centre for structure in structures]).to(device) + first,
        neighbour=torch.cat([structure.neighbour for structure in structures]).to(device) + first,
        atomic_numbers=graph.atomic_numbers,
    )
    translation = torch.cat([structure.translation for structure in structures]).to(graph.positions)
    return Edges(topology, translation, of_edge)
