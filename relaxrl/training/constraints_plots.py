"""The pictures of a run of training by constraints, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from relaxrl.losses import ConstraintLossConfig, CurriculumState
from relaxrl.losses.pictures import (
    plot_curriculum,
    plot_data_term,
    plot_history,
    plot_improvement_curve,
    plot_point_loss,
    plot_violations,
)
from relaxrl.training.violations import JudgedStep


@dataclass(frozen=True)
class Judged:
    """What one evaluation has measured on the development set.

    Attributes:
        t_total: Crystals displaced before it.
        state: Of the curriculum.
        loss: Terms of the loss, with the initial weights, by name.
        of_target: The same of the target itself.
    """

    t_total: int
    state: CurriculumState
    loss: dict[str, float]
    of_target: dict[str, float]

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Judged:
        """The inverse of `dataclasses.asdict`."""
        return Judged(**{**values, "state": CurriculumState(**values["state"])})


def plot_validations(
    config: ConstraintLossConfig,
    validations: Sequence[Judged],
    points: JudgedStep,
    space: tuple[Tensor, Tensor, Tensor],
    folder: Path,
) -> list[Path]:
    """Draw where the training stands.

    Args:
        config: Of the loss.
        validations: All so far.
        points: The last one's atoms.
        space: Of one structure: positions (n, 3), constraint loss of each atom (n,), its gradient (n, 3).
        folder: Gets `data_term.png`, `improvement.png` (the scalar constraint's curve), `violations.png`,
            `point_loss.png`, `constraints.png` (the history) and `curriculum.png`.

    Returns:
        The files.
    """
    steps = [validation.t_total for validation in validations]
    history, target = _history(validations)
    figures = {
        "data_term": plot_data_term(points.output_pred, points.output_true),
        "violations": plot_violations(points.scalar_pred, points.scalar_true, points.vector_pred, points.vector_true),
        "point_loss": plot_point_loss(*space),
        "constraints": plot_history(steps, history, target),
        "curriculum": plot_curriculum(steps, [validation.state for validation in validations]),
    }
    if config.alpha_improve > 0:  # an aim of nothing has no place on a logarithmic axis
        figures["improvement"] = plot_improvement_curve(config.alpha_improve, eps=config.eps, clip=config.clip)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, figure in figures.items():
        files.append(folder / f"{name}.png")
        figure.savefig(files[-1], dpi=120)
    return files


def _history(validations: Sequence[Judged]) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Medians of both constraints and constraint terms, each in units of the target's."""
    history = {
        "median |H|, energy above the minimum": [10**validation.state.delta_h for validation in validations],
        "median |M|, residual force": [10**validation.state.delta_m for validation in validations],
    }
    target = dict.fromkeys(history, 1.0)
    for name in ("relative", "absolute"):
        if (own := validations[-1].of_target[name]) > 0:
            history[f"{name} term"] = [validation.loss[name] for validation in validations]
            target[f"{name} term"] = own
    return history, target
