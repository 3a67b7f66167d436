"""Sizes of the energy model, and how a policy plans with it."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from relaxrl.config import configclass, with_defaults
from relaxrl.nn.trunk_energy import TrunkEnergyConfig


@configclass
class EnergyModelConfig:
    """The energy model of atoms in densities.

    Attributes:
        kind: Tells energy models apart in files.
        cutoff: Å; first to third shell of most metals. The energy and its first two derivatives vanish there.
        densities: Densities that each atom feels, each with strengths and rates of its own for every pair of elements.
        pairs: Exponentials in the pair energy.
        element_channels: Features per element, made from tabulated properties.
        hidden: Width of the networks.
    """

    kind: Literal["densities"] = "densities"
    cutoff: float = 5.5
    densities: int = 4
    pairs: int = 3
    element_channels: int = 32
    hidden: int = 48

    def __post_init__(self) -> None:
        if not self.cutoff > 0:
            raise ValueError(f"`cutoff` must be positive (Å), got {self.cutoff}")
        for name in ("densities", "pairs", "element_channels", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")


AnyEnergyConfig = Annotated[EnergyModelConfig | TrunkEnergyConfig, Field(discriminator="kind")]
"""Either energy model; a configuration file tells them apart by `kind`."""


@configclass
class PlanningConfig:
    """The policy that relaxes in an energy model.

    Attributes:
        kind: Tells it apart from other policies in files.
        energy: The energy model; `kind: densities` (also if no kind is given), or `kind: trunk`, which is far slower.
        max_step: Å, how far an atom may be sent in one step of the policy. Farther than where a Hessian is good, since
            the model knows what comes after: 3 Å instead of 0.5.
        inner_step: Å, how far an atom moves in one step within the model.
        inner_evaluations: Of the model, at most, per step of the policy.
        tolerance: Forces in the model are relaxed to this part of the true ones. The model is less exact than that.
        floor: eV/Å²; softer modes of the model's Hessian, and those of negative curvature, are taken to be this stiff.
        secant: Where the last step left more than this part of the largest force, the force difference that it has
            measured corrects the model's curvature. After better steps the correction does harm.
    """

    kind: Literal["planning"] = "planning"
    energy: Annotated[AnyEnergyConfig, with_defaults(kind="densities")] = field(default_factory=EnergyModelConfig)
    max_step: float = 3.0
    inner_step: float = 0.3
    inner_evaluations: int = 40
    tolerance: float = 1e-3
    floor: float = 0.05
    secant: float = 0.3

    def __post_init__(self) -> None:
        for name in ("max_step", "inner_step", "tolerance", "floor", "secant"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}")
        if self.inner_evaluations < 1:
            raise ValueError(f"`inner_evaluations` must be at least 1, got {self.inner_evaluations}")
