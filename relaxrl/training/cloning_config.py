"""Everything a run of cloning can be asked for."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from relaxrl.config import configclass, with_defaults
from relaxrl.nn import ActorConfig, HessianActorConfig
from relaxrl.training.action_energy_config import ActionEnergyTrainingConfig
from relaxrl.training.gradient_config import GradientConfig


@configclass
class CloningConfig(GradientConfig):
    """A run of cloning."""

    method: Literal["cloning"] = "cloning"
    """Tells it apart from the other methods."""
    actor: Annotated[ActorConfig, with_defaults(kind="hessian")] = field(default_factory=HessianActorConfig)
    """The policy; `kind: hessian` (also if no kind is given) or `kind: direct`."""
    unroll: int = 2
    """Steps of the actor per crystal and update. Each but the first begins where the one before has led: at
    mistakes."""
    unroll_from: float = 0.3
    """Share of the run after which more than one step is taken; before that they would lead nowhere."""
    energy_weight: float = 0.0
    """Weight of the energy above the minimum that the actor's own steps leave (on-policy), beside the displacement to
    the minimum, whose weight is 1."""
    energy_from: float = 0.3
    """Share of the run after which that weight counts."""
    action_energy: ActionEnergyTrainingConfig | None = None
    """An energy over actions, trained beside the actor and saved with the agent, whose steps it can verify; null for
    none."""

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if self.unroll < 1:
            raise ValueError(f"`unroll` must be at least 1, got {self.unroll}")
        for name in ("unroll_from", "energy_from"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be between 0 and 1, got {getattr(self, name)}")
        if self.energy_weight < 0:
            raise ValueError(f"`energy_weight` must not be negative, got {self.energy_weight}")
        energy = self.action_energy
        if energy is not None and self.batch_size % energy.copies:
            raise ValueError(
                f"`batch_size` must be a multiple of `action_energy.copies` = {energy.copies}, got {self.batch_size}"
            )
        if energy is not None and energy.freeze_actor and self.trainer.ckpt_file is None:
            raise ValueError(
                "`action_energy.freeze_actor` needs an actor that was trained before: give `trainer.ckpt_file`"
            )
        if self.actor.env_input_dim:
            raise ValueError(
                f"`actor.env_input_dim` must be 0, got {self.actor.env_input_dim}: cloning shows no features of an "
                "environment"
            )
