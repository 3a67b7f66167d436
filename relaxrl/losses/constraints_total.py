"""The constraint loss: data, relative and absolute term under one set of weights."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from relaxrl.losses.constraints_absolute import absolute_penalty
from relaxrl.losses.constraints_checks import (
    check_finite,
    check_points,
    check_same_shape,
    check_scalar_fields,
    check_vector_fields,
    check_weight,
)
from relaxrl.losses.constraints_config import ConstraintLossConfig, ConstraintWeights, TotalMode
from relaxrl.losses.constraints_data import data_penalty
from relaxrl.losses.constraints_points import blank, point_weights
from relaxrl.losses.constraints_relative import relative_penalty


@dataclass(frozen=True)
class ConstraintLoss:
    """The total and its terms before weighting; scalars that carry gradients."""

    total: Tensor
    data: Tensor
    relative: Tensor
    absolute: Tensor

    def metrics(self) -> dict[str, float]:
        """All four as numbers, by name."""
        return {name: float(getattr(self, name).detach()) for name in ("total", "data", "relative", "absolute")}


def constraint_loss(
    config: ConstraintLossConfig,
    *,
    output_pred: Tensor,
    output_true: Tensor,
    scalar_pred: Tensor,
    scalar_true: Tensor,
    vector_pred: Tensor,
    vector_true: Tensor,
    weights: ConstraintWeights | None = None,
    mask: Tensor | None = None,
    batch: Tensor | None = None,
) -> ConstraintLoss:
    """All terms and their total for one batch.

    Args:
        config: Weights, alpha, ε, clip and the convention of the total.
        output_pred: y on the network's output: shape of H, or shape of H and C components.
        output_true: y on the target, of the same shape.
        scalar_pred: H on the network's output: (n_points,), or padded (n_structures, n_points). A quantity of a whole
            structure, such as its energy per atom, is given to each of its points.
        scalar_true: H on the target, of the same shape.
        vector_pred: M on the network's output: shape of H and D components.
        vector_true: M on the target, of the same shape.
        weights: Those of the moment, from `scheduled_weights`; the configuration's initial ones by default.
        mask: Shape of H, bool; False where a point does not count. Values there may be anything.
        batch: (n_points,), int64, the structure of each point: means are then ones over structures of the mean over
            their points. In the padded form each row is a structure.

    Raises:
        ValueError: A shape or dtype does not fit, or a value that counts is not finite; the argument is named.
    """
    points = check_scalar_fields(scalar_pred=scalar_pred, scalar_true=scalar_true)
    check_vector_fields(points, vector_pred=vector_pred, vector_true=vector_true)
    check_same_shape(output_pred=output_pred, output_true=output_true)
    if output_pred.shape == points:
        output_pred, output_true = output_pred.unsqueeze(-1), output_true.unsqueeze(-1)
    check_vector_fields(points, output_pred=output_pred, output_true=output_true)
    check_points(points, mask, batch)
    # Checked and averaged once for all terms: each look at a value waits for a GPU.
    check_finite(
        mask,
        output_pred=output_pred,
        output_true=output_true,
        scalar_pred=scalar_pred,
        scalar_true=scalar_true,
        vector_pred=vector_pred,
        vector_true=vector_true,
    )
    point_weight = point_weights(scalar_pred, mask, batch)
    scalar, vector = blank(scalar_pred, mask), blank(vector_pred, mask)
    data = (point_weight * data_penalty(blank(output_pred, mask), blank(output_true, mask))).sum()
    relative = relative_penalty(
        scalar,
        blank(scalar_true, mask),
        vector,
        blank(vector_true, mask),
        alpha_improve=config.alpha_improve,
        mom_alpha_improve=config.mom_alpha_improve,
        mom_improve_weight=config.mom_improve_weight,
        eps=config.eps,
        clip=config.clip,
    )
    relative = (point_weight * relative).sum()
    absolute = (point_weight * absolute_penalty(scalar, vector, config.mom_improve_weight)).sum()
    total = total_loss(
        data,
        relative,
        absolute,
        weights=weights or config.weights,
        physics_weight=config.physics_weight,
        mode=config.mode,
    )
    return ConstraintLoss(total=total, data=data, relative=relative, absolute=absolute)


def total_loss(
    data: Tensor,
    relative: Tensor,
    absolute: Tensor,
    *,
    weights: ConstraintWeights,
    physics_weight: float = 1.0,
    mode: TotalMode = "improvement",
) -> Tensor:
    """Weighted sum of the three terms, in one of two conventions.

    - `improvement`: λ_data L_data + λ_phy (λ_rel L_rel + λ_abs L_abs);
    - `improvement_all`: λ_phy (λ_data L_data + λ_rel L_rel + λ_abs L_abs).

    Raises:
        ValueError: `physics_weight` is negative, or `mode` is neither of them.

    Examples:
        >>> import torch
        >>> terms, weights = (torch.tensor(1.0),) * 3, ConstraintWeights(data=1.0, rel=2.0, abs=3.0)
        >>> float(total_loss(*terms, weights=weights, physics_weight=10.0))
        51.0
        >>> float(total_loss(*terms, weights=weights, physics_weight=10.0, mode="improvement_all"))
        60.0
    """
    check_weight("physics_weight", physics_weight)
    constraints = weights.rel * relative + weights.abs * absolute
    if mode == "improvement":
        return weights.data * data + physics_weight * constraints
    if mode == "improvement_all":
        return physics_weight * (weights.data * data + constraints)
    raise ValueError(f"`mode` must be 'improvement' or 'improvement_all', got {mode!r}")


def point_constraint_loss(
    config: ConstraintLossConfig,
    *,
    scalar_pred: Tensor,
    scalar_true: Tensor,
    vector_pred: Tensor,
    vector_true: Tensor,
    weights: ConstraintWeights | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """λ_phy (λ_rel (s_h² + w_m s_m²) + λ_abs (H² + w_m |M|²)): what each point adds to the constraint terms.

    Before any mean; for looking at where the violation is and where its gradient points. Arguments as in
    `constraint_loss`.

    Returns:
        Of the shape of H; 0 at points that don't count.

    Raises:
        ValueError: A shape or dtype does not fit, or a value that counts is not finite; the argument is named.
    """
    points = check_scalar_fields(scalar_pred=scalar_pred, scalar_true=scalar_true)
    check_vector_fields(points, vector_pred=vector_pred, vector_true=vector_true)
    check_points(points, mask, None)
    check_finite(
        mask, scalar_pred=scalar_pred, scalar_true=scalar_true, vector_pred=vector_pred, vector_true=vector_true
    )
    weights = weights or config.weights
    scalar, vector = blank(scalar_pred, mask), blank(vector_pred, mask)
    relative = relative_penalty(
        scalar,
        blank(scalar_true, mask),
        vector,
        blank(vector_true, mask),
        alpha_improve=config.alpha_improve,
        mom_alpha_improve=config.mom_alpha_improve,
        mom_improve_weight=config.mom_improve_weight,
        eps=config.eps,
        clip=config.clip,
    )
    absolute = absolute_penalty(scalar, vector, config.mom_improve_weight)
    return blank(config.physics_weight * (weights.rel * relative + weights.abs * absolute), mask)
