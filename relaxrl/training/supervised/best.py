"""Which checkpoints to keep: those of the k smallest validation errors."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from relaxrl.typing import StateDict


@dataclass(frozen=True)
class Kept:
    """A kept checkpoint.

    Attributes:
        error: Its validation error.
        epoch: It was written after this epoch.
        slot: Number in its file's name.
    """

    error: float
    epoch: int
    slot: int


class BestCheckpoints:
    """The k smallest errors, in a heap whose root is the largest of them: the one to be replaced next.

    Args:
        k: How many are kept.

    Examples:
        >>> best = BestCheckpoints(2)
        >>> [best.offer(error, epoch) for epoch, error in enumerate([3.0, 1.0, 2.0, 5.0])]
        [0, 1, 0, None]
        >>> best.best
        Kept(error=1.0, epoch=1, slot=1)
    """

    def __init__(self, k: int) -> None:
        self.k = k
        self._heap: list[tuple[float, int, int]] = []  # (-error, -epoch, slot): of equal errors the newest goes first

    def offer(self, error: float, epoch: int) -> int | None:
        """The slot that this checkpoint is to be written to; None if it is not among the k best."""
        if len(self._heap) < self.k:
            slot = len(self._heap)
            heapq.heappush(self._heap, (-error, -epoch, slot))
            return slot
        if error >= -self._heap[0][0]:
            return None
        slot = self._heap[0][2]
        heapq.heapreplace(self._heap, (-error, -epoch, slot))
        return slot

    @property
    def kept(self) -> list[Kept]:
        """All that are kept, the best one first."""
        return sorted(
            (Kept(-error, -epoch, slot) for error, epoch, slot in self._heap), key=lambda kept: (kept.error, kept.epoch)
        )

    @property
    def best(self) -> Kept | None:
        """The one with the smallest error; None before the first epoch."""
        return self.kept[0] if self._heap else None

    def state_dict(self) -> StateDict:
        """The heap."""
        return {"heap": [list(entry) for entry in self._heap]}

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a state made by `state_dict`."""
        self._heap = [(error, epoch, slot) for error, epoch, slot in state["heap"]]
        heapq.heapify(self._heap)
