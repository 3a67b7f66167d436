"""Second derivatives of an embedded-atom energy, as small parts, a dense matrix, or a sparse one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from relaxrl.nn.assembly import Padding, pair_hessian
from relaxrl.nn.sparse import SparseHessian
from relaxrl.typing import FloatArray


@dataclass(frozen=True)
class EnergyCurvature:
    r"""H of $E = \sum_{pairs} p + \sum_i U_i(\rho_i)$.

    $$ \delta^T H \delta = \sum_{ij} \delta_{ij}^T B_{ij} \delta_{ij} + \sum_i g_i^T U''_i g_i, \qquad
       g_i = \sum_j \nabla \rho_{ij} \cdot \delta_{ij}, \quad \delta_{ij} = \delta_j - \delta_i $$

    Attributes:
        edge_index: (2, n_pairs), int64; each pair once.
        blocks: B, (n_pairs, 3, 3), eV/Å².
        rows: Gradients of the densities, (2, n_pairs, C, 3), 1/Å; how those of the first and of the second atom change
            as the other one moves.
        bend: U'', (n_atoms, C, C), eV.
    """

    edge_index: Tensor
    blocks: Tensor
    rows: Tensor
    bend: Tensor

    def dense(self, padding: Padding) -> Tensor:
        """H of each structure of a padded batch, (n_graphs, 3 n_max, 3 n_max), eV/Å²."""
        n, channels = padding.n_max, self.rows.shape[2]
        # `pair_hessian` halves, as it expects every pair in both directions.
        hessian = pair_hessian(2.0 * self.blocks, self.edge_index, padding)
        centre, neighbour = self._directed()
        rows = self.rows.flatten(0, 1)
        site = padding.slot[centre] * n
        index = torch.cat([site + padding.local[neighbour], site + padding.local[centre]])
        gradients = rows.new_zeros((padding.n_graphs * n * n, channels, 3))
        gradients = gradients.index_add(0, index, torch.cat([rows, -rows]))
        gradients = gradients.reshape(-1, n, channels, 3).transpose(1, 2).reshape(-1, channels, 3 * n)
        bend = self.bend.new_zeros((len(gradients), channels, channels)).index_copy(0, padding.slot, self.bend)
        bent = (bend @ gradients).reshape(padding.n_graphs, n * channels, 3 * n)
        hessian = hessian + gradients.reshape(bent.shape).mT @ bent
        return 0.5 * (hessian + hessian.mT)

    def sparse(self, n_atoms: int) -> BentHessian:
        """H of one structure without any array of the size (3n)²."""
        # As for `dense`; here each direction counts half, so that the whole block goes with one of them.
        blocks = torch.cat([2.0 * self.blocks, torch.zeros_like(self.blocks)])
        parts = SparseHessian.from_edges(blocks, self.rows.flatten(0, 1), self._directed(), n_atoms)
        return BentHessian(parts.pairs, parts.sites, self.bend.double().numpy())

    def _directed(self) -> Tensor:
        """Each pair in both directions, (2, 2 n_pairs)."""
        return torch.cat([self.edge_index, self.edge_index.flip(0)], dim=1)


@dataclass(frozen=True)
class BentHessian(SparseHessian):
    """H = P + Gᵀ U'' G; see `SparseHessian` and `EnergyCurvature`.

    Attributes:
        bend: U'', (n_atoms, C, C).
    """

    bend: FloatArray

    def __matmul__(self, displacement: FloatArray) -> FloatArray:
        """H times a vector (3 n_atoms,)."""
        channels = self.bend.shape[1]
        bent = (self.bend @ (self.sites @ displacement).reshape(-1, channels, 1)).ravel()
        product: FloatArray = self.pairs @ displacement + self.sites.T @ bent
        return product

    def trace(self) -> float:
        """Sum of the eigenvalues, eV/Å²."""
        return float(self.assembled().trace())

    def assembled(self) -> sparse.csr_array:
        """H as one sparse matrix, (3 n_atoms, 3 n_atoms), eV/Å²."""
        n = len(self.bend)
        bend = sparse.bsr_array((self.bend, np.arange(n), np.arange(n + 1)))
        return sparse.csr_array(self.pairs + self.sites.T @ (bend @ self.sites))
