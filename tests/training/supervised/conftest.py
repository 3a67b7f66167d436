"""A problem of a few numbers that trains in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from relaxrl.training.supervised import Batches, SupervisedTrainer, TrainerConfig

Batch = tuple[Tensor, Tensor]


class Net(nn.Module):
    """Two layers, and dropout, so that torch's global generator takes part."""

    def __init__(self, hidden: int = 8, dropout: float = 0.2) -> None:
        super().__init__()
        self.trunk = nn.Linear(3, hidden)
        self.head = nn.Linear(hidden, 2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Two numbers per row."""
        y: Tensor = self.head(self.dropout(torch.tanh(self.trunk(x))))
        return y


def terms(model: nn.Module, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
    """The two columns are two targets."""
    x, y = batch
    predicted = model(x)
    return {"energy": (predicted[:, 0], y[:, 0]), "forces": (predicted[:, 1:], y[:, 1:])}


def collate(rows: list[Batch]) -> Batch:
    """Rows as a batch."""
    return torch.stack([x for x, _ in rows]), torch.stack([y for _, y in rows])


def samples(count: int, seed: int) -> list[Batch]:
    """Inputs and the values of two smooth functions."""
    x = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    y = torch.stack([torch.sin(x[:, 0]) + x[:, 1], 0.5 * x[:, 2] ** 2], dim=1)
    return list(zip(x, y, strict=True))


def network(**kwargs: Any) -> Net:
    """The same parameters each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return Net(**kwargs)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., SupervisedTrainer[Batch]]:
    """A trainer in `folder`, of any configuration; 10 + 7 samples in batches of 4: 3 steps per epoch, the last of 2."""

    def made(folder: str = "run", model: nn.Module | None = None, loss_terms: Any = terms, **config: Any):
        settings = {"save_dir": str(tmp_path / folder), "seed": 1, "max_epochs": 4, "warmup_epochs": 1} | config
        return SupervisedTrainer(
            TrainerConfig(**settings),
            network() if model is None else model,
            loss_terms,
            Batches(samples(10, 0), collate, 4),
            Batches(samples(7, 1), collate, 4),
        )

    return made
