"""Whether an agent's prediction is of any use for a structure, found out from the first forces that it leads to."""

from __future__ import annotations

import math

from relaxrl.typing import StateDict


class Audition:
    """Adds up how far the first changes of the forces were from what the agent's Hessian foresaw.

    Before the first step nothing is known of a surface. After one or two, an agent that knows it shows: `metals` is
    wrong by 5 to 15 % of the change at home, by 40 to 90 % on covalent and ionic crystals, even if its Hessian is
    scaled to fit best. Later steps are no measure: near saddle points the agent is as wrong at home, yet the best there
    is.

    Args:
        steps: Force evaluations that count.
        tolerance: Relative error of a foreseen change that speaks neither for nor against the agent.
        credit: Logarithm of the factor by which the errors, multiplied up, may exceed the tolerance's.
    """

    def __init__(self, steps: int, tolerance: float, credit: float) -> None:
        self.steps = steps
        self.tolerance = tolerance
        self.credit = credit
        self.begin()

    def begin(self) -> None:
        """A relaxation begins: the agent is heard anew."""
        self._heard = 0
        self._score = -self.credit

    @property
    def open(self) -> bool:
        """Whether the next evaluation counts."""
        return self._heard < self.steps

    def hear(self, error: float) -> None:
        """Judge one evaluation by the relative error of what was foreseen."""
        if self.open:
            self._heard += 1
            self._score += math.log(max(error, 1e-6) / self.tolerance)

    @property
    def failed(self) -> bool:
        """Whether the errors so far are too large for an agent that knows the surface."""
        return self._heard > 0 and self._score > 0

    def state_dict(self) -> StateDict:
        """How many were heard, and how it stands."""
        return {"heard": self._heard, "score": self._score}

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a state made by `state_dict`."""
        self._heard = int(state["heard"])
        self._score = float(state["score"])
