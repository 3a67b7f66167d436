"""Everything a run of cloning can be asked for."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, ClassVar, Literal

from relaxrl.config import configclass, with_defaults
from relaxrl.nn import ActorConfig, HessianActorConfig
from relaxrl.training.action_energy_config import ActionEnergyTrainingConfig
from relaxrl.training.gradient_config import GradientConfig


@configclass
class CloningConfig(GradientConfig):
    """A run of cloning."""

    targets: ClassVar[tuple[str, ...]] = ("displacement", "strain")

    method: Literal["cloning"] = "cloning"
    """Tells it apart from the other methods."""
    actor: Annotated[ActorConfig, with_defaults(kind="hessian")] = field(default_factory=HessianActorConfig)
    """The policy; `kind: hessian` (also if no kind is given) or `kind: direct`."""
    cell: float = 0.0
    """Share of the crystals that are strained as well as displaced, and whose cells move: those of them that are minima
    of their cells, too. 0 trains at fixed cells alone. Needs `actor.kind: hessian`."""
    strain: tuple[float, float] = (0.002, 0.06)
    """Lowest and highest standard deviation of each component of that strain, drawn log-uniformly per crystal."""
    strain_weight: float = 1.0
    """Weight of the relative error of the strain, beside that of the displacement, whose weight is 1."""
    frames: tuple[str, ...] | str | None = None
    """Files of recorded relaxations (`relaxrl.structures.frames`): a part of each batch has stored forces and stress,
    so that its calculator, which may be expensive, is never called. Only their first step is trained."""
    frame_share: float = 0.3
    """Share of each batch that frames make up, where there are any."""
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
        self._check_cells_and_frames()
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

    @property
    def recorded(self) -> int:
        """Frames in each batch."""
        return 0 if self.frames is None else max(1, round(self.frame_share * self.batch_size))

    def _check_cells_and_frames(self) -> None:
        if not 0 <= self.cell <= 1:
            raise ValueError(f"`cell` is a share, between 0 and 1, got {self.cell}")
        low, high = self.strain
        if not 0 < low <= high <= 0.2:
            raise ValueError(f"`strain` must be two positive numbers up to 0.2, the lower one first, got {self.strain}")
        if self.strain_weight < 0:
            raise ValueError(f"`strain_weight` must not be negative, got {self.strain_weight}")
        if self.cell and not isinstance(self.actor, HessianActorConfig):
            raise ValueError(
                f"`cell` is {self.cell}, but only `actor.kind: hessian` moves cells; got {self.actor.kind}"
            )
        if not 0 < self.frame_share < 1:
            raise ValueError(f"`frame_share` must be between 0 and 1, both excluded, got {self.frame_share}")
        if self.frames is not None and not self.frames:
            raise ValueError("`frames` must name at least one file, or be null")
        if self.recorded and self.recorded >= self.batch_size:
            raise ValueError(
                f"a `batch_size` of {self.batch_size} has no room for both frames and displaced crystals; raise it"
            )
        if self.action_energy is not None and (self.cell or self.frames):
            raise ValueError(
                "an `action_energy` is of displacements at fixed cells: it goes with neither `cell` nor `frames`"
            )
