"""When training has nothing left to gain."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from relaxrl.training.supervised.config import EarlyStoppingConfig
from relaxrl.training.supervised.measures import TargetErrors
from relaxrl.typing import StateDict


@dataclass
class _Progress:
    """What one criterion remembers: the error to beat, epochs without a gain since, and whether it is met."""

    best: float = math.inf
    waited: int = 0
    met: bool = False


class EarlyStopping:
    """Criteria of several properties, all or any of which must be met.

    One is met while its error is below the lower bound, or has not fallen by more than the threshold for `patience`
    epochs in a row.

    Args:
        criteria: By property; without any, training is never stopped.
        mode: `and` or `or`.
    """

    def __init__(self, criteria: Mapping[str, EarlyStoppingConfig], mode: Literal["and", "or"] = "and") -> None:
        self.criteria = dict(criteria)
        self.mode = mode
        self._progress = {name: _Progress() for name in criteria}

    @property
    def met(self) -> bool:
        """Whether training should end."""
        each = [progress.met for progress in self._progress.values()]
        return bool(each) and (all(each) if self.mode == "and" else any(each))

    def update(self, errors: Mapping[str, TargetErrors]) -> None:
        """Take an epoch's validation errors into account."""
        for name, criterion in self.criteria.items():
            progress = self._progress[name]
            error = errors[name].mae if criterion.metric == "mae" else errors[name].rmse
            if error < progress.best - criterion.threshold:
                progress.best, progress.waited = error, 0
            else:
                progress.waited += 1
            good = criterion.lower_bound is not None and error < criterion.lower_bound
            progress.met = good or progress.waited >= criterion.patience

    def state_dict(self) -> StateDict:
        """What every criterion remembers."""
        return {name: [each.best, each.waited, each.met] for name, each in self._progress.items()}

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a state made by `state_dict`; criteria that were not there begin anew."""
        for name in self._progress:
            if name in state:
                self._progress[name] = _Progress(*state[name])
