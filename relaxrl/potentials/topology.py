"""Which atoms interact: edges of many structures, made anew only for those whose atoms have moved too far."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from relaxrl.graph import AtomGraph, scatter_sum
from relaxrl.neighbors import pairs_within
from relaxrl.typing import FloatArray

_KEPT_BATCHES = 2
"""Batches of different length remembered, and structures, in units of the largest batch so far: an environment's
batches are changing selections."""


_PART_EDGES = 40_000
"""Edges of a part of a batch on a CPU: enough to make the time spent outside of the arithmetic small."""


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
        length: (n_edges,), Å; where the edges were made.
    """

    topology: Topology
    translation: Tensor
    graph_index: Tensor
    length: Tensor

    def vectors(self, positions: Tensor) -> Tensor:
        """Vectors from centres to neighbours, (n_edges, 3), Å, for positions (n_atoms, 3)."""
        vectors = positions.index_select(0, self.topology.neighbour) + self.translation
        return vectors - positions.index_select(0, self.topology.centre)


@dataclass(frozen=True)
class Part:
    """Consecutive structures of a batch, whose atoms are counted from 0.

    Attributes:
        edges: Their edges.
        atoms: Which atoms of the batch they are.
        graphs: Which structures of the batch they are.
        shorter: The edges up to smaller lengths, where they have been asked for.
    """

    edges: Edges
    atoms: slice
    graphs: slice
    shorter: dict[float, Edges] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class _Structure:
    """The edges of one structure, with atoms counted from 0, and the positions they were made for."""

    reference: Tensor
    positions: FloatArray  # the same on the CPU
    centre: Tensor
    neighbour: Tensor
    translation: Tensor
    length: Tensor


@dataclass(frozen=True)
class _Batch:
    """Structures where their edges were made, and these edges."""

    reference: AtomGraph
    structures: list[_Structure]
    parts: list[Part]


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
        # Most are told apart by their first atom.
        maybe = np.flatnonzero(np.square(self._positions[:, 0] - positions[0]).sum(axis=-1) < distance**2)
        moved = np.square(self._positions[maybe] - positions).sum(axis=-1).max(axis=-1)
        near = maybe[moved < distance**2]
        return self.structures[near[-1]] if len(near) else None


