"""`AtomGraph`: a batch of (periodic) structures as tensors, the one currency between all rooms."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_PER_ATOM = ("positions", "atomic_numbers", "forces", "previous_displacement", "previous_forces")
_PER_GRAPH = ("cell", "pbc", "energy", "stress", "features")


@dataclass(frozen=True)
class AtomGraph:
    """A batch of structures; one structure is a batch of length 1.

    Atoms of one structure are contiguous: `graph_index` is sorted. Positions are never wrapped into the cell, so that
    the difference of two positions of one atom is the displacement it made.

    Attributes:
        positions: (n_atoms, 3), Å.
        cell: (n_graphs, 3, 3), Å; rows are the lattice vectors. Zero rows where a direction has no cell.
        pbc: (n_graphs, 3), bool.
        atomic_numbers: (n_atoms,), int64.
        graph_index: (n_atoms,), int64; which structure an atom belongs to.
        forces: (n_atoms, 3), eV/Å, at these positions; None where not evaluated.
        energy: (n_graphs,), eV.
        stress: (n_graphs, 3, 3), eV/Å³, symmetric, positive under tension (as in ASE); None where not evaluated.
        previous_displacement: (n_atoms, 3), Å; the step that led here, zero at an episode's start.
        previous_forces: (n_atoms, 3), eV/Å; forces before that step, equal to `forces` at an episode's start.
        features: (n_graphs, k); optional environment features, global invariant scalars.
        edge_index: (2, n_edges), int64; row 0 the centre i (receives), row 1 the neighbour j (sends).
        edge_shift: (n_edges, 3); lattice translations S, so that the edge vector is r_j + S @ cell - r_i.

    Raises:
        ValueError: A shape or a dtype is not as above.
    """

    positions: Tensor
    cell: Tensor
    pbc: Tensor
    atomic_numbers: Tensor
    graph_index: Tensor
    forces: Tensor | None = None
    energy: Tensor | None = None
    previous_displacement: Tensor | None = None
    previous_forces: Tensor | None = None
    features: Tensor | None = None
    edge_index: Tensor | None = None
    edge_shift: Tensor | None = None
    stress: Tensor | None = None

    def __post_init__(self) -> None:
        n_atoms, n_graphs = self.positions.shape[0], self.cell.shape[0]
        per_atom, vectors = (n_atoms,), (n_atoms, 3)
        # Written out, because environments make several graphs in each step.
        expected: tuple[tuple[str, Tensor | None, tuple[int | str, ...]], ...] = (
            ("positions", self.positions, vectors),
            ("cell", self.cell, (n_graphs, 3, 3)),
            ("pbc", self.pbc, (n_graphs, 3)),
            ("atomic_numbers", self.atomic_numbers, per_atom),
            ("graph_index", self.graph_index, per_atom),
            ("forces", self.forces, vectors),
            ("energy", self.energy, (n_graphs,)),
            ("stress", self.stress, (n_graphs, 3, 3)),
            ("previous_displacement", self.previous_displacement, vectors),
            ("previous_forces", self.previous_forces, vectors),
        )
        open_ended: tuple[tuple[str, Tensor | None, tuple[int | str, ...]], ...] = (
            ("features", self.features, (n_graphs, "k")),
            ("edge_index", self.edge_index, (2, "n_edges")),
            ("edge_shift", self.edge_shift, ("n_edges", 3)),
        )
        for name, value, shape in expected:
            if value is not None and value.shape != shape:
                raise _wrong_shape(name, value, shape, n_atoms, n_graphs)
        for name, value, shape in open_ended:
            if value is not None and not _fits(value.shape, shape):
                raise _wrong_shape(name, value, shape, n_atoms, n_graphs)
        if (self.edge_index is None) != (self.edge_shift is None):
            raise ValueError("`edge_index` and `edge_shift` must be given together")

    @property
    def n_atoms(self) -> int:
        """Atoms of all structures together."""
        return self.positions.shape[0]

    @property
    def n_graphs(self) -> int:
        """Structures in the batch."""
        return self.cell.shape[0]

    @property
    def atoms_per_graph(self) -> Tensor:
        """Atoms of each structure, (n_graphs,), int64."""
        return torch.bincount(self.graph_index, minlength=self.n_graphs)

    @property
    def ptr(self) -> Tensor:
        """Index of each structure's first atom and, last, the number of atoms: (n_graphs + 1,), int64."""
        return torch.cat([self.graph_index.new_zeros(1), self.atoms_per_graph.cumsum(0)])

    def replace(self, **changes: Tensor | None) -> AtomGraph:
        """A copy with some fields changed."""
        return AtomGraph(**(self.__dict__ | changes))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> AtomGraph:
        """A copy on `device` with all floating-point fields of `dtype`."""
        moved = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None:
                moved[field.name] = value.to(device=device, dtype=dtype if value.is_floating_point() else None)
        return AtomGraph(**moved)

    def without_edges(self) -> AtomGraph:
        """A copy without edges; for example because the atoms have moved."""
        return self.replace(edge_index=None, edge_shift=None)

    def edge_vectors(self) -> Tensor:
        """Vectors from each edge's centre to its neighbour, (n_edges, 3), Å.

        Raises:
            ValueError: The graph has no edges; see `relaxrl.neighbors.with_edges`.
        """
        if self.edge_index is None or self.edge_shift is None:
            raise ValueError("the graph has no edges; make them with relaxrl.neighbors.with_edges(graph, cutoff)")
        centre, neighbour = self.edge_index
        translation = torch.einsum("es,esc->ec", self.edge_shift, self.cell[self.graph_index[centre]])
        return self.positions[neighbour] + translation - self.positions[centre]

    def unbatch(self) -> list[AtomGraph]:
        """The structures one by one, each a batch of length 1, without edges."""
        sizes = self.atoms_per_graph.tolist()
        parts: list[dict[str, Tensor]] = [{} for _ in sizes]
        for name in (*_PER_ATOM, *_PER_GRAPH):
            value = getattr(self, name)
            if value is None:
                continue
            chunks = value.split(sizes) if name in _PER_ATOM else value.split(1)
            for part, chunk in zip(parts, chunks, strict=True):
                part[name] = chunk
        zeros = [self.graph_index.new_zeros(size) for size in sizes]
        return [AtomGraph(**part, graph_index=zero) for part, zero in zip(parts, zeros, strict=True)]

    @staticmethod
    def batch(graphs: Sequence[AtomGraph]) -> AtomGraph:
        """Several batches as one, in order, without edges.

        Raises:
            ValueError: The list is empty, or a field is set in some of the graphs only.
        """
        if not graphs:
            raise ValueError("can't make a batch of no graphs")
        fields: dict[str, Tensor] = {}
        for name in (*_PER_ATOM, *_PER_GRAPH):
            values = [value for graph in graphs if (value := getattr(graph, name)) is not None]
            if len(values) not in (0, len(graphs)):
                raise ValueError(f"`{name}` is set in {len(values)} of {len(graphs)} graphs; it must be in all or none")
            if values:
                fields[name] = torch.cat(values)
        offset, index = 0, []
        for graph in graphs:
            index.append(graph.graph_index + offset)
            offset += graph.n_graphs
        return AtomGraph(**fields, graph_index=torch.cat(index))

    def select(self, graphs: Tensor | Sequence[int]) -> AtomGraph:
        """Some of the structures, in the order asked for, without edges."""
        wanted = torch.as_tensor(graphs, dtype=torch.int64, device=self.graph_index.device)
        ptr, sizes = self.ptr, self.atoms_per_graph[wanted]
        graph_index = torch.repeat_interleave(torch.arange(len(wanted), device=wanted.device), sizes)
        first = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])[:-1]
        atoms = torch.arange(len(graph_index), device=wanted.device) - first[graph_index] + ptr[wanted][graph_index]
        fields = {}
        for name in (*_PER_ATOM, *_PER_GRAPH):
            value = getattr(self, name)
            if value is not None:
                fields[name] = value[atoms] if name in _PER_ATOM else value[wanted]
        return AtomGraph(**fields, graph_index=graph_index)


