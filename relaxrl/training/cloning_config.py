"""Everything a run of cloning can be asked for."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from relaxrl.config import configclass, with_defaults
from relaxrl.nn import ActorConfig, HessianActorConfig
from relaxrl.training.config import EvaluationConfig, RunConfig

_EVALUATION: dict[str, Any] = {"every": 24_000, "count": None}
_UPDATES = 4000


@configclass
class CloningConfig:
    """A run of cloning."""

    method: Literal["cloning"] = "cloning"
    """Tells it apart from reinforcement learning (`td3`)."""
    structures: tuple[str, ...] | str
    """Training crystals, relaxed: files, folders, or shipped sets such as `metals:train`."""
    kind: Literal["minimum"] | None = None
    """`minimum`: the crystals are relaxed, whatever their files say, and so are those of the development set. None goes
    by the files."""
    calculator: str = "emt"
    """Potential by name or import path, with arguments."""
    actor: Annotated[ActorConfig, with_defaults(kind="hessian")] = field(default_factory=HessianActorConfig)
    """The policy; `kind: hessian` (also if no kind is given) or `kind: direct`."""
    rattle: tuple[float, float] = (0.003, 0.3)
    """Å; lowest and highest standard deviation of the displacement from the minimum, drawn log-uniformly per crystal:
    the first step of a relaxation and the last one count the same."""
    batch_size: int = 24
    """Crystals per update."""
    unroll: int = 2
    """Steps of the actor per crystal and update. The second begins where the first has led: at mistakes."""
    unroll_from: float = 0.3
    """Share of the run after which more than one step is taken; before that they would lead nowhere."""
    learning_rate: float = 2e-3
    """Highest rate of Adam, reached after `warm_up` updates; falls along a cosine to a hundredth."""
    warm_up: int = 50
    """Updates over which the rate rises."""
    grad_clip: float = 5.0
    """Largest norm of the gradient; the logarithmic loss has steep walls."""
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
        for name in ("batch_size", "unroll", "warm_up"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "grad_clip", "fmax"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}")
        if not 0 <= self.unroll_from <= 1:
            raise ValueError(f"`unroll_from` must be between 0 and 1, got {self.unroll_from}")
        if self.actor.env_input_dim:
            raise ValueError(
                f"`actor.env_input_dim` must be 0, got {self.actor.env_input_dim}: cloning shows no features of an "
                "environment"
            )
        if self.run.updates is None:
            raise ValueError("`run.updates` must be given: the learning rate falls towards the last one")
