"""Numbers that change over training: constant, linear and exponential schedules."""

from __future__ import annotations

import math
from typing import Literal

from relaxrl.config import configclass


@configclass
class Schedule:
    """A number as a function of `t`: environment steps or episodes so far, as whoever uses the schedule says.

    Examples:
        >>> fade = Schedule(kind="linear", start=1.0, end=0.2, steps=100)
        >>> fade.at(0), fade.at(50), fade.at(1000)
        (1.0, 0.6, 0.2)
    """

    kind: Literal["constant", "linear", "exponential"] = "constant"
    """`constant`: always `start`. `linear`: from `start` to `end` in `steps`, then `end`. `exponential`: approaches
    `end`, the distance falling to 1/e in `steps`."""
    start: float
    """Value at t = 0."""
    end: float | None = None
    """Value at the end; needed unless constant."""
    steps: int | None = None
    """Length (linear) or decay time (exponential), in units of t; needed unless constant."""

    def __post_init__(self) -> None:
        """Check that the numbers fit the kind."""
        values = [self.start] if self.end is None else [self.start, self.end]
        if not all(math.isfinite(value) for value in values):
            raise ValueError(f"`start` and `end` must be finite, got {self.start} and {self.end}")
        if self.kind == "constant":
            return
        if self.end is None:
            raise ValueError(f"`end` must be given for a {self.kind} schedule")
        if self.steps is None or self.steps < 1:
            raise ValueError(f"`steps` must be at least 1 for a {self.kind} schedule, got {self.steps}")

    def at(self, t: int) -> float:
        """The value at `t` >= 0."""
        if self.kind == "constant" or self.end is None or self.steps is None:
            return self.start
        if self.kind == "linear":
            done = min(t / self.steps, 1.0)
            return (1.0 - done) * self.start + done * self.end
        return self.end + (self.start - self.end) * math.exp(-t / self.steps)

    @property
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest value it takes."""
        if self.kind == "constant" or self.end is None:
            return self.start, self.start
        return min(self.start, self.end), max(self.start, self.end)


def constant(value: float) -> Schedule:
    """A schedule that is always `value`."""
    return Schedule(kind="constant", start=value)
