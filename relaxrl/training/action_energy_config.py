"""The `action_energy` section of a run of cloning."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from relaxrl.config import configclass
from relaxrl.nn import ActionEnergyConfig, VerifierConfig
from relaxrl.training.progressive import RAMP

Negatives = Literal["swap", "layers", "noise", "scaled", "flipped", "previous"]


@configclass
class ActionEnergyTrainingConfig:
    """An energy over actions, trained beside the actor by contrast, and saved with the agent."""

    model: ActionEnergyConfig = field(default_factory=ActionEnergyConfig)
    """Sizes; `bounded: false` leaves the range of the energy open."""
    verifier: VerifierConfig = field(default_factory=VerifierConfig)
    """What the saved agent chooses from before each step; `enabled: true` saves it with the verifier switched on."""
    weight: float = 0.1
    """Of the contrastive loss in what trains the actor's trunk; 0 only reads the trunk. The energy itself is trained
    with weight 1."""
    freeze_actor: bool = False
    """Train the energy alone: the actor stays as `trainer.ckpt_file` gives it. So an agent that exists gets a verifier,
    whose steps are its own as long as it is switched off."""
    negatives: tuple[Negatives, ...] = ("swap", "layers", "noise")
    """Wrong actions. `swap`: those of other structures of the batch with as many atoms; `layers`: what the actor's head
    reads off after each layer but the last, the one of middle energy; `noise`: the right one with Gaussian noise;
    `scaled`: the right one times `scales`; `flipped`: times -1; `previous`: the step before, where there is one."""
    noise: tuple[float, ...] = (0.1, 0.3)
    """Standard deviations of the noise, one negative each."""
    noise_unit: Literal["action", "angstrom"] = "action"
    """Their unit: the root mean square component of each structure's right action, or Å, of which 0.3 is far more than
    the last steps of a relaxation are long."""
    scales: tuple[float, ...] = (0.3, 1.7)
    """Factors of the `scaled` negatives."""
    copies: int = 2
    """Displacements of each crystal in a batch, so that each structure has others to swap actions with. `batch_size` is
    a multiple of it."""
    swaps: int | None = 3
    """At most this many swapped actions per structure; null takes all of the batch that have as many atoms."""
    temperature: float = 0.3
    """Base temperature of the contrast; halved where energies differ by less than 0.1, doubled above 1."""
    alignment: float = 0.0
    """Weight of 1 - cos between the energy's downhill direction at a noisy action and the way to the right one."""
    rate: float = 0.1
    """Learning rate of the energy over the configured one."""
    progressive: bool = True
    """Whether rate and gradient limit follow the progressive schedule: a tenth of the rate and 0.3 up to `ramp`, rising
    to half of it and 0.5. Otherwise the full rate and `grad_clip`."""
    ramp: tuple[int, int] = RAMP
    """First and last update of the rise."""
    grad_clip: float = 0.3
    """Largest norm of the energy's gradient where the schedule is not progressive."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.negatives:
            raise ValueError("`negatives` must name at least one kind of wrong actions, such as [swap, layers, noise]")
        if len(set(self.negatives)) < len(self.negatives):
            raise ValueError(f"`negatives` must name each kind once, got {list(self.negatives)}")
        for name in ("noise", "scales"):
            values = getattr(self, name)
            if not values or not all(0 < value < float("inf") for value in values):
                raise ValueError(f"`{name}` must be positive numbers, got {list(values)}")
        if 1.0 in self.scales:
            raise ValueError("`scales` must not hold 1: that is the right action itself")
        if self.copies < 1:
            raise ValueError(f"`copies` must be at least 1, got {self.copies}")
        if self.swaps is not None and self.swaps < 1:
            raise ValueError(f"`swaps` must be at least 1, or null for all, got {self.swaps}")
        for name in ("temperature", "rate", "grad_clip"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}")
        for name in ("weight", "alignment"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}")
        if not 0 <= self.ramp[0] < self.ramp[1]:
            raise ValueError(f"`ramp` must be two updates, the earlier one first, got {list(self.ramp)}")
