"""Edges of an `AtomGraph`: which atoms, periodic images included, are near each other.

Structures of up to a few hundred atoms are done all at once, on any device: all pairs of each structure, in all images
that can be near, are tried. On a CPU larger ones get their lists from vesin, one after another: its effort grows with
the number of atoms instead of its square.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import vesin
from torch import Tensor

from relaxrl.graph import AtomGraph, scatter_sum

_MOST_TRIED = 1_500_000
"""Pairs and images tried for a structure on a CPU; beyond it vesin is faster (about 250 atoms at a cutoff of 6 Å)."""

_FEWEST_ATOMS = 100
"""Atoms of all structures of one kind, below which vesin is faster on a CPU."""

_FEW_PAIRS = 4096
"""Pairs, below which one matrix product is faster on a CPU than an operation per image."""

_TRIED_AT_ONCE = {"cpu": 2**18, "other": 2**25}
"""Pairs and images tried in one go: what a processor's cache holds, and a part of a GPU's memory."""


def with_edges(graph: AtomGraph, cutoff: float, max_neighbors: int | None = None) -> AtomGraph:
    """The graph with directed edges i→j between all atoms closer than `cutoff`, periodic images included.

    Args:
        graph: The structures.
        cutoff: Å.
        max_neighbors: Keep only this many nearest neighbours of each centre; None keeps all. Which of several equally
            distant neighbours are kept is decided by order, and an atom passing another makes the edges jump: leave it
            at None unless memory forbids.

    Returns:
        A copy with `edge_index` (2, n_edges) and `edge_shift` (n_edges, 3), sorted by centre, neighbour and shift.
    """
    edge_index, edge_shift = pairs_within(graph, cutoff)
    graph = graph.replace(edge_index=edge_index, edge_shift=edge_shift.to(graph.positions.dtype))
    if max_neighbors is None:
        return graph
    distance = torch.linalg.vector_norm(graph.edge_vectors().detach(), dim=-1)
    kept = _nearest(edge_index[0], distance, max_neighbors, graph.n_atoms)
    return graph.replace(edge_index=edge_index[:, kept], edge_shift=edge_shift[kept].to(graph.positions.dtype))


@torch.no_grad()
def pairs_within(graph: AtomGraph, cutoff: float, each_once: bool = False) -> tuple[Tensor, Tensor]:
    """Pairs of atoms (2, n), int64, closer than `cutoff` Å, and the lattice translations (n, 3) of the second.

    Sorted by centre, neighbour and shift, so that sums over the pairs do not depend, in the last digit, on where the
    atoms were when the list was made: a resumed run has the same.

    Args:
        graph: The structures.
        cutoff: Å.
        each_once: Whether each pair appears once, as i < j, or with a lexicographically positive shift where an atom
            meets its own image; otherwise in both directions.

    Raises:
        ValueError: The vectors of a cell are zero or parallel in periodic directions.
    """
    cell = _full_cells(graph)
    if graph.positions.device.type == "cpu" and graph.n_atoms < _FEWEST_ATOMS:
        return _listed(graph, range(graph.n_graphs), cell, cutoff, each_once)
    positions = graph.positions.detach().to(torch.float64)
    sizes = graph.atoms_per_graph
    inverse, singular = torch.linalg.inv_ex(cell)
    if bool(singular.any()):
        k = int(torch.nonzero(singular)[0])
        raise ValueError(f"the cell vectors of structure {k} must span a volume, got {cell[k].tolist()}")
    # The cutoff in units of the distances between lattice planes, with a margin for rounding.
    reach = (cutoff * torch.linalg.vector_norm(inverse, dim=1) + 1e-9) * graph.pbc
    # Structures of about the same size and number of images are done together.
    alike = torch.stack([sizes.to(torch.float64).log2().ceil(), (2 * reach.amax(dim=1)).floor()], dim=1)
    kinds, kind = torch.unique(alike, dim=0, return_inverse=True)
    by_list = torch.zeros_like(graph.pbc[:, 0])
    if positions.device.type == "cpu":
        tried = sizes**2 * (2 * reach + 1).prod(dim=1)
        by_list = (tried > _MOST_TRIED) | (scatter_sum(sizes, kind, len(kinds))[kind] < _FEWEST_ATOMS)
    found: list[tuple[Tensor, Tensor]] = []
    if bool(by_list.any()):
        found.append(_listed(graph, torch.nonzero(by_list).flatten().tolist(), cell, cutoff, each_once))
    groups = torch.unique(kind[~by_list]).tolist()
    for group in groups:
        chosen = torch.nonzero((kind == group) & ~by_list).flatten()
        found += _tried(positions, cell, inverse, graph.pbc, reach, graph.ptr, chosen, cutoff, each_once)
    pairs, shifts = torch.cat([index for index, _ in found], dim=1), torch.cat([shift for _, shift in found])
    if len(groups) + int(by_list.any()) == 1:
        return pairs, shifts
    order = torch.argsort(pairs[0], stable=True)  # each centre's edges come from one place, where they are in order
    return pairs[:, order], shifts[order]


def _tried(
    positions: Tensor,
    cell: Tensor,
    inverse: Tensor,
    pbc: Tensor,
    reach: Tensor,
    ptr: Tensor,
    chosen: Tensor,
    cutoff: float,
    each_once: bool,
) -> list[tuple[Tensor, Tensor]]:
    """Pairs of the `chosen` structures, padded to one size, by trying all in all images within the largest `reach`."""
    farthest = reach[chosen].amax(dim=0).tolist()
    images = _images(farthest, positions)
    largest = int((ptr[chosen + 1] - ptr[chosen]).max())
    local = torch.arange(largest, device=positions.device)
    i, j = local[:, None, None], local[None, :, None]
    wanted = (i < j) | ((i == j) & _positive(images)) if each_once else (i != j) | (images != 0).any(dim=1)
    at_once = _TRIED_AT_ONCE["cpu" if positions.device.type == "cpu" else "other"]
    found = []
    for part in torch.split(chosen, max(1, at_once // (largest**2 * len(images)))):
        there = local < (ptr[part + 1] - ptr[part])[:, None]
        rows = torch.where(there, ptr[part][:, None] + local, ptr[part][:, None])
        fractional = (positions[rows] @ inverse[part]).permute(2, 0, 1).contiguous()
        # Component by component: sums over three neighbouring numbers and gathered rows take several times as long.
        wrapped, home = [], []
        for axis, x in enumerate(fractional):
            difference = x[:, None, :] - x[:, :, None]
            whole = difference.floor() if _from_zero(farthest[axis]) else difference.round()
            whole *= pbc[part, axis, None, None]
            wrapped.append(difference.sub_(whole))
            home.append(whole)
        # |(f + n) C|² = a + 2 b·n + c, with b = f C Cᵀ
        metric = (cell[part] @ cell[part].mT)[..., None, None]
        limit = torch.full_like(wrapped[0], cutoff**2)
        b = []
        for row in range(3):
            column = wrapped[0] * metric[:, row, 0]
            column.addcmul_(wrapped[1], metric[:, row, 1]).addcmul_(wrapped[2], metric[:, row, 2])
            limit.addcmul_(wrapped[row], column, value=-1.0)
            b.append(column.mul_(2.0))
        c = (images @ cell[part]).square().sum(dim=-1)
        c.masked_fill_(((images != 0) & ~pbc[part][:, None]).any(dim=-1), torch.inf)
        if limit.numel() < _FEW_PAIRS or positions.device.type != "cpu":
            near = torch.stack(b, dim=-1) @ images.T + c[:, None, None, :] < limit[..., None]
        else:
            near = torch.empty(*limit.shape, len(images), dtype=torch.bool)
            for k, (x, y, z) in enumerate(images.tolist()):
                product = b[0] * x
                product.add_(b[1], alpha=y).add_(b[2], alpha=z).add_(c[:, k, None, None])
                torch.lt(product, limit, out=near[..., k])
        near &= wanted
        if not bool(there.all()):
            near &= (there[:, :, None] & there[:, None, :])[..., None]
        found.append(_edges_at(_places(near.flatten()), ptr[part], largest, images, home))
    return found


def _edges_at(places: Tensor, first: Tensor, size: int, images: Tensor, home: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Pairs and shifts from places in an array (structures, size, size, images)."""
    pair = torch.div(places, len(images), rounding_mode="trunc")
    image = places - pair * len(images)
    centre = torch.div(pair, size, rounding_mode="trunc")
    neighbour = pair - centre * size
    graph = torch.div(centre, size, rounding_mode="trunc")
    offset = first.index_select(0, graph)
    pairs = torch.stack([centre - graph * size + offset, neighbour + offset])
    shifts = [
        translation.index_select(0, image) - whole.flatten().index_select(0, pair)
        for translation, whole in zip(images.T.contiguous(), home, strict=True)
    ]
    return pairs, torch.stack(shifts, dim=1)


