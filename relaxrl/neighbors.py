"""Edges of an `AtomGraph`: neighbour lists from vesin."""

from __future__ import annotations

import numpy as np
import torch
import vesin

from relaxrl.graph import AtomGraph


def with_edges(graph: AtomGraph, cutoff: float, max_neighbors: int | None = None) -> AtomGraph:
    """The graph with directed edges i→j between all atoms closer than `cutoff`, periodic images included.

    Args:
        graph: The structures.
        cutoff: Å.
        max_neighbors: Keep only this many nearest neighbours of each centre; None keeps all. Which of several equally
            distant neighbours are kept is decided by order, and an atom passing another makes the edges jump: leave it
            at None unless memory forbids.

    Returns:
        A copy with `edge_index` (2, n_edges) and `edge_shift` (n_edges, 3).
    """
    counts = graph.atoms_per_graph.tolist()
    positions = graph.positions.detach().cpu().numpy().astype(np.float64, copy=False)
    cells = graph.cell.detach().cpu().numpy().astype(np.float64, copy=False)
    pbc = graph.pbc.cpu().numpy()
    neighbor_list = vesin.NeighborList(cutoff=cutoff, full_list=True, sorted=True)
    centres, neighbours, shifts, first = [], [], [], 0
    for size, cell, periodic in zip(counts, cells, pbc, strict=True):
        i, j, shift, distance = neighbor_list.compute(
            points=positions[first : first + size],
            box=_full_cell(cell, periodic),
            periodic=periodic,
            quantities="ijSd",
        )
        if max_neighbors is not None:
            kept = _nearest(i, distance, max_neighbors)
            i, j, shift = i[kept], j[kept], shift[kept]
        centres.append(i.astype(np.int64) + first)
        neighbours.append(j.astype(np.int64) + first)
        shifts.append(shift)
        first += size
    device = graph.positions.device
    pairs, images = np.stack([np.concatenate(centres), np.concatenate(neighbours)]), np.concatenate(shifts)
    order = _canonical(pairs, images)
    edge_index = torch.from_numpy(pairs[:, order]).to(device)
    edge_shift = torch.from_numpy(images[order]).to(device=device, dtype=graph.positions.dtype)
    return graph.replace(edge_index=edge_index, edge_shift=edge_shift)


def _full_cell(cell: np.ndarray, periodic: np.ndarray) -> np.ndarray:
    """Vesin wants an invertible box: non-periodic directions without a cell get unit vectors normal to the others."""
    if periodic.all() or not periodic.any():
        return cell
    full = cell.copy()
    for axis in np.flatnonzero(~periodic):
        others = full[[k for k in range(3) if k != axis]]
        if np.linalg.norm(full[axis]) < 1e-8:
            normal = np.linalg.svd(others)[2][-1]
            full[axis] = normal
    return full


def _canonical(pairs: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Order of edges by centre, neighbour and shift.

    Vesin's order of the images of one pair depends on where the atoms are. Sums over edges would then depend, in the
    last digit, on when a list with a skin was made, and a resumed run would drift away from an uninterrupted one.
    """
    whole = shifts.astype(np.int64)
    reach = int(np.abs(whole).max(initial=0))
    n_atoms, span = int(pairs.max(initial=0)) + 1, 2 * reach + 1
    image = ((whole[:, 0] + reach) * span + whole[:, 1] + reach) * span + whole[:, 2] + reach
    order: np.ndarray = np.argsort((pairs[0] * n_atoms + pairs[1]) * span**3 + image, kind="stable")
    return order


def _nearest(centres: np.ndarray, distances: np.ndarray, n: int) -> np.ndarray:
    """Indices of each centre's `n` nearest edges, in the original order."""
    order = np.lexsort((distances, centres))
    ordered = centres[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    return np.sort(order[rank < n])
