"""Relative term: the prediction should violate the constraints by a factor alpha less than the target itself does."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from relaxrl.losses.constraints_checks import (
    check_finite,
    check_fraction,
    check_points,
    check_positive,
    check_scalar_fields,
    check_vector_fields,
    check_weight,
)
from relaxrl.losses.constraints_points import blank, point_mean


def improvement_penalty(pred: Tensor, true: Tensor, alpha: float, *, eps: float = 1e-12, clip: float = 3.0) -> Tensor:
    """softplus(r)² with r = log(pred + ε) - log(alpha true + ε) clipped to ±clip, point by point.

    With clip = 3 it is 9.3 far above the aim, (ln 2)² = 0.48 at pred = alpha true and 0.0024 far below. Where r is
    clipped there is no gradient, on both sides: far above the aim other terms must lead.

    Args:
        pred: Magnitudes on the prediction, not negative, of any shape.
        true: Magnitudes on the target, of the same shape.
        alpha: In [0, 1].
        eps: ε, positive, in the unit of the magnitudes.
        clip: Positive.

    Returns:
        Of the shape of `pred`, dimensionless.
    """
    log_ratio = torch.log(pred + eps) - torch.log(alpha * true + eps)
    return F.softplus(log_ratio.clamp(-clip, clip)).square()


def relative_loss(
    scalar_pred: Tensor,
    scalar_true: Tensor,
    vector_pred: Tensor,
    vector_true: Tensor,
    *,
    alpha_improve: float = 0.1,
    mom_alpha_improve: float = 0.1,
    mom_improve_weight: float = 1.0,
    eps: float = 1e-12,
    clip: float = 3.0,
    mask: Tensor | None = None,
    batch: Tensor | None = None,
) -> Tensor:
    """L_rel = mean_j s_h² + w_m mean_j s_m², with s the softplus of the clipped log-ratio to the aim.

    Args:
        scalar_pred: H on the network's output: (n_points,), or padded (n_structures, n_points); its sign is ignored.
        scalar_true: H on the target, of the same shape.
        vector_pred: M on the network's output: shape of H and D components; |M| is the L2 norm.
        vector_true: M on the target, of the same shape.
        alpha_improve: Aim for H, in [0, 1].
        mom_alpha_improve: Aim for M, in [0, 1].
        mom_improve_weight: w_m, not negative.
        eps: ε, in the constraints' unit.
        clip: Bound of the log-ratios.
        mask: Shape of H, bool; False where a point does not count. Values there may be anything.
        batch: (n_points,), int64, the structure of each point: the mean is then one over structures of the mean over
            their points. In the padded form each row is a structure.

    Returns:
        A dimensionless scalar; 0 where no point counts.

    Raises:
        ValueError: A shape, dtype or range does not fit, or a value that counts is not finite; the argument is named.

    Examples:
        >>> h, m = torch.tensor([0.1]), torch.tensor([[0.03, 0.04]])  # exactly alpha = 0.1 times the target's
        >>> value = relative_loss(h, 10 * h, m, 10 * m)
        >>> round(float(value), 6) == round(2 * float(torch.log(torch.tensor(2.0))) ** 2, 6)
        True
    """
    check_fraction("alpha_improve", alpha_improve)
    check_fraction("mom_alpha_improve", mom_alpha_improve)
    check_weight("mom_improve_weight", mom_improve_weight)
    check_positive("eps", eps)
    check_positive("clip", clip)
    points = check_scalar_fields(scalar_pred=scalar_pred, scalar_true=scalar_true)
    check_vector_fields(points, vector_pred=vector_pred, vector_true=vector_true)
    check_points(points, mask, batch)
    check_finite(
        mask, scalar_pred=scalar_pred, scalar_true=scalar_true, vector_pred=vector_pred, vector_true=vector_true
    )
    penalty = relative_penalty(
        blank(scalar_pred, mask),
        blank(scalar_true, mask),
        blank(vector_pred, mask),
        blank(vector_true, mask),
        alpha_improve=alpha_improve,
        mom_alpha_improve=mom_alpha_improve,
        mom_improve_weight=mom_improve_weight,
        eps=eps,
        clip=clip,
    )
    return point_mean(penalty, mask, batch)


def relative_penalty(
    scalar_pred: Tensor,
    scalar_true: Tensor,
    vector_pred: Tensor,
    vector_true: Tensor,
    *,
    alpha_improve: float,
    mom_alpha_improve: float,
    mom_improve_weight: float,
    eps: float,
    clip: float,
) -> Tensor:
    """s_h² + w_m s_m² of each point, unchecked: the summand of `relative_loss`, with the same arguments."""
    scalar = improvement_penalty(scalar_pred.abs(), scalar_true.abs(), alpha_improve, eps=eps, clip=clip)
    vector = improvement_penalty(_norm(vector_pred), _norm(vector_true), mom_alpha_improve, eps=eps, clip=clip)
    return scalar + mom_improve_weight * vector


def _norm(vectors: Tensor) -> Tensor:
    # torch's norm has gradient 0 at exact zeros, where sqrt(sum of squares) would have NaN.
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=-1)
    return norms