class EdgeCache:
    """Edges with a skin, remembered for each structure until one of its atoms has moved by half of it.

    Slot by slot of the batch: where a structure is replaced, or has moved too far, only the edges of the part of the
    batch that it belongs to are joined anew. In a batch of another length, structures are recognised by their elements,
    their cell and positions nearby, wherever they stand, so that selections of a batch find their edges made.

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
        self._batches: OrderedDict[int, _Batch] = OrderedDict()  # the last calls, by the number of structures

    def __len__(self) -> int:
        """Structures remembered."""
        return self._count

    def __call__(self, graph: AtomGraph) -> list[Part]:
        """Edges of all pairs within the cutoff and some beyond it; positions must not be tracked by autograd."""
        return self._batch(graph).parts

    def within(self, graph: AtomGraph, radius: float) -> list[Part]:
        """The shorter of these edges: all up to `radius` Å, at most the cutoff, and some beyond it."""
        batch, longest = self._batch(graph), radius + self.skin
        shorter = []
        for part in batch.parts:
            if longest not in part.shorter:
                part.shorter[longest] = _up_to(part.edges, longest)
            shorter.append(Part(part.shorter[longest], part.atoms, part.graphs))
        return shorter

    def _batch(self, graph: AtomGraph) -> _Batch:
        old = self._batches.get(graph.n_graphs)
        if old is not None and old.reference.positions.device != graph.positions.device:
            old = None
        changed = list(range(graph.n_graphs)) if old is None else _changed(old.reference, graph, 0.5 * self.skin)
        if old is not None and not changed:
            return old
        self._capacity = max(self._capacity, _KEPT_BATCHES * graph.n_graphs)
        found = self._found(graph.select(changed), recall=old is None)
        if old is None or len(found) == graph.n_graphs:
            structures, parts = found, []
        else:
            structures, parts = old.structures.copy(), old.parts
            for k, structure in zip(changed, found, strict=True):
                structures[k] = structure
        parts = _joined(graph, structures, set(changed), parts)
        reference = graph.replace(positions=torch.cat([structure.reference for structure in structures]))
        self._batches[graph.n_graphs] = _Batch(reference, structures, parts)
        self._batches.move_to_end(graph.n_graphs)
        while len(self._batches) > _KEPT_BATCHES:
            self._batches.popitem(last=False)
        return self._batches[graph.n_graphs]

    def _found(self, graph: AtomGraph, recall: bool) -> list[_Structure]:
        """The edges of each structure, new ones and, if to be looked for, remembered ones."""
        keys, positions = _keys_and_positions(graph)
        found = [self._recall(key, here) if recall else None for key, here in zip(keys, positions, strict=True)]
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
    place = str(graph.positions.device).encode()
    keys: list[tuple[bytes, ...]] = [
        (a.tobytes(), b.tobytes(), c.tobytes(), place) for a, b, c in zip(numbers, cells, pbc, strict=True)
    ]
    return keys, positions


def _make(graph: AtomGraph, cutoff: float, undirected: bool) -> list[_Structure]:
    """The edges of each structure."""
    (centre, neighbour), shift = pairs_within(graph, cutoff, each_once=undirected)
    of_edge = graph.graph_index[centre]
    counts = torch.bincount(of_edge, minlength=graph.n_graphs).tolist()
    translation = torch.cat([s @ c for s, c in zip(torch.split(shift, counts), graph.cell, strict=True)])
    first = graph.ptr[:-1][of_edge]
    length = torch.linalg.vector_norm(graph.positions[neighbour] + translation - graph.positions[centre], dim=1)
    columns = (
        torch.split(graph.positions, graph.atoms_per_graph.tolist()),
        _keys_and_positions(graph)[1],
        torch.split(centre - first, counts),
        torch.split(neighbour - first, counts),
        torch.split(translation, counts),
        torch.split(length, counts),
    )
    # Copies: a view would keep the whole batch alive for as long as one structure is remembered.
    return [
        _Structure(reference.clone(), here.copy(), *(column.clone() for column in row))
        for reference, here, *row in zip(*columns, strict=True)
    ]


def _join(structures: Sequence[_Structure], atomic_numbers: Tensor) -> Edges:
    """The edges of several structures, with atoms counted through them."""
    device = atomic_numbers.device
    counts = torch.tensor([len(structure.centre) for structure in structures], device=device)
    sizes = [len(structure.positions) for structure in structures]
    first = torch.tensor([0, *np.cumsum(sizes)[:-1]], device=device)
    of_edge = torch.repeat_interleave(torch.arange(len(structures), device=device), counts)
    offset = torch.repeat_interleave(first, counts)
    topology = Topology(
        centre=torch.cat([structure.centre for structure in structures]).add_(offset),
        neighbour=torch.cat([structure.neighbour for structure in structures]).add_(offset),
        atomic_numbers=atomic_numbers,
    )
    translation = torch.cat([structure.translation for structure in structures])
    return Edges(topology, translation, of_edge, torch.cat([structure.length for structure in structures]))


def _up_to(edges: Edges, longest: float) -> Edges:
    """The edges that were shorter than `longest` Å when they were made."""
    kept, topology = torch.nonzero(edges.length < longest).flatten(), edges.topology
    return Edges(
        Topology(
            topology.centre.index_select(0, kept), topology.neighbour.index_select(0, kept), topology.atomic_numbers
        ),
        edges.translation.index_select(0, kept),
        edges.graph_index.index_select(0, kept),
        edges.length.index_select(0, kept),
    )


def _changed(last: AtomGraph, graph: AtomGraph, far: float) -> list[int]:
    """Places of the structures of a batch that are others than before, or of which an atom has moved by `far` Å."""
    changed = (last.cell != graph.cell).flatten(1).any(dim=1) | (last.pbc != graph.pbc).any(dim=1)
    here, there, index = graph, last, graph.graph_index
    if not (last.n_atoms == graph.n_atoms and torch.equal(last.graph_index, graph.graph_index)):
        resized = last.atoms_per_graph != graph.atoms_per_graph
        changed |= resized
        alike = torch.nonzero(~resized).flatten()
        here, there = graph.select(alike), last.select(alike)
        index = alike[here.graph_index]
    moved = (here.positions - there.positions).square().sum(dim=1) >= far**2
    moved |= here.atomic_numbers != there.atomic_numbers
    changed[index[moved]] = True
    places: list[int] = torch.nonzero(changed).flatten().tolist()
    return places


def _joined(graph: AtomGraph, structures: Sequence[_Structure], changed: set[int], old: Sequence[Part]) -> list[Part]:
    """The parts of the batch; of the `old` ones those without a changed structure are taken over."""
    ptr, counts = graph.ptr.tolist(), [len(structure.centre) for structure in structures]
    if any(sum(counts[part.graphs]) > 2 * _PART_EDGES and _length(part.graphs) > 1 for part in old):
        old = []
    parts = []
    for place, graphs in enumerate([part.graphs for part in old] or _divided(counts, graph.positions.device.type)):
        atoms = slice(ptr[graphs.start], ptr[graphs.stop])
        if old and changed.isdisjoint(range(graphs.start, graphs.stop)):
            parts.append(replace(old[place], atoms=atoms))
        else:
            parts.append(Part(_join(structures[graphs], graph.atomic_numbers[atoms]), atoms, graphs))
    return parts


def _divided(counts: Sequence[int], device: str) -> list[slice]:
    """Consecutive structures with so many edges that their arrays stay in a processor's cache; all of them on a GPU."""
    if device != "cpu":
        return [slice(0, len(counts))]
    parts, first, edges = [], 0, 0
    for k, count in enumerate(counts):
        edges += count
        if edges >= _PART_EDGES or k + 1 == len(counts):
            parts.append(slice(first, k + 1))
            first, edges = k + 1, 0
    return parts


def _length(part: slice) -> int:
    return int(part.stop) - int(part.start)
