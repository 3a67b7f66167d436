"""Everything a run that trains a surrogate can be asked for."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal

from relaxrl.config import configclass, with_defaults
from relaxrl.nn import PlanningConfig
from relaxrl.training.gradient_config import TRAINER, GradientConfig
from relaxrl.training.supervised import FitConfig

_TRAINER: dict[str, Any] = TRAINER | {"max_lr": 6e-3, "min_lr": 6e-5}


@configclass
class SurrogateConfig(GradientConfig):
    """A run that trains an energy model for planning in it."""

    targets: ClassVar[tuple[str, ...]] = ("displacement", "forces")

    method: Literal["surrogate"] = "surrogate"
    """Tells it apart from the other methods."""
    planning: PlanningConfig = field(default_factory=PlanningConfig)
    """The energy model (`planning.energy`), and how the policy relaxes in it."""
    trainer: Annotated[FitConfig, with_defaults(**_TRAINER)] = field(default_factory=lambda: FitConfig(**_TRAINER))
    """As in other methods; a third of this rate is slower, twice as much no better. `ckpt_file` names a planning agent,
    or a potential made by `relaxrl pretrain`, to go on from; `planning.energy` must be its `model` section."""
    force_weight: float = 0.3
    """Weight of the relative error of the forces at the minimum; the rest, up to 1, goes to the relative error of the
    minimum itself."""
    accuracy: float = 0.01
    """Relative error, of both, below which little more is gained. A policy that is wrong by this much in each step
    converges in three evaluations."""
    unroll: int = 2
    """Steps of the policy per crystal and update. Each but the first begins where the one before leads: at
    mistakes."""
    unroll_from: float = 0.2
    """Share of the run after which more than one step is taken; before that they would lead nowhere."""

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if not 0 <= self.force_weight <= 1:
            raise ValueError(f"`force_weight` must be between 0 and 1, got {self.force_weight}")
        if not self.accuracy > 0:
            raise ValueError(f"`accuracy` must be positive, got {self.accuracy}")
        if self.unroll < 1:
            raise ValueError(f"`unroll` must be at least 1, got {self.unroll}")
        if not 0 <= self.unroll_from <= 1:
            raise ValueError(f"`unroll_from` must be between 0 and 1, got {self.unroll_from}")
