"""Absolute term: the violation itself, which still pushes towards zero where the relative term is saturated."""

from __future__ import annotations

from torch import Tensor

from relaxrl.losses.constraints_checks import (
    check_finite,
    check_points,
    check_scalar_fields,
    check_vector_fields,
    check_weight,
)
from relaxrl.losses.constraints_points import blank, point_mean


def absolute_loss(
    scalar_pred: Tensor,
    vector_pred: Tensor,
    *,
    mom_improve_weight: float = 1.0,
    mask: Tensor | None = None,
    batch: Tensor | None = None,
) -> Tensor:
    """L_abs = mean_j H_pred² + w_m mean_j |M_pred|².

    Args:
        scalar_pred: H on the network's output: (n_points,), or padded (n_structures, n_points).
        vector_pred: M on the network's output: shape of H and D components.
        mom_improve_weight: w_m, not negative.
        mask: Shape of H, bool; False where a point does not count. Values there may be anything.
        batch: (n_points,), int64, the structure of each point: the mean is then one over structures of the mean over
            their points. In the padded form each row is a structure.

    Returns:
        A scalar in the constraints' unit squared; 0 where no point counts.

    Raises:
        ValueError: A shape, dtype or range does not fit, or a value that counts is not finite; the argument is named.

    Examples:
        >>> import torch
        >>> h, m = torch.tensor([1.0, -2.0]), torch.tensor([[3.0, 4.0], [0.0, 0.0]])
        >>> float(absolute_loss(h, m, mom_improve_weight=2.0))
        27.5
    """
    check_weight("mom_improve_weight", mom_improve_weight)
    points = check_scalar_fields(scalar_pred=scalar_pred)
    check_vector_fields(points, vector_pred=vector_pred)
    check_points(points, mask, batch)
    check_finite(mask, scalar_pred=scalar_pred, vector_pred=vector_pred)
    penalty = absolute_penalty(blank(scalar_pred, mask), blank(vector_pred, mask), mom_improve_weight)
    return point_mean(penalty, mask, batch)


def absolute_penalty(scalar_pred: Tensor, vector_pred: Tensor, mom_improve_weight: float) -> Tensor:
    """H_pred² + w_m |M_pred|² of each point, unchecked: the summand of `absolute_loss`."""
    return scalar_pred.square() + mom_improve_weight * vector_pred.square().sum(-1)
