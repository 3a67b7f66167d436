"""Plots of a comparison."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from relaxrl.evaluation.compare import Comparison
from relaxrl.evaluation.methods import AGENT_PREFIX, REFERENCE
from relaxrl.evaluation.run import RunRecord
from relaxrl.evaluation.statistics import by_method, censored
from relaxrl.typing import FloatArray

SHOWN = 8
"""Methods with a curve of their own; beyond that colours can't be told apart. Agents and BFGS always are shown."""


def draw_plots(comparison: Comparison, folder: Path) -> list[Path]:
    """Draw all plots into the folder.

    Returns:
        The files: distribution of evaluations, performance profile, fmax against evaluations, ratio against size.
    """
    summary = comparison.summary()
    ratio = {name: method.ratio_to_reference[summary.fmax].value for name, method in summary.methods.items()}
    first = [name for name in ratio if name == REFERENCE or name.startswith(AGENT_PREFIX)]
    others = sorted((name for name in ratio if name not in first), key=lambda name: ratio[name])
    shown = sorted(first + others[: max(SHOWN - len(first), 0)], key=lambda name: ratio[name])
    runs = {name: list(by_method(comparison.records)[name].values()) for name in shown}
    limit, fmax = comparison.limits.steps + 1, comparison.limits.fmax
    counts = {
        name: np.array([censored(record, fmax, limit) for record in records], dtype=np.float64)
        for name, records in runs.items()
    }
    draws: dict[str, Callable[[Axes], None]] = {
        "distribution": lambda axes: _distribution(axes, counts, fmax),
        "performance_profile": lambda axes: _profile(axes, counts, runs),
        "fmax": lambda axes: _traces(axes, runs, fmax),
        "ratio_against_natoms": lambda axes: _sizes(axes, counts, runs),
    }
    files = []
    for name, draw in draws.items():
        figure = Figure(figsize=(8.0, 4.5), layout="constrained")  # not pyplot: no display, no global state
        axes = figure.add_subplot()
        draw(axes)
        if axes.get_legend_handles_labels()[0]:
            figure.legend(loc="outside right upper", fontsize="small")
        files.append(folder / f"{name}.png")
        figure.savefig(files[-1], dpi=120)
    return files


def _distribution(axes: Axes, counts: dict[str, FloatArray], fmax: float) -> None:
    axes.boxplot(list(counts.values()), orientation="horizontal", tick_labels=list(counts), whis=(5, 95), widths=0.6)
    axes.invert_yaxis()
    _plain_log(axes, "x")
    axes.set_xlabel(f"force evaluations to {fmax:g} eV/Å (box: quartiles, whiskers: 5 and 95 %)")
    axes.grid(axis="x", alpha=0.3, which="both")


def _profile(axes: Axes, counts: dict[str, FloatArray], runs: dict[str, list[RunRecord]]) -> None:
    """Share of the structures that a method solves within a factor of the best one shown (Dolan and Moré 2002)."""
    best = np.min(list(counts.values()), axis=0)
    right = max(float(np.max(values / best)) for values in counts.values())
    for name, values in counts.items():
        solved = np.array([record.converged for record in runs[name]])
        factors = np.sort((values / best)[solved])
        share = np.arange(1, len(factors) + 1) / len(values)
        at_one, at_end = np.count_nonzero(factors <= 1) / len(values), len(factors) / len(values)
        axes.step(np.r_[1.0, factors, right], np.r_[at_one, share, at_end], where="post", **_style(name))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlim(1 / 1.05, None)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("factor of the fewest evaluations that any method needed")
    axes.set_ylabel("share of the structures converged")
    axes.grid(alpha=0.3)


def _traces(axes: Axes, runs: dict[str, list[RunRecord]], fmax: float) -> None:
    """Median over structures of the lowest fmax so far; finished runs keep their last value."""
    for name, records in runs.items():
        length = max(len(record.trace) for record in records)
        if length == 0:
            continue
        lowest = np.full((len(records), length), np.nan)
        for row, record in zip(lowest, records, strict=True):
            values = np.fmin.accumulate(np.asarray(record.trace, dtype=np.float64))
            row[: len(values)] = values
            row[len(values) :] = values[-1] if len(values) else np.nan
        known = ~np.isnan(lowest).all(axis=0)
        if not known.any():
            continue
        number = np.arange(1, length + 1)[known]
        middle = np.nanquantile(lowest[:, known], [0.25, 0.5, 0.75], axis=0)
        (line,) = axes.plot(number, middle[1], **_style(name))
        axes.fill_between(number, middle[0], middle[2], color=line.get_color(), alpha=0.12, linewidth=0)
    axes.axhline(fmax, color="black", linewidth=0.8, linestyle=":")
    _plain_log(axes, "x")
    # Without forces at all (a perfect crystal) there is nothing that a logarithm could show.
    if all(min(record.trace, default=1.0) > 0 for records in runs.values() for record in records):
        axes.set_yscale("log")
    axes.set_xlabel("force evaluations")
    axes.set_ylabel("lowest fmax so far, eV/Å (median and quartiles)")
    axes.grid(alpha=0.3, which="both")


def _sizes(axes: Axes, counts: dict[str, FloatArray], runs: dict[str, list[RunRecord]]) -> None:
    sizes = np.array([record.natoms for record in runs[REFERENCE]])
    for name, values in counts.items():
        if name == REFERENCE:
            continue
        logs = np.log(values / counts[REFERENCE])
        groups = np.unique(sizes)
        means = np.exp([logs[sizes == size].mean() for size in groups])
        (line,) = axes.plot(groups, means, marker="o", markersize=4, **_style(name))
        axes.plot(sizes, np.exp(logs), ".", color=line.get_color(), alpha=0.25, markersize=4)
    axes.axhline(1.0, color="black", linewidth=0.8, linestyle=":")
    _plain_log(axes, "x")
    _plain_log(axes, "y")
    axes.set_xlabel("number of atoms")
    axes.set_ylabel("force evaluations / those of BFGS")
    axes.grid(alpha=0.3, which="both")


def _plain_log(axes: Axes, direction: Literal["x", "y"]) -> None:
    """A logarithmic axis whose ticks are numbers that people say: 1, 2, 5, 10, ..."""
    if direction == "x":
        axes.set_xscale("log")
    else:
        axes.set_yscale("log")
    axis = axes.xaxis if direction == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _style(name: str) -> dict[str, Any]:
    return {"label": name, "linewidth": 2.5 if name.startswith(AGENT_PREFIX) else 1.2}
