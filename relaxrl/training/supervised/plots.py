"""The loss curve of a run."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from relaxrl.metrics import read_metrics

_VALIDATION, _MAE = "validation/", "_mae"


def plot_losses(metrics: Path, path: Path) -> None:
    """Draw the loss, and each target's mean absolute error, of training and validation by epoch, where there is one.

    Args:
        metrics: `RUN_NAME_metrics.csv`, or the `metrics.csv` of a run.
        path: Of the picture, PNG.
    """
    columns = read_metrics(metrics)
    if f"{_VALIDATION}loss" not in columns:
        return
    targets = [
        name[len(_VALIDATION) : -len(_MAE)] for name in columns if name.startswith(_VALIDATION) and name.endswith(_MAE)
    ]
    panels = {"loss": "loss"} | {f"{target}{_MAE}": f"{target}, mean absolute error" for target in targets}
    figure = Figure(figsize=(4 * len(panels), 3.5), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display, whatever backend the user's process has
    for place, (name, title) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, len(panels), place)
        trained = "train/epoch_loss" if name == "loss" and "train/epoch_loss" in columns else f"train/{name}"
        for column, label in ((trained, "training"), (f"{_VALIDATION}{name}", "validation")):
            if column in columns:
                points = zip(columns["epoch"], columns[column], strict=True)
                axes.plot(*zip(*((x, y) for x, y in points if x == x), strict=True), label=label)  # rows of other steps
        if min((value for value in columns[f"{_VALIDATION}{name}"] if value == value), default=0.0) > 0:
            axes.set_yscale("log")
        axes.set_xlabel("epoch")
        axes.set_title(title)
        axes.legend(loc="upper right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
