"""Prioritised replay: transitions with a large TD error are drawn more often."""

from __future__ import annotations

from typing import Literal

import numpy as np

from relaxrl.agents.replay import ReplayBuffer, Sample
from relaxrl.agents.schedules import Schedule
from relaxrl.agents.transition import Transition
from relaxrl.config import configclass
from relaxrl.typing import FloatArray, IntArray, StateDict


@configclass
class PriorityConfig:
    """How priorities follow from TD errors."""

    kind: Literal["proportional", "lap"] = "proportional"
    """`proportional`: (|TD| + epsilon)^alpha with importance weights. `lap`: max(|TD|, min_priority)^alpha without
    them; needs `critic_loss: lap` (or `huber`) with its kink at `min_priority`."""
    alpha: float = 0.6
    """How strongly errors count, 0 (uniform) to 1. 0.6 is the original paper's choice; LAP's paper uses 0.4."""
    beta: Schedule = Schedule(kind="linear", start=0.4, end=1.0, steps=20_000)
    """Exponent of the importance weights against environment steps: full correction (1) matters near convergence."""
    epsilon: float = 1e-3
    """Units of the reward; keeps transitions without error in play. `proportional` only."""
    min_priority: float = 1.0
    """Units of the reward; below it LAP samples uniformly. `lap` only."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0.0 <= self.alpha <= 1.0:
            raise ValueError(f"`alpha` must be in [0, 1], got {self.alpha}")
        low, high = self.beta.bounds
        if low < 0.0 or high > 1.0:
            raise ValueError(f"`beta` must stay in [0, 1], got {low} to {high}")
        if self.epsilon <= 0.0:
            raise ValueError(f"`epsilon` must be positive, got {self.epsilon}")
        if self.min_priority <= 0.0:
            raise ValueError(f"`min_priority` must be positive, got {self.min_priority}")


class PrioritizedReplay(ReplayBuffer):
    """A replay buffer whose transitions are drawn with probability P(i) = p_i / Σ p, p from their last TD error.

    New transitions get the largest priority seen so far, so that each is drawn soon. Importance weights
    (N P(i))^-β are divided by the largest one of the buffer: they only ever shrink a loss. Sampling is a cumulative sum
    and a binary search: 0.3 ms at 1e5 transitions, no sum tree needed.

    Args:
        capacity: Transitions kept; see `default_capacity`.
        config: How priorities follow from TD errors.

    References:
        Schaul et al., Prioritized Experience Replay, arXiv:1511.05952.
        Fujimoto, Meger, Precup, LAP, arXiv:2007.06049.
    """

    def __init__(self, capacity: int, config: PriorityConfig | None = None) -> None:
        super().__init__(capacity)
        self.config = config if config is not None else PriorityConfig()
        self._priorities = np.zeros(capacity)  # of places in use: p_i, the exponent alpha included
        self._largest = float(self._priority(np.ones(1))[0])

    def add(self, transition: Transition) -> IntArray:
        """Store a batch of transitions with the largest priority seen so far; see `ReplayBuffer.add`."""
        places = super().add(transition)
        self._priorities[places] = self._largest
        return places

    def sample(self, batch_size: int, generator: np.random.Generator, t: int = 0) -> Sample:
        """Draw transitions with replacement by priority; `t`, environment steps so far, sets β."""
        self._check_not_empty()
        priorities = self._priorities[: len(self)]
        cumulative = priorities.cumsum()
        # Rounding may let a draw touch the very end; there is no transition behind the last.
        drawn = np.searchsorted(cumulative, generator.random(batch_size) * cumulative[-1], side="right")
        indices = np.minimum(drawn, len(self) - 1).astype(np.int64)
        if self.config.kind == "lap":
            weights = np.ones(batch_size)
        else:
            weights = (priorities[indices] / priorities.min()) ** -self.config.beta.at(t)
        return Sample(self.get(indices), indices, weights)

    def update_priorities(self, indices: IntArray, td_errors: FloatArray) -> None:
        """Set the priorities of sampled transitions from their TD errors.

        Args:
            indices: (n,); places, as sampled.
            td_errors: (n,), units of the reward; the sign does not matter.

        Raises:
            ValueError: An error is not finite.
        """
        errors = np.abs(np.asarray(td_errors, dtype=np.float64))
        if not np.isfinite(errors).all():
            raise ValueError("`td_errors` must be finite; the critic has diverged")
        if not len(errors):
            return
        priorities = self._priority(errors)
        self._priorities[indices] = priorities
        self._largest = max(self._largest, float(priorities.max()))

    def state_dict(self) -> StateDict:
        """All transitions, counters and priorities."""
        return super().state_dict() | {"priorities": self._priorities.copy(), "largest": self._largest}

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a state made by `state_dict`."""
        super().load_state_dict(state)
        self._priorities = np.array(state["priorities"])
        self._largest = state["largest"]

    def _priority(self, errors: FloatArray) -> FloatArray:
        config = self.config
        shifted = errors + config.epsilon if config.kind == "proportional" else np.maximum(errors, config.min_priority)
        powered: FloatArray = shifted**config.alpha
        return powered