def _fits(got: Sequence[int], shape: tuple[int | str, ...]) -> bool:
    """Whether lengths are as expected; names stand for any length."""
    return len(got) == len(shape) and all(
        isinstance(want, str) or want == have for want, have in zip(shape, got, strict=True)
    )


def _wrong_shape(name: str, value: Tensor, shape: tuple[int | str, ...], n_atoms: int, n_graphs: int) -> ValueError:
    named = f"n_atoms={n_atoms}, n_graphs={n_graphs}"
    return ValueError(f"`{name}` must have shape {shape} ({named}), got {tuple(value.shape)}")


def scatter_sum(values: Tensor, index: Tensor, n: int) -> Tensor:
    """Sums of `values` (m, ...) over equal entries of `index` (m,), as (n, ...)."""
    return values.new_zeros((n, *values.shape[1:])).index_add_(0, index, values)


def scatter_mean(values: Tensor, index: Tensor, n: int) -> Tensor:
    """Means of `values` (m, ...) over equal entries of `index` (m,), as (n, ...); 0 where there are none."""
    counts = torch.bincount(index, minlength=n).clamp(min=1).to(values.dtype)
    return scatter_sum(values, index, n) / counts.reshape(n, *([1] * (values.dim() - 1)))


def scatter_max(values: Tensor, index: Tensor, n: int) -> Tensor:
    """Maxima of `values` (m,) over equal entries of `index` (m,), as (n,); -inf where there are none."""
    return values.new_full((n,), -torch.inf).scatter_reduce_(0, index, values, reduce="amax", include_self=True)


def force_norms(forces: Tensor) -> Tensor:
    """|F_i| of each atom, (n_atoms,), eV/Å."""
    norms: Tensor = torch.linalg.vector_norm(forces, dim=-1)
    return norms


def max_force(graph: AtomGraph) -> Tensor:
    """F_max = max_i |F_i| of each structure, (n_graphs,), eV/Å.

    Raises:
        ValueError: The graph has no forces.
    """
    if graph.forces is None:
        raise ValueError("the graph has no forces; evaluate a potential first")
    return scatter_max(force_norms(graph.forces), graph.graph_index, graph.n_graphs)
