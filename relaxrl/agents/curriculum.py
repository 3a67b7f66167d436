"""Size curriculum: small structures first, larger ones as training goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from relaxrl.config import configclass
from relaxrl.typing import BoolArray, StateDict


@configclass
class CurriculumConfig:
    """Stages of structure size and what unlocks the next."""

    advance: Literal["episodes", "success_rate", "off"] = "episodes"
    """`episodes`: after so many episodes in a stage. `success_rate`: when enough of the last episodes converged.
    `off`: all sizes from the start."""
    limits: tuple[int, ...] = (10, 30, 50)
    """Stage k draws structures of fewer than `limits[k]` atoms, the smaller ones included; after the last limit there
    is none."""
    episodes: tuple[int, ...] = (1500, 1500, 1500)
    """Episodes in each stage, as many numbers as limits (`episodes`)."""
    success_rate: float = 0.9
    """Share of converged episodes that unlocks the next stage (`success_rate`)."""
    window: int = 100
    """Episodes over which that share is taken, all of them of the present stage (`success_rate`)."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if list(self.limits) != sorted(set(self.limits)) or any(limit < 2 for limit in self.limits):
            raise ValueError(f"`limits` must rise and be at least 2, got {self.limits}")
        if self.advance == "episodes" and len(self.episodes) != len(self.limits):
            raise ValueError(f"`episodes` must have one number per limit ({len(self.limits)}), got {self.episodes}")
        if any(count < 1 for count in self.episodes):
            raise ValueError(f"`episodes` must be at least 1 each, got {self.episodes}")
        if not 0.0 < self.success_rate <= 1.0:
            raise ValueError(f"`success_rate` must be in (0, 1], got {self.success_rate}")
        if self.window < 1:
            raise ValueError(f"`window` must be at least 1, got {self.window}")


class SizeCurriculum:
    """Which structures may be drawn now.

    Args:
        config: The stages.
        sizes: Atoms of each structure of the training set.

    Raises:
        ValueError: There are no structures.

    Examples:
        >>> curriculum = SizeCurriculum(CurriculumConfig(limits=(10,), episodes=(2,)), sizes=[4, 32])
        >>> curriculum.unlocked().tolist()
        [True, False]
        >>> curriculum.record([False, True])
        >>> curriculum.stage, curriculum.unlocked().tolist()
        (1, [True, True])
    """

    def __init__(self, config: CurriculumConfig, sizes: Sequence[int]) -> None:
        if not len(sizes):
            raise ValueError("a curriculum needs at least one structure, got none")
        self.config = config
        self.sizes = np.asarray(sizes, dtype=np.int64)
        self.stage = len(config.limits) if config.advance == "off" else 0
        self._outcomes: deque[bool] = deque(maxlen=config.window)  # of this stage's last episodes
        self._episodes = 0  # in this stage
        self._skip_idle_stages(before=0)

    @property
    def last_stage(self) -> int:
        """The stage in which every size is unlocked."""
        return len(self.config.limits)

    def unlocked(self) -> BoolArray:
        """Which structures may be drawn, (n_structures,); multiply sampling weights with it."""
        return self._unlocked_in(self.stage)

    def record(self, converged: Iterable[bool]) -> None:
        """Count finished episodes, in order, and go to the next stage when one of them completes this one."""
        for success in converged:
            if self.stage == self.last_stage:
                return
            self._episodes += 1
            self._outcomes.append(bool(success))
            if self._stage_is_complete():
                self._enter(self.stage + 1)

    def state_dict(self) -> StateDict:
        """Stage and counters."""
        return {"stage": self.stage, "episodes": self._episodes, "outcomes": list(self._outcomes)}

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a state made by `state_dict`."""
        self.stage, self._episodes = state["stage"], state["episodes"]
        self._outcomes = deque(state["outcomes"], maxlen=self.config.window)

    def _unlocked_in(self, stage: int) -> BoolArray:
        if stage == self.last_stage:
            return np.ones(len(self.sizes), dtype=np.bool_)
        return self.sizes < self.config.limits[stage]

    def _stage_is_complete(self) -> bool:
        if self.config.advance == "episodes":
            return self._episodes >= self.config.episodes[self.stage]
        full = len(self._outcomes) == self.config.window
        return full and sum(self._outcomes) >= self.config.success_rate * self.config.window

    def _enter(self, stage: int) -> None:
        before = int(self.unlocked().sum())
        self.stage = stage
        self._episodes = 0
        self._outcomes.clear()
        self._skip_idle_stages(before)

    def _skip_idle_stages(self, before: int) -> None:
        """Pass over stages that unlock no more than the `before` structures of the last one, or come after all are."""
        while self.stage < self.last_stage and int(self.unlocked().sum()) in (before, len(self.sizes)):
            self.stage += 1
