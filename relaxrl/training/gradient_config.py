"""What every run by gradient descent on an explicit loss can be asked for."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from relaxrl.config import configclass, with_defaults
from relaxrl.training.config import EvaluationConfig, RunConfig

_EVALUATION: dict[str, Any] = {"every": 24_000, "count": None}
_UPDATES = 4000


@configclass
class GradientConfig:
    """Crystals displaced from their minima, a loss, and its minimisation; methods add what their loss needs."""

    structures: tuple[str, ...] | str
    """Training crystals, relaxed: files, folders, or shipped sets such as `metals:train`."""
    kind: Literal["minimum"] | None = None
    """`minimum`: the crystals are relaxed, whatever their files say, and so are those of the development set. None goes
    by the files."""
    calculator: str = "emt"
    """Potential by name or import path, with arguments."""
    rattle: tuple[float, float] = (0.003, 0.3)
    """Å; lowest and highest standard deviation of the displacement from the minimum, drawn log-uniformly per crystal:
    the first step of a relaxation and the last one count the same."""
    batch_size: int = 24
    """Crystals per update."""
    learning_rate: float = 2e-3
    """Highest rate of Adam, reached after `warm_up` updates; falls along a cosine to a hundredth."""
    warm_up: int = 50
    """Updates over which the rate rises."""
    grad_clip: float = 5.0
    """Largest norm of the gradient; logarithmic losses have steep walls."""
    ema_decay: float | None = 0.99
    """The agent that is judged and kept has the exponential moving average of the parameters, whose memory is
    1 / (1 - decay) updates, and shorter at first; null takes the parameters themselves."""
    fmax: float = 0.01
    """eV/Å, at which relaxations of the development set count as converged."""
    evaluation: Annotated[EvaluationConfig, with_defaults(**_EVALUATION)] = field(
        default_factory=lambda: EvaluationConfig(**_EVALUATION)
    )
    """Judging progress; `every` counts displaced crystals, `steps` bounds relaxations with the optimizer."""
    run: Annotated[RunConfig, with_defaults(updates=_UPDATES)] = field(
        default_factory=lambda: RunConfig(updates=_UPDATES)
    )
    """Folder, seed, length. `updates` also decides how the rate falls; `steps` and `log_every` count displaced
    crystals; `n_envs` and `updates_per_step` mean nothing here."""

    def __post_init__(self) -> None:
        """Check ranges."""
        low, high = self.rattle
        if not 0 < low <= high:
            raise ValueError(f"`rattle` must be two positive lengths in Å, the lower one first, got {self.rattle}")
        for name in ("batch_size", "warm_up"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "grad_clip", "fmax"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"`ema_decay` must be null, or at least 0 and below 1, got {self.ema_decay}")
        if self.run.updates is None:
            raise ValueError("`run.updates` must be given: the learning rate falls towards the last one")
