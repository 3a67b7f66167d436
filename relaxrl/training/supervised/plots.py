"""The loss curve of a run."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from relaxrl.metrics import read_metrics


def plot_losses(metrics: Path, path: Path) -> None:
    """Draw the loss, and each target's mean absolute error, of training and validation by epoch.

    Args:
        metrics: `RUN_NAME_metrics.csv`.
        path: Of the picture, PNG.
    """
    columns = read_metrics(metrics)
    prefix, suffix = "validation/", "_mae"
    targets = [
        name[len(prefix) : -len(suffix)] for name in columns if name.startswith(prefix) and name.endswith(suffix)
    ]
    panels = {"loss": "weighted loss"} | {f"{target}{suffix}": f"{target}, mean absolute error" for target in targets}
    figure = Figure(figsize=(4 * len(panels), 3.5), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display, whatever backend the user's process has
    for place, (name, title) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, len(panels), place)
        axes.plot(columns["epoch"], columns[f"train/{name}"], label="training")
        axes.plot(columns["epoch"], columns[f"validation/{name}"], label="validation")
        axes.set_yscale("log", nonpositive="mask")
        axes.set_xlabel("epoch")
        axes.set_title(title)
        axes.legend(loc="upper right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
