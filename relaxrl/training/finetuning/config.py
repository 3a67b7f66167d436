"""Everything that fine-tuning and learning during a campaign can be asked for."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any

from relaxrl.config import configclass, with_defaults
from relaxrl.training.supervised import EarlyStoppingConfig, FitConfig

FEWEST = 6
"""Converged relaxations below which there is nothing to train on and to judge by."""

TRAINER: dict[str, Any] = {
    "run_name": "finetune",
    "optimizer": "Adam",
    "max_lr": 1e-3,
    "min_lr": 2e-5,
    "warmup_epochs": 1,
    "ema_decay": 0.99,
    "ema_warmup": True,
    "grad_clip": 5.0,
    "early_stoppings": {"displacement": {"patience": 30}},
}
"""What fine-tuning has for defaults in `trainer`."""

_TRAINER = TRAINER | {"early_stoppings": {"displacement": EarlyStoppingConfig(patience=30)}}


@configclass
class FinetuneConfig:
    """How an agent is adapted to a system and its calculator."""

    agent: str
    """Name or folder of the agent to begin with; one with a learned Hessian."""
    calculator: str
    """Name or import path, with arguments; `stored` for each structure's own."""
    relaxations: int = 30
    """Structures that are relaxed, at most; where the files hold fewer minima, each is displaced several times."""
    cell: bool = False
    """Whether cells relax, too."""
    fmax: float = 0.01
    """eV/Å, at which relaxations end."""
    steps: int = 500
    """Limit of each of them."""
    rattle: tuple[float, float] = (0.05, 0.2)
    """Å; minima are displaced by a standard deviation between these."""
    strain: float = 0.03
    """Standard deviation of each component of the strain of minima, where cells relax."""
    learn_every: int | None = 6
    """The agent learns a little after so many of these relaxations already, which makes those that follow shorter; null
    relaxes all with the agent as it is. The training begins with the agent as it was in any case."""
    updates: int = 1000
    """Of the parameters, at most."""
    batch_size: int = 16
    """Points of relaxations per update."""
    replay: str | None = None
    """File of frames from the agent's own training, so that it does not forget; None takes `replay.npz` in the agent's
    folder, where there is one."""
    replay_size: int = 8
    """Frames of replay per update."""
    secants: float = 0.5
    """Share of the points that are led to a later point of their relaxation in place of its end, by the difference of
    the forces; another one each time."""
    held_out: float = 0.2
    """Share of the relaxations that are not trained on; they say when to stop."""
    trainer: Annotated[FitConfig, with_defaults(**TRAINER)] = field(default_factory=lambda: FitConfig(**_TRAINER))
    """Optimizer, rates, average, early stopping. `max_epochs` follows from `updates`."""
    seed: int = 0
    """All randomness comes from it."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.relaxations < FEWEST:
            raise ValueError(f"`relaxations` must be at least {FEWEST}, a few dozen are usual, got {self.relaxations}")
        for name in ("updates", "batch_size", "replay_size", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        if self.learn_every is not None and self.learn_every < 2:
            raise ValueError(f"`learn_every` must be at least 2, or null, got {self.learn_every}")
        if not self.fmax > 0:
            raise ValueError(f"`fmax` must be positive, got {self.fmax}")
        low, high = self.rattle
        if not 0 < low <= high:
            raise ValueError(f"`rattle` must be two positive lengths in Å, the lower one first, got {self.rattle}")
        if not 0 <= self.strain <= 0.1:
            raise ValueError(f"`strain` must be between 0 and 0.1, got {self.strain}")
        if not 0 <= self.secants <= 1:
            raise ValueError(f"`secants` is a share, between 0 and 1, got {self.secants}")
        if not 0 < self.held_out < 1:
            raise ValueError(f"`held_out` is a share, between 0 and 1, got {self.held_out}")
        if self.seed < 0:
            raise ValueError(f"`seed` must not be negative, got {self.seed}")


@configclass
class OnlineConfig:
    """How a campaign improves its agent."""

    every: int = 10
    """Finished structures between two updates of the agent."""
    updates: int = 60
    """Updates of the parameters each time."""
    seconds: float = 60.0
    """Longest time of them; a run that reaches it is not repeated bit for bit."""
    memory: int = 200
    """Relaxations that are remembered, the newest ones."""
    batch_size: int = 16
    """Points of relaxations per update."""
    replay: str | None = None
    """As in fine-tuning."""
    replay_size: int = 8
    """Frames of replay per update."""
    learning_rate: float = 5e-4
    """Highest, reached after a tenth of the updates; it falls to zero along a cosine."""
    seed: int = 0
    """All randomness comes from it."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("updates", "batch_size", "replay_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        if self.every < 2:
            raise ValueError(f"`every` must be at least 2: one to learn from and one to judge by, got {self.every}")
        if self.memory < self.every:
            raise ValueError(f"`memory` must hold at least `every` = {self.every} relaxations, got {self.memory}")
        for name in ("seconds", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"`seed` must not be negative, got {self.seed}")
