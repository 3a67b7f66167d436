"""The figures of a run against `t_total`, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from relaxrl.metrics import STEP, read_metrics
from relaxrl.training.diagnostics import Figures


def plot_figures(history: Sequence[Figures], folder: Path) -> list[Path]:
    """Draw the four diagnostic figures.

    Args:
        history: All evaluations of the run.
        folder: Gets `actual_move.png`, `q_against_return.png`, `action_scale.png`, `correction_share.png`.

    Returns:
        The files.
    """
    steps = [figures.t_total for figures in history]

    def series(name: str) -> list[float]:
        return [getattr(figures, name) for figures in history]

    files = []
    axes = _axes("displacement per atom and step (Å)", log=True)
    axes.plot(steps, series("actual_move"), "o-", label="actual (after correction)")
    axes.plot(steps, series("proposed_move"), "s--", label="proposed")
    files.append(_save(axes, folder / "actual_move.png"))

    axes = _axes("value (units of reward)")
    axes.plot(steps, series("q_estimate"), "o-", label="Q: critic's estimate")
    axes.plot(steps, series("realised_return"), "s--", label="return that followed")
    files.append(_save(axes, folder / "q_against_return.png"))

    axes = _axes("gate of the actor")
    axes.plot(steps, series("gate"), "o-", label="mean gate (1 at the start)")
    axes.set_ylim(bottom=0)
    files.append(_save(axes, folder / "action_scale.png"))

    axes = _axes("fraction")
    axes.plot(steps, series("correction_share"), "o-", label="steps with a_back > 0")
    axes.plot(steps, series("a_back"), "s--", label="mean a_back")
    axes.set_ylim(-0.02, 1.02)
    files.append(_save(axes, folder / "correction_share.png"))
    return files


def plot_learning_curve(metrics: Path, folder: Path) -> Path | None:
    """Draw evaluations against BFGS and convergence over the run; None while there is no evaluation."""
    columns = read_metrics(metrics)
    if "eval/ratio_to_bfgs" not in columns:
        return None
    axes = _axes("on the development structures")
    for name, label in (("eval/ratio_to_bfgs", "force evaluations / BFGS's"), ("eval/converged", "converged alone")):
        points = [(step, value) for step, value in zip(columns[STEP], columns[name], strict=True) if value == value]
        axes.plot(*zip(*points, strict=True), "o-", label=label)
    axes.axhline(1.0, color="grey", linewidth=0.8)
    axes.set_ylim(bottom=0)
    return _save(axes, folder / "learning_curve.png")


def _axes(label: str, log: bool = False) -> Axes:
    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display, whatever backend the user's process has
    axes = figure.add_subplot()
    axes.set_xlabel("environment steps, t_total")
    axes.set_ylabel(label)
    if log:
        axes.set_yscale("log", nonpositive="mask")
    return axes


def _save(axes: Axes, path: Path) -> Path:
    axes.legend(loc="upper right")  # the search for the best place warns on a busy machine
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    figure.savefig(path, dpi=120)
    return path
