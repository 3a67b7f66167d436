"""Pictures of the constraint losses: what the terms look like, and where a network stands.

Each function takes arrays or tensors and returns a matplotlib figure, to be saved by its `savefig`. matplotlib is
imported when a picture is drawn, and without pyplot, so that no display and no global state is involved. Legends have
fixed places: matplotlib's search for the best one warns where it takes long, on a busy machine for a hundred points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from relaxrl.losses.constraints_relative import improvement_penalty
from relaxrl.losses.curriculum import CurriculumState
from relaxrl.typing import FloatArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_data_term(output_pred: Tensor | ArrayLike, output_true: Tensor | ArrayLike) -> Figure:
    """The data term |y_pred - y_true|² of each point against its deviation |y_pred - y_true|.

    Args:
        output_pred: (n_points, C).
        output_true: Of the same shape.
    """
    pred, true = _array("output_pred", output_pred), _array("output_true", output_true)
    _check_same_shape(output_pred=pred, output_true=true)
    deviation = np.linalg.norm((pred - true).reshape(len(pred), -1), axis=1)
    figure = _figure()
    axes = figure.subplots()
    curve = np.linspace(0.0, deviation.max(initial=0.0) or 1.0, 200)
    axes.plot(curve, curve**2, color="0.6", label="|y_pred - y_true|²")
    axes.plot(deviation, deviation**2, ".", markersize=3, label=f"{len(deviation)} points")
    if len(deviation):
        axes.axhline((deviation**2).mean(), linestyle="--", color="C1", label="mean: L_data of one structure")
    axes.set(xlabel="deviation |y_pred - y_true|", ylabel="data term")
    axes.legend(loc="upper left")
    return figure


def plot_improvement_curve(alpha: float = 0.1, *, eps: float = 1e-12, clip: float = 3.0) -> Figure:
    """The relative term softplus² against the ratio of the violations, for a target that violates by 1.

    Args:
        alpha: Aim: the violation of the prediction as a fraction of the target's, above 0.
        eps: ε of the logarithms.
        clip: Bound of the log-ratio, shown as the shaded range.
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"`alpha` must be in (0, 1] to be drawn on a logarithmic axis, got {alpha}")
    ratio = alpha * torch.exp(torch.linspace(-clip - 1, clip + 1, 301, dtype=torch.float64))
    figure = _figure()
    axes = figure.subplots()
    penalty = improvement_penalty(ratio, torch.ones_like(ratio), alpha, eps=eps, clip=clip)
    axes.semilogx(ratio, penalty, label=f"softplus², clip ±{clip:g}")
    axes.axvspan(alpha * np.exp(-clip), alpha * np.exp(clip), alpha=0.1, label="where there is a gradient")
    axes.axvline(alpha, linestyle="--", color="C1", label=f"aim alpha = {alpha:g}")
    axes.axvline(1.0, linestyle=":", color="0.3", label="as bad as the target")
    axes.set(xlabel="violation, prediction / target", ylabel="relative term of a point")
    axes.legend(loc="upper left")
    return figure


def plot_violations(
    scalar_pred: Tensor | ArrayLike,
    scalar_true: Tensor | ArrayLike,
    vector_pred: Tensor | ArrayLike,
    vector_true: Tensor | ArrayLike,
) -> Figure:
    """Distributions of log10|H| and log10|M|, prediction beside target, with medians. Exact zeros are not drawn.

    Args:
        scalar_pred: H on the prediction, (n_points,).
        scalar_true: H on the target.
        vector_pred: M on the prediction, (n_points, D).
        vector_true: M on the target.
    """
    figure = _figure(width=9.0)
    panels = figure.subplots(1, 2)
    pairs = (
        ("|H|", np.abs(_array("scalar_pred", scalar_pred)), np.abs(_array("scalar_true", scalar_true))),
        (
            "|M|",
            np.linalg.norm(_array("vector_pred", vector_pred), axis=-1),
            np.linalg.norm(_array("vector_true", vector_true), axis=-1),
        ),
    )
    for axes, (name, pred, true) in zip(panels, pairs, strict=True):
        logs = {"pred": np.log10(pred[pred > 0]), "true": np.log10(true[true > 0])}
        together = np.concatenate(list(logs.values()))
        bins = np.linspace(together.min(), together.max() + 1e-9, 41) if len(together) else 10
        for color, (label, values) in zip(("C0", "C1"), logs.items(), strict=True):
            axes.hist(values, bins=bins, alpha=0.5, color=color, label=label)
            if len(values):
                median = float(np.median(values))
                axes.axvline(median, color=color, linestyle="--", label=f"median {median:.2f}")
        axes.set(xlabel=f"log10 {name}", ylabel="points")
        axes.legend(loc="upper left")
    return figure


