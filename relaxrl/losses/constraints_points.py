"""Means over points: masked, padded or ragged, and fair between structures of different sizes."""

from __future__ import annotations

import torch
from torch import Tensor


def point_weights(values: Tensor, mask: Tensor | None = None, batch: Tensor | None = None) -> Tensor:
    """Weight of each point in a mean over structures of the mean over their points.

    Structures without any point that counts are left out of the outer mean.

    Args:
        values: Gives shape, dtype and device: (n_points,), one structure unless `batch` says otherwise, or padded
            (n_structures, n_points), one structure per row.
        mask: Of the same shape, bool; False where a point does not count.
        batch: (n_points,), int64; the structure of each point.

    Returns:
        Of the shape of `values`; not negative, with sum 1, or all 0 where no point counts.
    """
    counted = torch.ones_like(values) if mask is None else mask.to(values.dtype)
    if batch is not None:
        n_structures = int(batch.max()) + 1 if batch.numel() else 0
        sizes = counted.new_zeros(n_structures).index_add_(0, batch, counted)
        size_of_own = sizes[batch]
    else:
        sizes = counted.sum(-1, keepdim=True)
        size_of_own = sizes.expand_as(counted)
    n_filled = (sizes > 0).sum().clamp(min=1)
    return counted / (size_of_own.clamp(min=1) * n_filled)


def point_mean(values: Tensor, mask: Tensor | None = None, batch: Tensor | None = None) -> Tensor:
    """Mean over structures of the mean over their points; 0 where no point counts. See `point_weights`.

    Examples:
        >>> values, batch = torch.tensor([1.0, 2.0, 3.0, 8.0]), torch.tensor([0, 0, 0, 1])
        >>> float(point_mean(values)), float(point_mean(values, batch=batch))
        (3.5, 5.0)
    """
    return (point_weights(values, mask, batch) * blank(values, mask)).sum()


def blank(values: Tensor, mask: Tensor | None) -> Tensor:
    """The values with zeros at points that don't count, so that whatever lies there, NaN included, has no gradient."""
    if mask is None:
        return values
    return torch.where(mask.reshape(*mask.shape, *([1] * (values.dim() - mask.dim()))), values, 0)
