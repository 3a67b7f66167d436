"""The Newton step of a symmetric matrix that may be indefinite, with exact gradients through the solve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def newton_step(hessian: Tensor, force: Tensor, present: Tensor, floor: float = 0.05) -> Tensor:
    """|H|⁻¹ F for each structure of a padded batch, where |H| has H's eigenvectors and max(|λ|, floor) for each λ.

    Rigid translations, eigenvalue 0, are no trouble: forces have no such component.

    Args:
        hessian: (n_graphs, 3n, 3n), symmetric, eV/Å², zero for rigid translations; padded rows and columns are zero.
        force: (n_graphs, 3n), eV/Å, padded with zeros.
        present: (n_graphs, n), bool; False where an atom is padding.
        floor: eV/Å²; eigenvalues closer to zero are taken to be this large.

    Returns:
        (n_graphs, 3n), Å.
    """
    # Numbers that are not finite would crash the decomposition; as NaN they reach whoever asked.
    finite = torch.isfinite(hessian).flatten(1).all(1) & torch.isfinite(force).all(1)
    safe = torch.where(finite[:, None, None], hessian, torch.eye(hessian.shape[-1]).to(hessian))
    solve: Callable[..., Tensor] = _FlooredSolve.apply
    return solve(safe, torch.where(finite[:, None], force, torch.nan), present, floor)


class _FlooredSolve(torch.autograd.Function):
    """Backward differentiates H X = f with |H| in place of H (implicit function theorem).

    That is exact wherever no eigenvalue was changed, and finite everywhere, unlike the derivative of an
    eigendecomposition with equal eigenvalues.
    """

    @staticmethod
    def forward(ctx: Any, hessian: Tensor, force: Tensor, present: Tensor, floor: float) -> Tensor:
        inverse = floored_inverse(hessian, present, floor)
        step = (inverse @ force.unsqueeze(-1)).squeeze(-1)
        ctx.save_for_backward(inverse, step)
        return step

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        inverse, step = ctx.saved_tensors
        adjoint = (inverse @ grads[0].unsqueeze(-1)).squeeze(-1)
        outer = adjoint.unsqueeze(-1) * step.unsqueeze(-2)
        return -0.5 * (outer + outer.mT), adjoint, None, None


def floored_inverse(hessian: Tensor, present: Tensor, floor: float) -> Tensor:
    """|H|⁻¹ of each structure, up to what it does to rigid translations, (n_graphs, 3n, 3n), Å²/eV.

    Where no eigenvalue lies below the floor, which a Cholesky factorisation tells, a second one gives the inverse, at a
    tenth of the cost of the eigenvalues. Arguments as for `newton_step`.
    """
    stiff = hessian + _stiff_translations(hessian, present)
    identity = torch.eye(hessian.shape[-1]).to(hessian)
    _, indefinite = torch.linalg.cholesky_ex(stiff - floor * identity)
    soft = indefinite > 0
    if not soft.any():
        return torch.cholesky_inverse(torch.linalg.cholesky(stiff))
    inverse = torch.empty_like(hessian)
    if not soft.all():
        inverse[~soft] = torch.cholesky_inverse(torch.linalg.cholesky(stiff[~soft]))
    values, vectors = torch.linalg.eigh(stiff[soft])
    inverse[soft] = (vectors / values.abs().clamp(min=floor).unsqueeze(-2)) @ vectors.mT
    return inverse


def _stiff_translations(hessian: Tensor, present: Tensor) -> Tensor:
    """What makes rigid translations, and atoms that are padding, as stiff as the average mode."""
    mask = present.to(hessian)
    # The norm of a matrix rotates with the crystal, its diagonal would not.
    scale: Tensor = (torch.linalg.matrix_norm(hessian) / (3 * mask.sum(1)).sqrt()).clamp(min=1.0)
    together = mask.unsqueeze(2) * mask.unsqueeze(1) / mask.sum(1)[:, None, None]
    blocks = scale[:, None, None] * (together + torch.diag_embed(1.0 - mask))
    n = mask.shape[1]
    spread = blocks[:, :, None, :, None] * torch.eye(3).to(hessian)[None, None, :, None, :]
    return spread.reshape(len(mask), 3 * n, 3 * n)
