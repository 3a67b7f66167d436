"""Running means between two rows of the metrics, and over the last episodes."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from relaxrl.typing import StateDict

LAST_EPISODES = 100
"""Episodes over which `rollout/ep_*_mean` are taken, as in other RL libraries."""


class Meters:
    """Means of named numbers since the last `flush`; and, for episodes, over the last hundred."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._episodes: dict[str, deque[float]] = {}

    def add(self, values: Mapping[str, float], count: int = 1) -> None:
        """Take the mean values of `count` samples into account."""
        if not count:
            return
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value) * count
            self._counts[name] = self._counts.get(name, 0) + count

    def episode(self, values: Mapping[str, float]) -> None:
        """Record a finished episode."""
        for name, value in values.items():
            self._episodes.setdefault(name, deque(maxlen=LAST_EPISODES)).append(float(value))

    @property
    def means(self) -> dict[str, float]:
        """Means since the last flush, without those of episodes."""
        return {name: total / self._counts[name] for name, total in self._sums.items()}

    def flush(self) -> dict[str, float]:
        """All means; those since the last flush begin anew."""
        means = self.means
        means |= {name: sum(values) / len(values) for name, values in self._episodes.items()}
        self._sums.clear()
        self._counts.clear()
        return means

    def state_dict(self) -> StateDict:
        """Sums, counts and episodes."""
        episodes = {name: list(values) for name, values in self._episodes.items()}
        return {"sums": dict(self._sums), "counts": dict(self._counts), "episodes": episodes}

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a state made by `state_dict`."""
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])
        self._episodes = {name: deque(values, maxlen=LAST_EPISODES) for name, values in state["episodes"].items()}