def plot_point_loss(
    positions: Tensor | ArrayLike, point_loss: Tensor | ArrayLike, gradient: Tensor | ArrayLike, *, n_arrows: int = 200
) -> Figure:
    """The constraint loss of each point as colour in 3D, with arrows down its gradient.

    Args:
        positions: (n_points, 3).
        point_loss: (n_points,), from `point_constraint_loss`.
        gradient: (n_points, 3), of the loss with respect to the three components of interest of the output. Arrows are
            scaled to the longest.
        n_arrows: Draw arrows at the points of largest gradient only.
    """
    where, loss, slope = _array("positions", positions), _array("point_loss", point_loss), _array("gradient", gradient)
    if where.ndim != 2 or where.shape[1] != 3 or len(where) == 0:
        raise ValueError(f"`positions` must have shape (n_points, 3) with points, got {where.shape}")
    if loss.shape != where.shape[:1]:
        raise ValueError(f"`point_loss` must have shape {where.shape[:1]}, got {loss.shape}")
    _check_same_shape(positions=where, gradient=slope)
    figure = _figure(width=7.5, height=6.0)
    axes = figure.add_subplot(projection="3d")
    if (loss < 0).any():
        raise ValueError(f"`point_loss` must not be negative, got {loss.min()}")
    # Exact zeros take the colour of the smallest loss that a logarithm exists of.
    floor = loss[loss > 0].min(initial=1.0)
    dots = axes.scatter(*where.T, c=np.log10(np.maximum(loss, floor)), s=12, cmap="viridis")
    lengths = np.linalg.norm(slope, axis=1)
    chosen = np.argsort(lengths)[::-1][:n_arrows]
    chosen = chosen[lengths[chosen] > 0]
    if len(chosen):
        reach = 0.15 * float(np.ptp(where, axis=0).max() or 1.0)
        arrows = -slope[chosen] / lengths.max() * reach
        axes.quiver(*where[chosen].T, *arrows.T, color="C3", linewidth=0.8)
    figure.colorbar(dots, ax=axes, label="log10 constraint loss of the point", shrink=0.7)
    axes.set(xlabel="x", ylabel="y", title="arrows: down the gradient")
    return figure


def plot_history(steps: Sequence[int], history: Mapping[str, Sequence[float]], target: Mapping[str, float]) -> Figure:
    """Losses over training relative to the target's own: below 1 the network beats what it learned from.

    Args:
        steps: Training step of each entry.
        history: Losses or violations of the prediction by name, as long as `steps`.
        target: The same quantities evaluated on the target, by name, positive.
    """
    figure = _figure()
    axes = figure.subplots()
    for name, values in history.items():
        if len(values) != len(steps):
            raise ValueError(f"`history` of {name!r} must be as long as `steps`, {len(steps)}, got {len(values)}")
        if not target.get(name, 0.0) > 0:
            raise ValueError(f"`target` must have a positive value for {name!r}, got {target.get(name)}")
        axes.semilogy(steps, np.asarray(values) / target[name], label=name)
    axes.axhline(1.0, color="0.3", linestyle=":", label="the target itself")
    axes.set(xlabel="training step", ylabel="prediction / target")
    axes.legend(loc="upper right")
    return figure


def plot_curriculum(steps: Sequence[int], states: Sequence[CurriculumState]) -> Figure:
    """Distance of both constraints from their targets, and the progress that it gives, at each validation."""
    if len(states) != len(steps):
        raise ValueError(f"`states` must be as long as `steps`, {len(steps)}, got {len(states)}")
    figure = _figure(height=6.0)
    upper, lower = figure.subplots(2, 1, sharex=True)
    upper.plot(steps, [state.delta_h for state in states], label="Δ_h")
    upper.plot(steps, [state.delta_m for state in states], label="Δ_m")
    upper.plot(steps, [state.worst_ratio for state in states], color="0.4", linestyle="--", label="worst_ratio")
    upper.set(ylabel="dex")
    upper.legend(loc="upper right")
    lower.plot(steps, [state.progress for state in states])
    lower.set(xlabel="training step", ylabel="progress", ylim=(-0.05, 1.05))
    return figure


def _figure(width: float = 6.0, height: float = 4.0) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _array(name: str, values: Tensor | ArrayLike) -> FloatArray:
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    array: FloatArray = np.asarray(values, dtype=np.float64)
    n_wrong = int((~np.isfinite(array)).sum())
    if n_wrong:
        raise ValueError(f"`{name}` must be finite to be drawn, got {n_wrong} NaN or infinite values")
    return array


def _check_same_shape(**arrays: FloatArray) -> None:
    (first, reference), (second, other) = arrays.items()
    if other.shape != reference.shape:
        raise ValueError(f"`{second}` must have the shape of `{first}`, {reference.shape}, got {other.shape}")
