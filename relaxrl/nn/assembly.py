"""Dense symmetric matrices from per-edge blocks and per-site vectors, batched over structures.

All matrices act on displacements: H is padded to the largest structure of the batch, (n_graphs, 3 n_max, 3 n_max).
Both parts depend on differences of displacements only, so that a rigid translation costs nothing (acoustic sum rule).
"""

from __future__ import annotations

import torch
from torch import Tensor


class Padding:
    """Where each atom of a ragged batch stands in a batch padded to the largest structure.

    Args:
        graph_index: (n_atoms,), int64, sorted; which structure an atom belongs to.
        n_graphs: Structures in the batch.
    """

    def __init__(self, graph_index: Tensor, n_graphs: int) -> None:
        sizes = torch.bincount(graph_index, minlength=n_graphs)
        self.n_graphs = n_graphs
        self.n_max = int(sizes.max())
        self.graph_index = graph_index
        self.local = torch.arange(len(graph_index), device=sizes.device) - (sizes.cumsum(0) - sizes)[graph_index]
        self.slot = self.graph_index * self.n_max + self.local

    def pad(self, vectors: Tensor) -> Tensor:
        """(n_atoms, 3) as (n_graphs, 3 n_max), zeros where there is no atom."""
        padded = vectors.new_zeros((self.n_graphs * self.n_max, 3))
        return padded.index_copy(0, self.slot, vectors).reshape(self.n_graphs, 3 * self.n_max)

    @property
    def present(self) -> Tensor:
        """(n_graphs, n_max), bool; False where an atom is padding."""
        there = torch.zeros(self.n_graphs * self.n_max, dtype=torch.bool, device=self.slot.device)
        there[self.slot] = True
        return there.view(self.n_graphs, self.n_max)

    def unpad(self, padded: Tensor) -> Tensor:
        """(n_graphs, 3 n_max) as (n_atoms, 3)."""
        return padded.reshape(-1, 3)[self.slot]


def pair_hessian(blocks: Tensor, edge_index: Tensor, padding: Padding) -> Tensor:
    """Hessian of ¼ Σ_e (δ_i - δ_j)ᵀ B_e (δ_i - δ_j) over directed edges e = (i, j): each pair appears twice.

    Args:
        blocks: (n_edges, 3, 3), symmetric, eV/Å².
        edge_index: (2, n_edges).
        padding: Of the batch.

    Returns:
        (n_graphs, 3 n_max, 3 n_max), eV/Å².
    """
    n = padding.n_max
    centre, neighbour = edge_index
    base = padding.graph_index[centre] * (n * n)
    i, j = padding.local[centre], padding.local[neighbour]
    half = 0.5 * blocks
    matrix = blocks.new_zeros((padding.n_graphs * n * n, 3, 3))
    rows = torch.cat([base + i * n + i, base + j * n + j, base + i * n + j, base + j * n + i])
    matrix = matrix.index_add(0, rows, torch.cat([half, half, -half, -half]))
    return matrix.reshape(padding.n_graphs, n, n, 3, 3).permute(0, 1, 3, 2, 4).reshape(-1, 3 * n, 3 * n)


def site_hessian(rows: Tensor, edge_index: Tensor, padding: Padding) -> Tensor:
    """Hessian of ½ Σ_i Σ_c (Σ_j g_ijc · (δ_j - δ_i))²: many-body terms, positive semi-definite.

    Args:
        rows: (n_edges, channels, 3), the vectors g_ijc; eV^½/Å.
        edge_index: (2, n_edges).
        padding: Of the batch.

    Returns:
        (n_graphs, 3 n_max, 3 n_max), eV/Å².
    """
    n, channels = padding.n_max, rows.shape[1]
    centre, neighbour = edge_index
    site = padding.slot[centre] * n
    matrix = rows.new_zeros((padding.n_graphs * n * n, channels, 3))
    index = torch.cat([site + padding.local[neighbour], site + padding.local[centre]])
    matrix = matrix.index_add(0, index, torch.cat([rows, -rows]))
    shaped = matrix.reshape(padding.n_graphs, n, n, channels, 3).permute(0, 1, 3, 2, 4)
    flat = shaped.reshape(padding.n_graphs, n * channels, 3 * n)
    return flat.transpose(1, 2) @ flat
