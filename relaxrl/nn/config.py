"""Sizes of the networks."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field

from relaxrl.config import configclass, with_defaults


@configclass
class TrunkConfig:
    """Size of the geometric trunk.

    Attributes:
        layers: Message-passing layers, 2 to 6. 3 layers of 5 Å see 15 Å, more than the cells of most training sets.
        cutoff: Å, how far an atom sees in one layer. 5 to 7 is usual; the cost grows with the third power.
        max_neighbors: Keep only this many nearest neighbours; None keeps all, which alone is smooth when atoms move.
        channels: Copies of each irrep with l >= 1; there are twice as many scalars.
        message_channels: Copies of each irrep that travel along edges. Fewer than `channels`, as edges are many.
        lmax: Highest l of features and spherical harmonics. 1 suffices for a vector per atom; 2 costs thrice as much.
        radial_functions: Learned radial functions per edge, shared by all layers.
        radial_basis: Fixed radial functions that the learned ones are made of.
        forces: Whether the forces are an input. Curvature needs none.
        history: Whether the last displacement and the last change of the forces are inputs. A direct policy gains a
            factor of 2-3 from them in published ablations.
        learned_elements: Free parameters per element beside the tabulated properties. Off, so that nothing depends on
            elements having been trained on.
        layer_norm: LayerNorm on the invariant channels. Keeps targets that grow from blowing up the critic.
    """

    layers: int = 3
    cutoff: float = 5.0
    max_neighbors: int | None = None
    channels: int = 32
    message_channels: int = 16
    lmax: int = 1
    radial_functions: int = 8
    radial_basis: int = 8
    forces: bool = True
    history: bool = True
    learned_elements: bool = False
    layer_norm: bool = True

    def __post_init__(self) -> None:
        if not 2 <= self.layers <= 6:
            raise ValueError(f"`layers` must be 2 to 6, got {self.layers}")
        if not self.cutoff > 0:
            raise ValueError(f"`cutoff` must be positive (Å; usually 5 to 7), got {self.cutoff}")
        if not 1 <= self.lmax <= 3:
            raise ValueError(f"`lmax` must be 1 to 3, got {self.lmax}")
        if self.max_neighbors is not None and self.max_neighbors < 1:
            raise ValueError(f"`max_neighbors` must be at least 1, or null for all, got {self.max_neighbors}")
        for name in ("channels", "message_channels", "radial_functions", "radial_basis"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")


@configclass
class PolicyHeadsConfig:
    """The heads that decide about a whole step: gate and trust radius.

    Attributes:
        channels: Width of their hidden layer.
        detach: Whether trunk and proposed step are only read: training the heads then leaves the step's direction to
            the losses on the step itself.
    """

    channels: int = 32
    detach: bool = True

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise ValueError(f"`channels` must be at least 1, got {self.channels}")


@configclass
class DirectActorConfig:
    """The actor that emits one vector per atom.

    Attributes:
        kind: Tells the two actors apart in a configuration file.
        trunk: The geometric trunk.
        env_input_dim: Number of environment features that the gate (or the policy heads) sees; 0 means no gate at all.
        policy_heads: Gate and trust radius from the trunk's invariants and the environment features; None has no trust
            radius, and a gate only if there are environment features.
        max_step: Å, limit of one atom's displacement in one step, approached smoothly.
        stiffness: eV/Å², what the force is divided by before any training. At 20 the untrained actor is a steepest
            descent that converges on rattled EMT alloys (11-14 evaluations to 0.05 eV/Å; at 10 half never arrive).
        head_channels: Width of the head's invariant network.
    """

    kind: Literal["direct"] = "direct"
    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    env_input_dim: int = 0
    policy_heads: PolicyHeadsConfig | None = None
    max_step: float = 0.5
    stiffness: float = 20.0
    head_channels: int = 32

    def __post_init__(self) -> None:
        if self.env_input_dim < 0:
            raise ValueError(f"`env_input_dim` must not be negative, got {self.env_input_dim}")
        for name in ("max_step", "stiffness"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}")
        if self.head_channels < 1:
            raise ValueError(f"`head_channels` must be at least 1, got {self.head_channels}")


_CURVATURE_TRUNK: dict[str, Any] = {"layers": 2, "forces": False, "history": False}


@configclass
class HessianActorConfig:
    """The actor that emits a Hessian and solves for the displacements.

    Attributes:
        kind: Tells the two actors apart in a configuration file.
        trunk: The geometric trunk; it sees where atoms stand, neither forces nor history. Two layers suffice, as the
            solve carries what happens to far atoms.
        env_input_dim: Number of environment features that the gate (or the policy heads) sees; 0 means no gate at all.
        policy_heads: Gate and trust radius from the trunk's invariants and the environment features; None has no trust
            radius, and a gate only if there are environment features.
        max_step: Å, limit of one atom's displacement in one step, approached smoothly.
        stiffness: eV/Å², of a bond before any training, at short distance. 6 makes the untrained actor about right for
            metals.
        floor: eV/Å²; softer modes, and those of negative curvature, are taken to be this stiff.
        head_channels: Width of the head's invariant network.
        vector_channels: Vectors (and tensors, with lmax >= 2) per atom that bend the blocks of its bonds.
        site_channels: Many-body terms per atom that are scalars: squares of sums over neighbours.
        site_vectors: Many-body terms per atom that are vectors, each with three rows in the solve. They and the next
            say what angles between bonds cost, which matters to covalent crystals.
        site_tensors: Those that are l = 2 tensors, with five rows each. With two of either a step takes 1.2 times as
            long for 8 atoms, 1.5 times for 108.
        learned_strain: Whether strain has weights of its own in bonds and sites: what atoms within a cell do not say of
            elastic constants and internal strain. Without it strain follows from the displacements' part.
    """

    kind: Literal["hessian"] = "hessian"
    trunk: Annotated[TrunkConfig, with_defaults(**_CURVATURE_TRUNK)] = field(
        default_factory=lambda: TrunkConfig(**_CURVATURE_TRUNK)
    )
    env_input_dim: int = 0
    policy_heads: PolicyHeadsConfig | None = None
    max_step: float = 0.5
    stiffness: float = 6.0
    floor: float = 0.05
    head_channels: int = 64
    vector_channels: int = 16
    site_channels: int = 8
    site_vectors: int = 0
    site_tensors: int = 0
    learned_strain: bool = False

    def __post_init__(self) -> None:
        if self.trunk.forces or self.trunk.history:
            raise ValueError("`trunk.forces` and `trunk.history` must be false: curvature depends on positions alone")
        if self.env_input_dim < 0:
            raise ValueError(f"`env_input_dim` must not be negative, got {self.env_input_dim}")
        for name in ("max_step", "stiffness", "floor"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}")
        for name in ("head_channels", "vector_channels", "site_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        for name in ("site_vectors", "site_tensors"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}")


ActorConfig = Annotated[DirectActorConfig | HessianActorConfig, Field(discriminator="kind")]
"""Either actor; a configuration file tells them apart by `kind`, which it must give."""


@configclass
class CriticConfig:
    """The critic.

    Attributes:
        trunk: The geometric trunk, which sees the action as one more vector per atom.
        env_input_dim: Number of environment features that enter after pooling; 0 means no tail network at all.
        head_channels: Width of the head's invariant network, and of the tail.
    """

    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    env_input_dim: int = 0
    head_channels: int = 32

    def __post_init__(self) -> None:
        if self.env_input_dim < 0:
            raise ValueError(f"`env_input_dim` must not be negative, got {self.env_input_dim}")
        if self.head_channels < 1:
            raise ValueError(f"`head_channels` must be at least 1, got {self.head_channels}")


@configclass
class CandidatesConfig:
    """Variations of an actor's step that a critic may choose instead.

    Attributes:
        gates: Factors on the proposed step; that of the actor itself is always there.
        secant: The quasi-Newton step, where the actor emits a Hessian: that Hessian corrected by the last step.
        margin: How much more than the actor's own step another one must be worth, in units of the reward.
    """

    gates: tuple[float, ...] = (0.7, 1.3)
    secant: bool = True
    margin: float = 0.0

    def __post_init__(self) -> None:
        if not all(gate > 0 for gate in self.gates):
            raise ValueError(f"`gates` must be positive factors, got {self.gates}")
        if not self.gates and not self.secant:
            raise ValueError("there is nothing to choose from; give `gates`, or `secant: true`")
        if self.margin < 0:
            raise ValueError(f"`margin` must not be negative, got {self.margin}")


@configclass
class RankedActorConfig:
    """An actor whose step a critic may vary.

    Attributes:
        kind: Tells it apart from the actors themselves in a saved agent.
        actor: Proposes.
        critic: Chooses.
        candidates: What there is to choose from.
    """

    kind: Literal["ranked"] = "ranked"
    actor: ActorConfig
    critic: CriticConfig
    candidates: CandidatesConfig = field(default_factory=CandidatesConfig)
