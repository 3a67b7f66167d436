"""The Newton step of one large structure from products of its Hessian with vectors, with exact gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from relaxrl.nn.sparse import SparseHessian
from relaxrl.typing import FloatArray

TOLERANCE = 1e-6
"""Change of the step, relative to its length, over `CHECK_EVERY` products: the error left is smaller. A network's
Hessian is right to some per cent, so that 1e-3 would do as well for relaxations, and save a third of the products."""
CHECK_EVERY = 5
MAX_PRODUCTS = 300
"""A limit for hopeless cases, where the step so far is still a good one; 40 to 60 products are usual, 230 were needed
for a bar of 512 atoms, 30 times as long as thick."""


def krylov_step(blocks: Tensor, rows: Tensor, forces: Tensor, edge_index: Tensor, floor: float = 0.05) -> Tensor:
    """|H|⁻¹ F of one structure as in `newton_step`, without the matrix.

    Args:
        blocks: (n_edges, 3, 3), symmetric, eV/Å²; see `pair_hessian`.
        rows: (n_edges, channels, 3), eV^½/Å; see `site_hessian`.
        forces: (n_atoms, 3), eV/Å.
        edge_index: (2, n_edges).
        floor: eV/Å²; eigenvalues closer to zero are taken to be this large.

    Returns:
        (n_atoms, 3), Å, in the dtype of the forces; NaN where a number is not finite.
    """
    if not torch.isfinite(blocks.sum() + rows.sum() + forces.sum()):
        return forces * torch.nan
    solve: Callable[..., Tensor] = _KrylovSolve.apply
    return solve(blocks, rows, forces, edge_index, floor)


class _KrylovSolve(torch.autograd.Function):
    """Backward solves once more, with the gradient in place of the forces; see `newton._FlooredSolve`."""

    @staticmethod
    def forward(ctx: Any, blocks: Tensor, rows: Tensor, forces: Tensor, edge_index: Tensor, floor: float) -> Tensor:
        ctx.hessian = SparseHessian.from_edges(blocks, rows, edge_index, len(forces))
        ctx.floor = floor
        step = _solved(ctx.hessian, forces, floor)
        ctx.save_for_backward(rows, edge_index, step)
        return step

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        rows, edge_index, step = ctx.saved_tensors
        adjoint = _solved(ctx.hessian, grads[0], ctx.floor)
        centre, neighbour = edge_index
        # Derivatives of -aᵀHd, written with what H is made of.
        a, d = adjoint[neighbour] - adjoint[centre], step[neighbour] - step[centre]
        outer = a.unsqueeze(2) * d.unsqueeze(1)
        site_a, site_d = _site_sums(rows, a, centre, len(step)), _site_sums(rows, d, centre, len(step))
        of_rows = site_d[centre].unsqueeze(-1) * a.unsqueeze(1) + site_a[centre].unsqueeze(-1) * d.unsqueeze(1)
        return -0.25 * (outer + outer.mT), -of_rows, adjoint, None, None


def _site_sums(rows: Tensor, differences: Tensor, centre: Tensor, n_atoms: int) -> Tensor:
    products = (rows * differences.unsqueeze(1)).sum(-1)
    return products.new_zeros(n_atoms, rows.shape[1]).index_add(0, centre, products)


def _solved(hessian: SparseHessian, vectors: Tensor, floor: float) -> Tensor:
    step = floored_solve(hessian, vectors.detach().cpu().double().numpy().ravel(), floor)
    return torch.from_numpy(step.reshape(-1, 3)).to(vectors)


def floored_solve(hessian: SparseHessian, force: FloatArray, floor: float, tolerance: float = TOLERANCE) -> FloatArray:
    r"""|H|⁻¹ F in a Krylov space, where |H| has H's eigenvectors and max(|λ|, floor) for each λ.

    Lanczos: with an orthonormal basis Q of F, HF, H²F, ... and QᵀHQ = T = UΛUᵀ, the step is
    Q U max(|Λ|, floor)⁻¹ Uᵀ QᵀF. Where all of Λ lies above the floor, this is the step of conjugate gradients; beyond,
    T's few eigenvalues tell negative curvature, and flip and floor it as the dense solve does. So at any number of
    products the step goes downhill and is no longer than |F| / floor.

    Blocks of the diagonal as a preconditioner save a tenth of the products in rattled alloys, and their cost eats that.

    Args:
        hessian: Of the structure.
        force: (3 n_atoms,), eV/Å.
        floor: eV/Å².
        tolerance: Relative change of the step at which it stands.

    Returns:
        (3 n_atoms,), Å.

    References:
        Golub and Van Loan, Matrix Computations, 4th ed., chapter 10.1; Higham, Functions of Matrices (SIAM 2008),
        doi:10.1137/1.9780898717778, chapter 13.2.
    """
    drift = np.tile(force.reshape(-1, 3).mean(0), len(force) // 3)
    inner = force - drift
    size = float(np.linalg.norm(inner))
    # A net force, which constraints can leave, meets the average stiffness, as in `newton_step`.
    step = drift / max(hessian.trace() / len(force), 1.0)
    # What rounding leaves of a vector without any inner part has no direction.
    if size <= 1e-14 * np.linalg.norm(force) or not np.isfinite(size):
        return np.asarray(step + inner)
    basis = np.empty((2 * CHECK_EVERY, len(force)))
    basis[0] = inner / size
    diagonal: list[float] = []
    coupling: list[float] = []
    known = np.zeros(0)
    for k in range(MAX_PRODUCTS):
        image = hessian @ basis[k]
        diagonal.append(float(basis[k] @ image))
        image -= diagonal[-1] * basis[k]
        # Against the whole basis: without it, copies of converged eigenvectors come back with rounding.
        image -= (basis[: k + 1] @ image) @ basis[: k + 1]
        rest = float(np.linalg.norm(image))
        last = k + 1 == min(MAX_PRODUCTS, len(force) - 3) or rest <= 1e-12 * max(map(abs, diagonal))
        if last or (k + 1) % CHECK_EVERY == 0:
            coefficients = _floored_inverse_column(diagonal, coupling, floor)
            change = coefficients.copy()
            change[: len(known)] -= known
            known = coefficients
            if last or np.linalg.norm(change) <= tolerance * np.linalg.norm(known):
                break
        coupling.append(rest)
        if k + 1 == len(basis):
            basis = np.concatenate([basis, np.empty_like(basis)])
        basis[k + 1] = image / rest
    result: FloatArray = step + size * (known @ basis[: len(known)])
    return result


def _floored_inverse_column(diagonal: list[float], coupling: list[float], floor: float) -> FloatArray:
    """First column of |T|⁻¹ of a tridiagonal T, eigenvalues floored."""
    values, vectors = eigh_tridiagonal(np.array(diagonal), np.array(coupling))
    return np.asarray(vectors @ (vectors[0] / np.maximum(np.abs(values), floor)), dtype=np.float64)
