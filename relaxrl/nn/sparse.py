"""The predicted Hessian of one large structure without any array of the size (3n)²."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse
from torch import Tensor

from relaxrl.typing import FloatArray, IntArray


@dataclass(frozen=True)
class SparseHessian:
    """H = P + GᵀG as its two parts, which cost less to apply than their sum.

    P couples bonded atoms. GᵀG couples all atoms that share a neighbour, thus eight times as many, and Cholesky factors
    of the sum fill up wholly in cells of a few thousand atoms.

    Attributes:
        pairs: P, (3 n_atoms, 3 n_atoms) in blocks of 3 x 3, eV/Å².
        sites: G, (n_atoms channels, 3 n_atoms) in blocks of channels x 3, eV^½/Å.
    """

    pairs: sparse.bsr_array
    sites: sparse.bsr_array

    @staticmethod
    def from_edges(blocks: Tensor, rows: Tensor, edge_index: Tensor, n_atoms: int) -> SparseHessian:
        """From what the network's head says of the edges of one structure; see `pair_hessian` and `site_hessian`.

        Args:
            blocks: (n_edges, 3, 3), symmetric, eV/Å².
            rows: (n_edges, channels, 3), eV^½/Å.
            edge_index: (2, n_edges), centres and neighbours.
            n_atoms: Atoms of the structure.
        """
        centre, neighbour = edge_index.cpu().numpy()
        half = 0.5 * blocks.detach().cpu().double().numpy()
        bonds = _matrix(-half, centre, neighbour, n_atoms)
        pairs = bonds + bonds.T  # each edge stands in the rows of both of its atoms
        sites = _matrix(rows.detach().cpu().double().numpy(), centre, neighbour, n_atoms)
        return SparseHessian(pairs + _minus_row_sums(pairs), sites + _minus_row_sums(sites))

    @property
    def n_dof(self) -> int:
        """3 n_atoms."""
        return int(self.pairs.shape[0])

    def __matmul__(self, displacement: FloatArray) -> FloatArray:
        """H times a vector (3 n_atoms,)."""
        product: FloatArray = self.pairs @ displacement + self._sites_transposed @ (self.sites @ displacement)
        return product

    @cached_property
    def _sites_transposed(self) -> sparse.bsr_array:
        return self.sites.T  # a copy, which costs more than a product

    def trace(self) -> float:
        """Sum of the eigenvalues, eV/Å²."""
        return float(self.pairs.trace() + np.square(self.sites.data).sum())

    def assembled(self) -> sparse.csr_array:
        """H as one sparse matrix, (3 n_atoms, 3 n_atoms), eV/Å²; its cost is that of a hundred products."""
        return sparse.csr_array(self.pairs + self._sites_transposed @ self.sites)


def sparse_hessian(blocks: Tensor, rows: Tensor, edge_index: Tensor, n_atoms: int) -> sparse.csr_array:
    """The Hessian of one structure as a sparse matrix: what `pair_hessian` and `site_hessian` add up to.

    Args:
        blocks: (n_edges, 3, 3), symmetric, eV/Å².
        rows: (n_edges, channels, 3), eV^½/Å.
        edge_index: (2, n_edges), centres and neighbours.
        n_atoms: Atoms of the structure.

    Returns:
        (3 n_atoms, 3 n_atoms), eV/Å², symmetric; a rigid translation costs nothing (acoustic sum rule).
    """
    return SparseHessian.from_edges(blocks, rows, edge_index, n_atoms).assembled()


def _matrix(blocks: FloatArray, centre: IntArray, neighbour: IntArray, n_atoms: int) -> sparse.bsr_array:
    """Blocks of edges (n_edges, r, 3) as a matrix (r n_atoms, 3 n_atoms); several images of one pair are added."""
    shape = (blocks.shape[1] * n_atoms, 3 * n_atoms)
    pair = centre * n_atoms + neighbour
    order = np.argsort(pair, kind="stable")
    pair = pair[order]
    first = np.flatnonzero(np.diff(pair, prepend=-1))
    summed = np.add.reduceat(blocks[order], first, axis=0) if len(first) else blocks
    row, column = np.divmod(pair[first], n_atoms)
    return sparse.bsr_array((summed, column, np.searchsorted(row, np.arange(n_atoms + 1))), shape=shape)


def _minus_row_sums(matrix: sparse.bsr_array) -> sparse.bsr_array:
    """Blocks on the diagonal that make a matrix of blocks (r, 3) vanish on rigid translations."""
    r, n_columns = matrix.blocksize[0], matrix.shape[1]
    sums = (matrix @ np.tile(np.eye(3), (n_columns // 3, 1))).reshape(-1, r, 3)
    n = len(sums)
    return sparse.bsr_array((-sums, np.arange(n), np.arange(n + 1)), shape=matrix.shape)
