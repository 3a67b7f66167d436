"""Where batches come from: the same ones in the same order for the same generator, whoever loads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar, cast

import torch
from torch.utils.data import DataLoader, Dataset

S = TypeVar("S")
B = TypeVar("B")
B_co = TypeVar("B_co", covariant=True)


class BatchSource(Protocol[B_co]):
    """What the trainer asks of its data."""

    def __len__(self) -> int:
        """Batches per epoch."""
        ...

    def epoch(self, generator: torch.Generator | None, num_workers: int) -> Iterator[B_co]:
        """The batches of one epoch.

        Args:
            generator: All randomness comes from it; None for a fixed order (validation).
            num_workers: Processes that may load batches.
        """
        ...


class Batches(Generic[S, B]):
    """Samples, shuffled and cut into batches.

    Args:
        samples: At least one. With `num_workers` they must pickle, and so must `collate`.
        collate: Makes a batch of some samples.
        batch_size: Samples per batch; the last one of an epoch may be smaller.
    """

    def __init__(self, samples: Sequence[S], collate: Callable[[list[S]], B], batch_size: int) -> None:
        if not samples:
            raise ValueError("expected at least one sample, got none")
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}")
        self.samples = samples
        self.collate = collate
        self.batch_size = batch_size

    def __len__(self) -> int:
        """Batches per epoch."""
        return -(-len(self.samples) // self.batch_size)

    def epoch(self, generator: torch.Generator | None, num_workers: int = 0) -> Iterator[B]:
        """The batches of one epoch; see `BatchSource`."""
        count = len(self.samples)
        order = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
        # Made beforehand: a sampler inside the loader would draw differently with and without workers. The loader
        # draws a seed for its workers in any case, and not from anyone else's generator.
        own = torch.Generator().manual_seed(int(order[0]))
        cuts = range(0, count, self.batch_size)
        loader: DataLoader[Any] = DataLoader(
            cast("Dataset[S]", self.samples),
            batch_sampler=[order[cut : cut + self.batch_size].tolist() for cut in cuts],
            collate_fn=self.collate,
            num_workers=num_workers,
            generator=own,
        )
        yield from loader
