"""What the page of a run draws of its metrics, and in what words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relaxrl.metrics import STEP
from relaxrl.page import rounded

POINTS = 1000
"""Of a curve; longer ones are thinned evenly, which no screen can show anyway."""
_COLORS = ("c0", "c1", "c2", "c3", "c4", "c5", "ref")


@dataclass(frozen=True)
class Chart:
    """One figure.

    Attributes:
        title: Above it.
        words: Below it: what it means.
        columns: Of the metrics, with the names that the legend gives them. Those that a run lacks are left out; a
            name that ends in `*` stands for all that begin so, called by what follows.
        label: Of the vertical axis, with its unit.
        log: Whether the vertical axis is logarithmic.
        low: Where the axis begins; None goes by the numbers.
        high: Where it ends.
        line: A horizontal line and what it says.
        stages: Whether values are whole numbers that stay until the next one.
    """

    title: str
    words: str
    columns: Mapping[str, str]
    label: str
    log: bool = False
    low: float | None = None
    high: float | None = None
    line: tuple[float, str] | None = None
    stages: bool = False


@dataclass(frozen=True)
class Section:
    """Charts that belong together."""

    title: str
    charts: Sequence[Chart]
    words: str = ""


PROGRESS = Section(
    "Progress on the development structures",
    [
        Chart(
            "Force evaluations compared with BFGS",
            "Geometric mean over fixed starts; unconverged ones count as the limit of steps. Below 1: fewer than BFGS.",
            {"eval/ratio_to_bfgs": "evaluations / BFGS's"},
            "evaluations / those of BFGS",
            log=True,
            line=(1.0, "BFGS"),
        ),
        Chart(
            "Converged",
            "Share of the development structures, and of the last hundred training episodes.",
            {
                "eval/converged": "converged",
                "eval/handed_over": "ended by the fallback",
                "rollout/success_rate": "training episodes",
            },
            "share",
            low=0.0,
            high=1.02,
        ),
        Chart(
            "Force left after 1, 3 and 10 steps",
            "Geometric mean of F_max over F_max at the start. It tells progress before anything converges.",
            {"eval/fmax_after_1": "1 step", "eval/fmax_after_3": "3 steps", "eval/fmax_after_10": "10 steps"},
            "F_max / F_max at the start",
            log=True,
        ),
        Chart(
            "Evaluations per structure",
            "On the development structures; those that fail count as the limit of steps.",
            {"eval/evaluations": "mean", "eval/evaluations_max": "worst"},
            "force evaluations",
            log=True,
        ),
    ],
)

DIAGNOSTICS = Section(
    "The four diagnostics",
    [
        Chart(
            "Actual move",
            "Healthy: falls with the forces, proposal and move agree. Near zero under large forces: the agent runs "
            "into walls, or does not dare to move.",
            {"relax/actual_move": "after correction", "relax/proposed_move": "proposed"},
            "displacement per atom and step, Å",
            log=True,
        ),
        Chart(
            "Q against return",
            "Healthy: the critic's estimate is near the return that followed. Rising while forces don't fall: "
            "overestimation.",
            {"relax/q_estimate": "Q, the critic's estimate", "relax/realised_return": "return that followed"},
            "value, units of reward",
        ),
        Chart(
            "Action scale",
            "Healthy: near 1, where it starts. Towards zero: the agent avoids penalties by not moving.",
            {"relax/gate": "mean gate of the actor"},
            "gate",
            low=0.0,
            line=(1.0, "start"),
        ),
        Chart(
            "Correction share",
            "Healthy: a few per cent, from exploration. High: the agent proposes moves that are not allowed.",
            {"relax/correction_share": "steps that were corrected", "relax/a_back": "part of the move taken back"},
            "share",
            low=0.0,
            high=1.02,
        ),
    ],
)

EPISODES = Section(
    "Training episodes",
    [
        Chart(
            "Return",
            "Mean of the last hundred episodes that the agent drove.",
            {"rollout/ep_rew_mean": "return"},
            "return, units of reward",
        ),
        Chart(
            "Length",
            "Mean of the last hundred episodes that the agent drove.",
            {"rollout/ep_len_mean": "length"},
            "environment steps of an episode",
        ),
        Chart("Reward term by term", "Mean per step.", {"reward/*": ""}, "reward per step"),
    ],
)

BUFFERS = Section(
    "Buffers and curriculum",
    [
        Chart(
            "Buffers",
            "Transitions that each buffer holds.",
            {"replay/agent_size": "agent", "replay/expert_size": "expert"},
            "transitions",
            low=0.0,
        ),
        Chart(
            "The expert's share",
            "Of each batch, as scheduled (replay.expert_share), and of all transitions stored.",
            {"share/batch": "of a batch", "share/stored": "of what is stored"},
            "share",
            low=0.0,
            high=1.02,
        ),
        Chart(
            "Curriculum stage",
            "",  # says what the stages are
            {"relax/curriculum_stage": "stage"},
            "stage",
            low=0.0,
            stages=True,
        ),
    ],
)

CONSTRAINTS = Section(
    "Curriculum of the constraints",
    [
        Chart(
            "Distance from the aim",
            "Orders of magnitude by which the step's constraints exceed those of the yardstick; below 0: better.",
            {"constraints/delta_h": "energy above the minimum", "constraints/delta_m": "forces left"},
            "dex",
            line=(0.0, "the yardstick"),
        ),
        Chart(
            "Progress of the curriculum",
            "1 where both aims are reached; sets the weights of the terms.",
            {"constraints/progress": "progress", "constraints/*_weight": ""},
            "progress and weights",
            low=0.0,
        ),
        Chart(
            "Terms of the loss on the development set",
            "With the initial weights.",
            {"constraints/*_loss": ""},
            "loss",
            log=True,
        ),
    ],
)

LEARNING = Section(
    "Learning",
    [
        Chart(
            "Loss",
            "Means since the last row.",
            {"train/loss": "training", "validation/loss": "validation"},
            "loss",
            log=True,
        ),
        Chart(
            "Terms of the loss", "Means since the last row.", {"train/*_loss": "", "train/td_error": "TD error"}, "loss"
        ),
        Chart(
            "Values",
            "The critic's estimate in training batches, and its target.",
            {"train/q_mean": "Q", "train/q_target_mean": "target"},
            "value, units of reward",
        ),
        Chart(
            "Energies",
            "Mean absolute error.",
            {"train/energy_mae": "training", "validation/energy_mae": "validation"},
            "error, eV per atom",
            log=True,
        ),
        Chart(
            "Forces",
            "Mean absolute error.",
            {"train/forces_mae": "training", "validation/forces_mae": "validation"},
            "error, eV/Å",
            log=True,
        ),
        Chart(
            "Displacements",
            "Mean absolute error.",
            {"train/displacement_mae": "training", "validation/displacement_mae": "validation"},
            "error, Å",
            log=True,
        ),
        Chart("Norm of the gradient", "Before it is clipped.", {"train/*grad_norm": ""}, "norm", log=True),
        Chart("Learning rate", "Of the optimizer.", {"train/lr": "rate", "lr": "rate"}, "learning rate", log=True),
    ],
)

SECTIONS = (PROGRESS, DIAGNOSTICS, CONSTRAINTS, BUFFERS, EPISODES, LEARNING)


def drawn(chart: Chart, columns: Mapping[str, Sequence[float]], used: set[str]) -> dict[str, Any] | None:
    """A chart as `training.js` reads it; None if the run has none of its numbers.

    Args:
        chart: What to draw.
        columns: Of the metrics.
        used: Gets the columns drawn.
    """
    series: list[dict[str, Any]] = []
    for name, label in _present(chart.columns, columns):
        points = _points(columns[STEP], columns[name])
        if not points:
            continue
        used.add(name)
        k = len(series)
        series.append(
            {
                "name": label,
                "color": _COLORS[k % len(_COLORS)],
                "dash": k // len(_COLORS) % 3,
                "type": "step" if chart.stages else "line",
                "points": points,
            }
        )
    if not series:
        return None
    # Logarithms know no zero; a chart with one, or with negative numbers, is drawn as it is.
    log = chart.log and all(value > 0 for each in series for _, value in each["points"])
    axis: dict[str, Any] = {"label": chart.label, "log": log, "integer": chart.stages}
    axis |= {key: value for key, value in (("min", chart.low), ("max", chart.high)) if value is not None and not log}
    lines = [] if chart.line is None or (log and chart.line[0] <= 0) else [{"y": chart.line[0], "label": chart.line[1]}]
    return {"y": axis, "series": series, "lines": lines}


def plain(name: str) -> Chart:
    """A chart of one column, whatever it is."""
    return Chart(name, "", {name: name}, name)


def _present(wanted: Mapping[str, str], columns: Mapping[str, Sequence[float]]) -> list[tuple[str, str]]:
    """Columns that there are and their labels."""
    found: dict[str, str] = {}
    for pattern, label in wanted.items():
        before, star, after = pattern.partition("*")
        if not star:
            if pattern in columns:
                found.setdefault(pattern, label)
            continue
        for name in columns:
            if name.startswith(before) and name.endswith(after) and len(name) > len(before) + len(after):
                found.setdefault(name, name[len(before) : len(name) - len(after)].replace("_", " ").strip())
    return list(found.items())


def _points(steps: Sequence[float], values: Sequence[float]) -> list[list[float | None]]:
    known = [(step, value) for step, value in zip(steps, values, strict=True) if math.isfinite(value)]
    stride = math.ceil(len(known) / POINTS)
    return [[step, *rounded([value], 5)] for step, value in known[:: max(stride, 1)]]
