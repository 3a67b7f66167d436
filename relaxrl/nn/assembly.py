"""Dense symmetric matrices from per-edge blocks and per-site vectors, batched over structures.

All matrices act on displacements: H is padded to the largest structure of the batch, (n_graphs, 3 n_max, 3 n_max).
Both parts depend on differences of displacements only, so that a rigid translation costs nothing (acoustic sum rule).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

SYMMETRIC_FROM = 144
"""Columns of a matrix from which NumPy's product with its transpose is faster than torch's: 1.5 times here, 2.5 times
at 324 columns; at a quarter as many its call costs more than it saves."""


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
    half = 0.5 * blocks
    upper = _by_pair(-half, edge_index, padding).permute(0, 1, 3, 2, 4).reshape(-1, 3 * n, 3 * n)
    # Each edge stands in the rows of both of its atoms, and on the diagonal what makes rows add up to zero.
    matrix = upper + upper.mT
    own = blocks.new_zeros((padding.n_graphs * n, 3, 3))
    own = own.index_add(0, padding.slot[edge_index[0]], half).index_add(0, padding.slot[edge_index[1]], half)
    matrix.view(-1, n, 3, n, 3).diagonal(dim1=1, dim2=3).add_(own.view(-1, n, 3, 3).permute(0, 2, 3, 1))
    return matrix


def site_hessian(rows: Tensor, edge_index: Tensor, padding: Padding, others: Tensor | None = None) -> Tensor:
    """Hessian of ½ Σ_i Σ_c (Σ_j g_ijc · (δ_j - δ_i))²: many-body terms, positive semi-definite.

    With `others`, q of k more coordinates per structure, of ½ Σ_i Σ_c (Σ_j g_ijc · (δ_j - δ_i) + s_ic · q)².

    Args:
        rows: (n_edges, channels, 3), the vectors g_ijc; eV^½/Å.
        edge_index: (2, n_edges).
        padding: Of the batch.
        others: (n_atoms, channels, k), the s_ic.

    Returns:
        (n_graphs, 3 n_max, 3 n_max), eV/Å²; 3 n_max + k each with others.
    """
    n, channels = padding.n_max, rows.shape[1]
    matrix = _by_pair(rows, edge_index, padding)
    own = rows.new_zeros((padding.n_graphs * n, channels, 3)).index_add(0, padding.slot[edge_index[0]], rows)
    matrix.diagonal(dim1=1, dim2=2).sub_(own.view(-1, n, channels, 3).permute(0, 2, 3, 1))
    flat = matrix.permute(0, 1, 3, 2, 4).reshape(-1, n * channels, 3 * n)
    if others is not None:
        beside = others.new_zeros((padding.n_graphs * n, *others.shape[1:])).index_copy(0, padding.slot, others)
        flat = torch.cat([flat, beside.view(-1, n * channels, others.shape[2])], dim=2)
    gram: Callable[[Tensor], Tensor] = _Gram.apply
    return gram(flat)


def _by_pair(values: Tensor, edge_index: Tensor, padding: Padding) -> Tensor:
    """Values of edges (n_edges, r, 3) as (n_graphs, n_max, n_max, r, 3); several images of one pair are added."""
    n = padding.n_max
    place = padding.slot[edge_index[0]] * n + padding.local[edge_index[1]]
    zeros = values.new_zeros((padding.n_graphs * n * n, *values.shape[1:]))
    return zeros.index_add(0, place, values).view(-1, n, n, *values.shape[1:])


class _Gram(torch.autograd.Function):
    """GᵀG of each matrix of a batch; of large ones by NumPy, which sees that the product is symmetric and does half."""

    @staticmethod
    def forward(ctx: Any, matrices: Tensor) -> Tensor:
        ctx.save_for_backward(matrices)
        if matrices.device.type != "cpu" or matrices.shape[2] < SYMMETRIC_FROM:
            return matrices.mT @ matrices
        product = matrices.new_empty((len(matrices), matrices.shape[2], matrices.shape[2]))
        for matrix, out in zip(matrices.numpy(), product.numpy(), strict=True):
            np.matmul(matrix.T, matrix, out=out)
        return product

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (matrices,) = ctx.saved_tensors
        gradient: Tensor = matrices @ (grads[0] + grads[0].mT)
        return gradient
