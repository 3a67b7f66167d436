"""Data term: how far the output lies from the target."""

from __future__ import annotations

from torch import Tensor

from relaxrl.losses.constraints_checks import check_finite, check_points, check_vector_fields
from relaxrl.losses.constraints_points import blank, point_mean


def data_loss(
    output_pred: Tensor, output_true: Tensor, *, mask: Tensor | None = None, batch: Tensor | None = None
) -> Tensor:
    """L_data = mean_j |y_pred_j - y_true_j|².

    Args:
        output_pred: y_pred, the network's output: (n_points, C), or padded (n_structures, n_points, C).
        output_true: y_true, the target, of the same shape.
        mask: Shape without C, bool; False where a point does not count. Values there may be anything.
        batch: (n_points,), int64, the structure of each point: the mean is then one over structures of the mean over
            their points. In the padded form each row is a structure.

    Returns:
        A scalar in the output's unit squared; 0 where no point counts.

    Raises:
        ValueError: A shape or dtype does not fit, or a value that counts is not finite; the argument is named.

    Examples:
        >>> import torch
        >>> float(data_loss(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.zeros(2, 2)))
        12.5
    """
    points = check_vector_fields(output_pred=output_pred, output_true=output_true)
    check_points(points, mask, batch)
    check_finite(mask, output_pred=output_pred, output_true=output_true)
    return point_mean(data_penalty(blank(output_pred, mask), blank(output_true, mask)), mask, batch)


def data_penalty(output_pred: Tensor, output_true: Tensor) -> Tensor:
    """|y_pred_j - y_true_j|² of each point, unchecked: the summand of `data_loss`."""
    return (output_pred - output_true).square().sum(-1)
