"""Everything a run of training by constraints can be asked for."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, ClassVar, Literal

from relaxrl.config import configclass, with_defaults
from relaxrl.losses import ConstraintLossConfig
from relaxrl.nn import ActorConfig, HessianActorConfig
from relaxrl.training.gradient_config import GradientConfig


@configclass
class ConstraintsConfig(GradientConfig):
    """A run of training by constraints: energy above the minimum and residual forces after the actor's step."""

    targets: ClassVar[tuple[str, ...]] = ("displacement", "energy", "forces")

    method: Literal["constraints"] = "constraints"
    """Tells it apart from the other methods."""
    actor: Annotated[ActorConfig, with_defaults(kind="hessian")] = field(default_factory=HessianActorConfig)
    """The policy; `kind: hessian` (also if no kind is given) or `kind: direct`."""
    loss: ConstraintLossConfig = field(default_factory=ConstraintLossConfig)
    """Weights of the terms, aims, and the curriculum."""
    data: Literal["mse", "relative"] = "mse"
    """Data term: `mse`: mean over atoms of the squared distance to the expert's displacement; `relative`: the logarithm
    of that over the displacement's own square, so that small displacements count as much as large ones."""
    expert: Literal["bfgs", "teleport"] = "bfgs"
    """Whose displacement is the target: `lookahead` iterations of BFGS, or the jump to the minimum."""
    yardstick: Literal["bfgs", "expert"] = "bfgs"
    """What the actor's step is measured against (*true*): what `lookahead` iterations of BFGS leave, or what the expert
    leaves. The two are the same with `expert: bfgs`. A jump to the minimum leaves nothing, so that with `expert` the
    ratio to it means something only if `loss.eps` is as large as what counts as solved."""
    lookahead: int = 1
    """Iterations of BFGS, each a force evaluation; the actor has one. More ask for more."""
    alpha: float = 70.0
    """eV/Å²; initial curvature of BFGS, ASE's default."""
    max_step: float = 0.2
    """Å; longest move of an atom in an iteration of BFGS, ASE's default."""
    scale: Literal["none", "start"] = "none"
    """Units of displacements, energies and forces in the loss: `none`: Å, eV and eV/Å; `start`: each structure's own
    before the step (expert's displacement, energy above the minimum, force; root mean squares over atoms), so that
    starts near to the minimum count as much as far ones. `loss.eps` is in these units."""
    unroll: int = 1
    """Steps of the actor per crystal and update. Each but the first begins where the one before has led."""
    unroll_from: float = 0.3
    """Share of the run after which more than one step is taken; before that they would lead nowhere."""

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        for name in ("lookahead", "unroll"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        for name in ("alpha", "max_step"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}")
        if not 0 <= self.unroll_from <= 1:
            raise ValueError(f"`unroll_from` must be between 0 and 1, got {self.unroll_from}")
        if self.actor.env_input_dim:
            raise ValueError(
                f"`actor.env_input_dim` must be 0, got {self.actor.env_input_dim}: training by constraints shows no "
                "features of an environment"
            )
