"""Sizes of the energy model over actions, and what the verifier made of it may choose from."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from relaxrl.config import configclass
from relaxrl.nn.config import ActorConfig


@configclass
class ActionEnergyConfig:
    """The energy of an action in the context of an actor's trunk.

    Attributes:
        bounded: Whether E = sigmoid(raw / 2) * `energy_scale` + `energy_offset`; false takes `raw` itself, whose
            gradient never vanishes.
        energy_scale: Width of the range of the bounded energy.
        energy_offset: Its lower end.
        channels: Copies of each irrep with l >= 1; there are twice as many scalars.
        layers: Rounds of messages about the actions of the neighbours: whether a step is right depends on theirs. 0
            judges each atom by itself.
        head_channels: Width of the read-out.
        stiffness: eV/Å²; an action of |F| / `stiffness` counts as of ordinary length.
    """

    bounded: bool = True
    energy_scale: float = 2.0
    energy_offset: float = 0.1
    channels: int = 16
    layers: int = 1
    head_channels: int = 32
    stiffness: float = 5.0

    def __post_init__(self) -> None:
        for name in ("energy_scale", "stiffness"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}")
        for name in ("channels", "head_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.layers <= 6:
            raise ValueError(f"`layers` must be 0 to 6, got {self.layers}")


@configclass
class VerifierConfig:
    """What an energy over actions chooses from before each step.

    Attributes:
        enabled: Whether it chooses at all; false makes the actor's own step, as if there were no verifier. Off, as its
            choices cost more force evaluations than they save (docs/action-energy.md); `,verifier=on` after an agent's
            name switches it on.
        gates: Factors on the proposed step; that of the actor itself is always there.
        perturbed: How many randomly perturbed steps.
        perturbation: Their size in units of the root mean square component of the proposed step.
        secant: The quasi-Newton step: the predicted Hessian corrected by the last step. None takes it where the actor
            emits a Hessian.
        margin: How much lower than that of the actor's own step the energy of another one must be.
        seed: Of the perturbations, which are the same at each step.
    """

    enabled: bool = False
    gates: tuple[float, ...] = (0.7, 1.3)
    perturbed: int = 2
    perturbation: float = 0.1
    secant: bool | None = None
    margin: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not all(gate > 0 for gate in self.gates):
            raise ValueError(f"`gates` must be positive factors, got {self.gates}")
        for name in ("perturbed", "margin", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}")
        if not self.perturbation > 0:
            raise ValueError(f"`perturbation` must be positive, got {self.perturbation}")


@configclass
class VerifiedActorConfig:
    """An actor whose step a learned energy over actions verifies.

    Attributes:
        kind: Tells it apart from the actors themselves in a saved agent.
        actor: Proposes.
        energy: Judges.
        verifier: What there is to choose from.
    """

    kind: Literal["verified"] = "verified"
    actor: ActorConfig
    energy: ActionEnergyConfig = field(default_factory=ActionEnergyConfig)
    verifier: VerifierConfig = field(default_factory=VerifierConfig)
