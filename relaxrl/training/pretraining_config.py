"""Everything that pretraining can be asked for."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any

from relaxrl.config import configclass, with_defaults
from relaxrl.nn import TrunkEnergyConfig
from relaxrl.structures import Kind, Parents
from relaxrl.training.supervised import TrainerConfig
from relaxrl.training.supervised.measures import check_targets

TARGETS = ("energy", "forces")
"""What the potential is trained on: eV per atom, and eV/Å."""

_TRAINER: dict[str, Any] = {
    "run_name": "pretrain",
    "save_dir": "runs/pretrain",
    "losses_weight": {"energy": 1.0, "forces": 1000.0},
    "seed": 0,
}


@configclass
class ValidationConfig:
    """On what the potential is judged."""

    structures: tuple[str, ...] | str | None = None
    """Files, folders or shipped sets, read and labelled like those for training; None splits off a part of those."""
    fraction: float = 0.1
    """Share of the parents to split off."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0 < self.fraction < 1:
            raise ValueError(f"`fraction` must be between 0 and 1, got {self.fraction}")


@configclass
class PretrainConfig:
    """A trunk trained as a potential, on energies per atom (eV) and force components (eV/Å)."""

    structures: tuple[str, ...] | str
    """Structures to learn from: files, folders, databases or shipped sets."""
    labels: str | None = None
    """Calculator that makes energies and forces, by name or import path; null takes those that the files store."""
    energy_key: str | None = None
    """What files call the energy, if not as ASE does; extxyz files may have `REF_energy`, for example."""
    forces_key: str | None = None
    """What files call the forces."""
    kind: Kind | None = None
    """What the structures are; `minimum` displaces them before they are labelled. null goes by the files."""
    rattle: tuple[float, float] = (0.01, 0.3)
    """Å; standard deviation of the displacement of minima that a calculator labels, drawn log-uniformly."""
    copies: int = 4
    """Displaced copies of each such minimum."""
    parents: Parents = "id"
    """What counts as one crystal, so that its variants are not split: each structure, each `file` (a trajectory), or
    each `formula`."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """On what it is judged."""
    model: TrunkEnergyConfig = field(default_factory=TrunkEnergyConfig)
    """Size; the trunk must be that of the actor that will go on from it."""
    batch_size: int = 8
    """Structures per update."""
    device: str = "cpu"
    """Where it is trained; `cuda` where there is one."""
    threads: int | None = None
    """CPU threads of torch; null leaves them as they are."""
    trainer: Annotated[TrainerConfig, with_defaults(**_TRAINER)] = field(
        default_factory=lambda: TrainerConfig(**_TRAINER)
    )
    """How; see `TrainerConfig`. Targets are `energy` and `forces`."""

    def __post_init__(self) -> None:
        """Check ranges."""
        low, high = self.rattle
        if not 0 < low <= high:
            raise ValueError(f"`rattle` must be two positive lengths in Å, the lower one first, got {self.rattle}")
        for name in ("copies", "batch_size", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}")
        check_targets(TARGETS, self.trainer.losses_weight, "trainer.losses_weight", all_of_them=True)
        check_targets(TARGETS, self.trainer.early_stoppings, "trainer.early_stoppings", all_of_them=False)
        if self.labels is None and self.kind == "minimum":
            raise ValueError(
                "`kind: minimum` needs `labels`, a calculator: displaced structures have other forces than the file's"
            )
        if self.labels is not None and (self.energy_key or self.forces_key):
            raise ValueError("`labels` makes energies and forces; leave out `energy_key` and `forces_key`")
