"""Batches of a few relaxations and of what was learned before, each relaxation counting the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from relaxrl.structures.frames import Frame
from relaxrl.training.finetuning.examples import Example, example

PER_RELAXATION = 8
"""Points of a relaxation per epoch: that of a poor agent has dozens, of which neighbours say the same."""


class MixedBatch(NamedTuple):
    """Examples of one update.

    Attributes:
        new: Of the relaxations.
        replay: Of what the agent was trained on before; empty where there is none.
    """

    new: list[Example]
    replay: list[Example]


class RelaxationBatches:
    """Points of relaxations, and beside them replay; a `BatchSource`.

    Args:
        relaxations: Frames of each; at least one, none of them empty.
        replay: Frames of earlier training.
        batch_size: Points of relaxations per batch.
        replay_size: Frames of replay per batch.
    """

    def __init__(
        self,
        relaxations: Sequence[Sequence[Frame]],
        replay: Sequence[Frame] = (),
        batch_size: int = 16,
        replay_size: int = 8,
    ) -> None:
        self.relaxations = [[example(frame) for frame in frames] for frames in relaxations]
        self.replay = [example(frame) for frame in replay]
        self.batch_size, self.replay_size = batch_size, replay_size
        self._per_epoch = sum(min(len(frames), PER_RELAXATION) for frames in self.relaxations)

    def __len__(self) -> int:
        """Batches per epoch."""
        return -(-self._per_epoch // self.batch_size)

    def epoch(self, generator: torch.Generator | None, num_workers: int = 0) -> Iterator[MixedBatch]:
        """Some points of each relaxation, shuffled; without a generator always the same ones, and all of the replay."""
        del num_workers  # nothing is loaded
        chosen = [one for frames in self.relaxations for one in _some(frames, PER_RELAXATION, generator)]
        if generator is None:
            beside = self.replay
            share = -(-len(beside) // len(self))
        else:
            chosen = [chosen[k] for k in torch.randperm(len(chosen), generator=generator).tolist()]
            share = self.replay_size if self.replay else 0
            places = torch.randint(max(len(self.replay), 1), (share * len(self),), generator=generator).tolist()
            beside = [self.replay[k] for k in places] if share else []
        for number in range(len(self)):
            first = number * self.batch_size
            yield MixedBatch(chosen[first : first + self.batch_size], beside[number * share : (number + 1) * share])


def _some(frames: Sequence[Example], n: int, generator: torch.Generator | None) -> list[Example]:
    """At most n of them, at random, or evenly spread without a generator."""
    if len(frames) <= n:
        return list(frames)
    if generator is None:
        places = torch.linspace(0, len(frames) - 1, n).round().long().tolist()
    else:
        places = torch.randperm(len(frames), generator=generator)[:n].tolist()
    return [frames[k] for k in places]
