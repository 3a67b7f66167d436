"""Batches of a few relaxations and of what was learned before, each relaxation counting the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from relaxrl.structures.frames import Frame
from relaxrl.training.finetuning.examples import Example, example, secant

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
        secants: Share of the points that are led to a later point of their relaxation, at random, in place of its end;
            never without a generator. Where the two teach nothing together it is the end after all.
        fmax: eV/Å, at which the relaxations ended.
    """

    def __init__(
        self,
        relaxations: Sequence[Sequence[Frame]],
        replay: Sequence[Frame] = (),
        batch_size: int = 16,
        replay_size: int = 8,
        secants: float = 0.0,
        fmax: float = 0.01,
    ) -> None:
        self._frames = [list(frames) for frames in relaxations]
        self.relaxations = [[example(frame) for frame in frames] for frames in relaxations]
        self.replay = [example(frame) for frame in replay]
        self.batch_size, self.replay_size = batch_size, replay_size
        self.secants, self.fmax = secants, fmax
        self._per_epoch = sum(min(len(frames), PER_RELAXATION) for frames in self.relaxations)

    def __len__(self) -> int:
        """Batches per epoch."""
        return -(-self._per_epoch // self.batch_size)

    def epoch(self, generator: torch.Generator | None, num_workers: int = 0) -> Iterator[MixedBatch]:
        """Some points of each relaxation, shuffled; without a generator always the same ones, and all of the replay."""
        del num_workers  # nothing is loaded
        chosen = [
            self._lesson(number, place, generator)
            for number, frames in enumerate(self.relaxations)
            for place in _some(len(frames), PER_RELAXATION, generator)
        ]
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

    def _lesson(self, number: int, place: int, generator: torch.Generator | None) -> Example:
        """A point of a relaxation, and where it is led to."""
        later = self._frames[number][place + 1 :]
        if later and generator is not None and self.secants and torch.rand((), generator=generator) < self.secants:
            there = later[int(torch.randint(len(later), (), generator=generator))]
            if (frame := secant(self._frames[number][place], there, self.fmax)) is not None:
                return example(frame)
        return self.relaxations[number][place]


def _some(n_all: int, n: int, generator: torch.Generator | None) -> list[int]:
    """At most n places of all, at random, or evenly spread without a generator."""
    if n_all <= n:
        return list(range(n_all))
    places = torch.linspace(0, n_all - 1, n).round().long()
    if generator is not None:
        places = torch.randperm(n_all, generator=generator)[:n]
    return [int(place) for place in places]
