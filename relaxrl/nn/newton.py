"""The Newton step of a symmetric matrix that may be indefinite, with exact gradients through the solve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def newton_step(hessian: Tensor, force: Tensor, present: Tensor, floor: float = 0.05) -> Tensor:
    """|H|⁻¹ F for each structure of a padded batch, where |H| has H's eigenvectors and max(|λ|, floor) for each λ.

    Rigid translations, eigenvalue 0, are no trouble: forces have no such component. After those of the atoms there may
    be other coordinates, which have the same units, and are neither padded nor translated.

    Args:
        hessian: (n_graphs, 3n + k, 3n + k), symmetric, eV/Å², zero for rigid translations; padded rows and columns are
            zero.
        force: (n_graphs, 3n + k), eV/Å, padded with zeros.
        present: (n_graphs, n), bool; False where an atom is padding.
        floor: eV/Å²; eigenvalues closer to zero are taken to be this large.

    Returns:
        (n_graphs, 3n + k), Å.
    """
    # Numbers that are not finite would crash the decomposition; as NaN they reach whoever asked.
    finite = torch.isfinite(hessian.sum((1, 2)) + force.sum(1))
    if not finite.all():
        hessian = torch.where(finite[:, None, None], hessian, torch.eye(hessian.shape[-1]).to(hessian))
        force = torch.where(finite[:, None], force, torch.nan)
    solve: Callable[..., Tensor] = _FlooredSolve.apply
    return solve(hessian, force, present, floor)


class _FlooredSolve(torch.autograd.Function):
    """Backward differentiates H X = f with |H| in place of H (implicit function theorem).

    That is exact wherever no eigenvalue was changed, and finite everywhere, unlike the derivative of an
    eigendecomposition with equal eigenvalues.
    """

    @staticmethod
    def forward(ctx: Any, hessian: Tensor, force: Tensor, present: Tensor, floor: float) -> Tensor:
        factor = floored_factor(hessian, present, floor)
        step = torch.cholesky_solve(force.unsqueeze(-1), factor).squeeze(-1)
        ctx.save_for_backward(factor, step)
        return step

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        factor, step = ctx.saved_tensors
        adjoint = torch.cholesky_solve(grads[0].unsqueeze(-1), factor).squeeze(-1)
        outer = adjoint.unsqueeze(-1) * step.unsqueeze(-2)
        return -0.5 * (outer + outer.mT), adjoint, None, None


def floored_factor(hessian: Tensor, present: Tensor, floor: float) -> Tensor:
    """The lower Cholesky factor of |H| of each structure, made stiff against rigid translations, (n_graphs, 3n, 3n).

    Where no eigenvalue lies below the floor, which one factorisation tells, a second one is all it takes: together a
    tenth of the cost of the eigenvalues. Arguments as for `newton_step`.
    """
    stiff = _with_stiff_translations(hessian, present)
    diagonal = stiff.diagonal(dim1=1, dim2=2)
    before = diagonal.clone()
    diagonal.sub_(floor)
    _, indefinite = torch.linalg.cholesky_ex(stiff)
    diagonal.copy_(before)
    soft = indefinite > 0
    if soft.any():
        values, vectors = torch.linalg.eigh(stiff[soft])
        stiff[soft] = (vectors * values.abs().clamp(min=floor).unsqueeze(-2)) @ vectors.mT
    factor: Tensor = torch.linalg.cholesky(stiff)
    return factor


def _with_stiff_translations(hessian: Tensor, present: Tensor) -> Tensor:
    """A copy in which rigid translations, and atoms that are padding, are as stiff as the average mode, or 1 eV/Å²."""
    mask = present.to(hessian)
    n_atoms, n_dof = mask.sum(1), 3 * mask.shape[1]
    # The mean eigenvalue: it rotates with the crystal, and is known without the matrix too.
    scale: Tensor = (hessian.diagonal(dim1=1, dim2=2)[:, :n_dof].sum(1) / (3 * n_atoms)).clamp(min=1.0)
    together = mask.unsqueeze(2) * mask.unsqueeze(1) / n_atoms[:, None, None]
    blocks = scale[:, None, None] * (together + torch.diag_embed(1.0 - mask))
    stiff = hessian.clone(memory_format=torch.contiguous_format)
    for axis in range(3):
        stiff[:, axis:n_dof:3, axis:n_dof:3].add_(blocks)
    return stiff
