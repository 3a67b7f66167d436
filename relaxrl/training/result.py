"""What a run led to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TrainResult:
    """What a run led to.

    Attributes:
        folder: The run folder; `best/` in it holds the agent with the best evaluation.
        t_total: Environment steps (in cloning: displaced crystals), those before a resume included.
        updates: Updates of the networks.
        metrics: Of the last evaluation.
        best: `eval/ratio_to_bfgs` of the best evaluation; in reinforcement learning of the policy alone, without a
            fallback, in cloning of the optimizer that users get.
        interrupted: Whether it was ended before its time by Ctrl-C; it can be resumed.
    """

    folder: Path
    t_total: int
    updates: int
    metrics: dict[str, float]
    best: float
    interrupted: bool
