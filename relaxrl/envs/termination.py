"""Why episodes end, as words that programs can compare and people can read."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why an episode ended; `RUNNING` (the empty string) while it has not.

    `CONVERGED` is the only success and the only one that *terminates* in the sense of reinforcement learning; all the
    others *truncate*: the state after them still has a value, and targets bootstrap from it.
    """

    RUNNING = ""
    CONVERGED = "converged"
    """F_max <= fmax, energy not above the start, structure intact."""
    ENERGY_ABOVE_START = "energy_above_start"
    """Forces vanish, but at a higher energy than the episode began with: atoms were pulled out of their wells."""
    BROKEN = "broken"
    """Forces vanish, but the structure has come apart into more pieces than it began with."""
    STEP_LIMIT = "step_limit"
    """The episode has used up its steps."""
    STUCK = "stuck"
    """Too many steps in a row were wholly taken back by the action correction."""
    CALCULATOR_FAILED = "calculator_failed"
    """The calculator raised or returned numbers that are not finite; the step was taken back."""
    EXPLODED = "exploded"
    """Forces, energy or displacement from the start are beyond the limits."""


TERMINATING = frozenset({Reason.CONVERGED})
"""Reasons that terminate; the others truncate."""
