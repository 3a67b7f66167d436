"""Curriculum: the data term leads far from the constraints' targets and fades as they come near."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from relaxrl.losses.constraints_checks import (
    check_finite,
    check_fraction,
    check_number,
    check_points,
    check_scalar_fields,
    check_vector_fields,
)
from relaxrl.losses.constraints_config import ConstraintLossConfig, ConstraintWeights, CurriculumConfig


@dataclass(frozen=True)
class CurriculumState:
    """What one validation says, in dex (factors of ten).

    Attributes:
        delta_h: Δ_h = median log10|H_pred| - median log10|H_true|; negative where the prediction is better.
        delta_m: Δ_m, the same of |M|.
        gap_h: How far Δ_h is above its target, not negative.
        gap_m: The same of Δ_m.
        worst_ratio: The larger gap: orders of magnitude still missing.
        progress: In [0, 1]; 1 where both targets are reached.
    """

    delta_h: float
    delta_m: float
    gap_h: float
    gap_m: float
    worst_ratio: float
    progress: float


def curriculum_state(
    config: CurriculumConfig,
    *,
    scalar_pred: Tensor,
    scalar_true: Tensor,
    vector_pred: Tensor,
    vector_true: Tensor,
    mask: Tensor | None = None,
) -> CurriculumState:
    """Measure how far both constraints are from their targets, over all points of a validation.

    Args:
        config: Targets and bounds.
        scalar_pred: H on the network's output: (n_points,), or padded (n_structures, n_points).
        scalar_true: H on the target, of the same shape.
        vector_pred: M on the network's output: shape of H and D components.
        vector_true: M on the target, of the same shape.
        mask: Shape of H, bool; False where a point does not count.

    Raises:
        ValueError: A shape or dtype does not fit, a value is not finite, or no point counts; the argument is named.
    """
    points = check_scalar_fields(scalar_pred=scalar_pred, scalar_true=scalar_true)
    check_vector_fields(points, vector_pred=vector_pred, vector_true=vector_true)
    check_points(points, mask, None)
    check_finite(
        mask, scalar_pred=scalar_pred, scalar_true=scalar_true, vector_pred=vector_pred, vector_true=vector_true
    )
    if scalar_pred.numel() == 0 or (mask is not None and not bool(mask.any())):
        name = "scalar_pred" if mask is None else "mask"
        raise ValueError(f"`{name}` leaves no point to take a median of; validate on at least one")
    delta_h = median_log10(scalar_pred, mask) - median_log10(scalar_true, mask)
    norms_pred, norms_true = (torch.linalg.vector_norm(v.double(), dim=-1) for v in (vector_pred, vector_true))
    delta_m = median_log10(norms_pred, mask) - median_log10(norms_true, mask)
    gap_h = max(delta_h - config.delta_h_target, 0.0)
    gap_m = max(delta_m - config.delta_m_target, 0.0)
    worst_ratio = max(gap_h, gap_m)
    return CurriculumState(
        delta_h=delta_h,
        delta_m=delta_m,
        gap_h=gap_h,
        gap_m=gap_m,
        worst_ratio=worst_ratio,
        progress=curriculum_progress(worst_ratio, lo=config.lo, hi=config.hi),
    )


def median_log10(values: Tensor, mask: Tensor | None = None) -> float:
    """Median of log10|values| over the points that count; exact zeros count as the smallest float64, 10^-307.65.

    The mean of the two middle values where their number is even (torch's own median takes the lower one).

    Args:
        values: Of any shape.
        mask: Of the same shape, bool.

    Examples:
        >>> median_log10(torch.tensor([-1.0, 100.0]))
        1.0
    """
    counted = values.detach() if mask is None else values.detach()[mask]
    logs = counted.double().abs().clamp(min=torch.finfo(torch.float64).tiny).log10().flatten().sort().values
    n = len(logs)
    if n == 0:
        raise ValueError("`values` has no point that counts; a median needs at least one")
    return float((logs[(n - 1) // 2] + logs[n // 2]) / 2)


def curriculum_progress(worst_ratio: float, *, lo: float = 0.0, hi: float = 3.0) -> float:
    """clip((hi - worst_ratio) / (hi - lo), 0, 1).

    Raises:
        ValueError: `worst_ratio` is not finite, or `hi` is not above `lo`.

    Examples:
        >>> [curriculum_progress(worst_ratio) for worst_ratio in (5.0, 3.0, 1.5, 0.0)]
        [0.0, 0.0, 0.5, 1.0]
    """
    check_number("worst_ratio", worst_ratio)
    if not hi > lo:
        raise ValueError(f"`hi` must be above `lo`={lo}, got {hi}")
    return min(max((hi - worst_ratio) / (hi - lo), 0.0), 1.0)


def scheduled_weights(config: ConstraintLossConfig, progress: float) -> ConstraintWeights:
    """The weights at this progress, from the initial ones.

    Data times [1 - (1 - min_data_frac) progress]; relative and absolute times [1 + constraint_gain progress].

    Args:
        config: Initial weights and the curriculum.
        progress: In [0, 1], from `curriculum_state`.

    Raises:
        ValueError: `progress` is outside [0, 1].
    """
    check_fraction("progress", progress)
    data_factor = 1 - (1 - config.curriculum.min_data_frac) * progress
    constraint_factor = 1 + config.curriculum.constraint_gain * progress
    return ConstraintWeights(
        data=config.data_weight * data_factor,
        rel=config.rel_weight * constraint_factor,
        abs=config.abs_weight * constraint_factor,
    )
