"""What a supervised run led to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SupervisedResult:
    """What a supervised run led to.

    Attributes:
        epochs: Whole epochs, those before a resume included.
        steps: Optimizer steps.
        best_file: The checkpoint with the smallest validation error; None before the first epoch.
        best_epoch: It was written after this one.
        best_error: The weighted validation loss of that epoch.
        reason: Why training ended.
        metrics: Of the last epoch.
        interrupted: Whether it was ended before its time by Ctrl-C; it can be resumed.
    """

    epochs: int
    steps: int
    best_file: Path | None
    best_epoch: int
    best_error: float
    reason: str
    metrics: dict[str, float]
    interrupted: bool
