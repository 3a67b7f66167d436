"""The learning rate and the gradient's limit of an energy model that is trained gently at first."""

from __future__ import annotations

from typing import NamedTuple


class Pace(NamedTuple):
    """How fast an energy model may learn.

    Attributes:
        rate: Factor on its learning rate.
        clip: Largest norm of its gradient.
    """

    rate: float
    clip: float


EARLY = Pace(0.1, 0.3)
LATE = Pace(0.5, 0.5)
RAMP = (5_000, 15_000)
"""Updates between which the pace rises."""


def progressive_pace(step: int, ramp: tuple[int, int] = RAMP) -> Pace:
    """The pace at an update, counted from 0.

    Args:
        step: Updates done.
        ramp: First and last update of the rise from `EARLY` to `LATE`, which is linear in both.

    Examples:
        >>> progressive_pace(4_999), progressive_pace(10_000), progressive_pace(15_000)
        (Pace(rate=0.1, clip=0.3), Pace(rate=0.3, clip=0.4), Pace(rate=0.5, clip=0.5))
    """
    first, last = ramp
    if step < first:
        return EARLY
    if step >= last:
        return LATE
    done = (step - first) / (last - first)
    return Pace(*((1.0 - done) * early + done * late for early, late in zip(EARLY, LATE, strict=True)))