def _places(mask: Tensor) -> Tensor:
    """Where a mask (n,) holds; NumPy is several times as fast as torch at this."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return torch.nonzero(mask).flatten()


def _from_zero(reach: float) -> bool:
    """Whether fewer images are in reach if differences are wrapped to [0, 1) rather than to [-1/2, 1/2]."""
    return reach % 1.0 >= 0.5


def _images(reach: list[float], like: Tensor) -> Tensor:
    """All lattice translations within `reach` of wrapped differences, in lexicographic order, (n_images, 3)."""
    ranges = []
    for x in reach:
        half = 0.0 if _from_zero(x) else 0.5
        first, last = -math.floor(x + 1.0 - half), math.floor(x + half)
        ranges.append(torch.arange(first, last + 1, dtype=like.dtype, device=like.device))
    return torch.cartesian_prod(*ranges)


def _positive(shifts: Tensor) -> Tensor:
    """Whether the first component that is not zero is positive, (n,), bool; not where there is none."""
    x, y, z = shifts.unbind(dim=1)
    return (x > 0) | ((x == 0) & ((y > 0) | ((y == 0) & (z > 0))))


def _listed(
    graph: AtomGraph, chosen: Sequence[int], cell: Tensor, cutoff: float, each_once: bool
) -> tuple[Tensor, Tensor]:
    """Pairs of the chosen structures by vesin."""
    ptr, cells, pbc = graph.ptr.tolist(), cell.numpy(), graph.pbc.numpy()
    positions = graph.positions.detach().numpy().astype(np.float64, copy=False)
    neighbor_list = vesin.NeighborList(cutoff=cutoff, full_list=True, sorted=False)
    indices, shifts = [], []
    for k in chosen:
        i, j, shift = neighbor_list.compute(
            points=positions[ptr[k] : ptr[k + 1]], box=cells[k], periodic=pbc[k], quantities="ijS"
        )
        indices.append(np.stack([i, j]).astype(np.int64) + ptr[k])
        shifts.append(shift)
    pairs, images = torch.from_numpy(np.concatenate(indices, axis=1)), torch.from_numpy(np.concatenate(shifts))
    if each_once:
        kept = (pairs[0] < pairs[1]) | ((pairs[0] == pairs[1]) & _positive(images))
        pairs, images = pairs[:, kept], images[kept]
    # Centre, neighbour and shift as one number each: sorting by three keys takes longer.
    reach = int(images.abs().max()) if len(images) else 0
    span, whole = 2 * reach + 1, images.to(torch.int64) + reach
    key = ((whole[:, 0] * span) + whole[:, 1]) * span + whole[:, 2] + (pairs[0] * graph.n_atoms + pairs[1]) * span**3
    order = torch.from_numpy(np.argsort(key.numpy(), kind="stable"))
    return pairs[:, order], images[order].to(torch.float64)


def _full_cells(graph: AtomGraph) -> Tensor:
    """Cells (n_graphs, 3, 3), float64, made invertible.

    Vectors that are missing in directions without periodicity are replaced by unit vectors normal to the others.
    """
    cell = graph.cell.detach().to(torch.float64)
    missing = (torch.linalg.vector_norm(cell, dim=-1) < 1e-8) & ~graph.pbc
    if not bool(missing.any()):
        return cell
    cell = cell.clone()
    for k in torch.nonzero(missing.any(dim=1)).flatten().tolist():
        absent = missing[k]
        # The right singular vectors beyond the rank of the present vectors are normal to these and to each other.
        normals = torch.linalg.svd(cell[k][~absent], full_matrices=True).Vh[3 - int(absent.sum()) :]
        cell[k, absent] = normals
    return cell


def _nearest(centres: Tensor, distances: Tensor, n: int, n_atoms: int) -> Tensor:
    """Places of each centre's `n` nearest edges, in the original order."""
    order = torch.argsort(distances, stable=True)
    order = order[torch.argsort(centres[order], stable=True)]
    counts = torch.bincount(centres, minlength=n_atoms)
    first = counts.cumsum(0) - counts
    rank = torch.arange(len(order), device=order.device) - first[centres[order]]
    kept: Tensor = order[rank < n].sort().values
    return kept
