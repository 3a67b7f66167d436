"""What an environment can be asked for."""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from relaxrl.config import configclass
from relaxrl.envs.cell_config import CellConfig
from relaxrl.envs.reward import RewardConfig


def _on_or_off(value: Any) -> Any:
    """`cell: true` is all defaults, `cell: false` none."""
    return ({} if value else None) if isinstance(value, bool) else value


@configclass
class EnvConfig:
    """Options of `RelaxationEnv`."""

    fmax: float = 0.05
    """Convergence: F_max <= fmax, eV/Å. ASE's own default."""

    max_steps: int = 200
    """Steps after which an episode is truncated. BFGS needs 20 to 60 from the shipped starts."""

    rattle: float | tuple[float, float] = (0.05, 0.3)
    """Standard deviation of the random displacement of a minimum, Å per Cartesian component; a pair is a range from
    which each episode draws its own, so that difficulty varies. The default spans thermal motion to near melting."""

    r_min: float = 0.6
    """No two atoms may come closer than this; a number of Å, or a fraction, see `r_min_unit`."""

    r_min_unit: Literal["covalent", "angstrom"] = "covalent"
    """Whether `r_min` is a fraction of the sum of both covalent radii or a distance in Å. A fraction fits all elements
    at once; the shortest bonds known are at 0.75, random displacements of `relaxrl.structures` keep to 0.7, and at 0.6
    atoms are deep inside the repulsive wall, where no sensible step leads."""

    neighbor_cutoff: float = 5.0
    """No atom may lose all of its neighbours within this distance, Å. Beyond the nearest neighbours of all metals but
    the heavy alkali ones; atoms that have no neighbour to begin with are free."""

    max_step: float = 0.5
    """Largest displacement of an atom in one step, Å; longer ones are shortened along their direction, because a
    limit per component would not be equivariant. A feasibility study lost 5 % with 0.3 and gained nothing with 1.0."""

    bond_stretch: float = 1.5
    """A structure has come apart, and its episode is over, where what holds a piece of it is stretched beyond this
    times its length at the start, or times the sum of covalent radii if that is longer; see `relaxrl.envs.cohesion`.
    Relaxations of the shipped sets stretch no such bond beyond 1.2, and metals are still felt at 1.5."""

    stuck_limit: int = 5
    """More steps than this in a row that are wholly taken back end the episode."""

    explosion_fmax: float = 1000.0
    """F_max above which a structure counts as exploded, eV/Å; ten times what two overlapping atoms feel."""

    explosion_energy: float = 10.0
    """Rise of the energy above the episode's start that counts as exploded, eV per atom; beyond any cohesive energy."""

    explosion_displacement: float = 10.0
    """Distance of an atom from where it began that counts as exploded, Å; a relaxation moves atoms by less than a bond
    length, whole structures that drift are caught by it too."""

    energy_tolerance: float = 1e-5
    """How far above the start the energy of a success may lie, eV per atom: noise of single-precision potentials."""

    reset_attempts: int = 10
    """Tries to draw a start without overlap, with a working calculator and not yet converged."""

    cell: Annotated[CellConfig | None, BeforeValidator(_on_or_off)] = None
    """Cells that relax, too, see `CellConfig`; true for its defaults. None keeps them as they are."""

    reward: RewardConfig = field(default_factory=RewardConfig)
    """Reward; see `RewardConfig`."""

    device: str | None = None
    """Where structures live and torch potentials are evaluated, `cuda` where there is one. None: where the networks of
    a training are, see `run.device`, otherwise the CPU. Calculators of ASE work on the CPU in any case."""

    features: tuple[str, ...] = ()
    """Names of the environment features that observations carry; see `relaxrl.envs.features.FEATURES`. None by
    default: the plain network needs none."""

    def on(self, device: str) -> EnvConfig:
        """A copy for this device, unless another one was asked for."""
        return dataclasses.replace(self, device=self.device or device)

    def __post_init__(self) -> None:
        from relaxrl.envs.features import check_names

        for name in ("fmax", "r_min", "neighbor_cutoff", "max_step", "explosion_fmax", "explosion_energy"):
            _positive(name, getattr(self, name))
        _positive("explosion_displacement", self.explosion_displacement)
        for name in ("max_steps", "reset_attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        if not self.bond_stretch > 1:
            raise ValueError(f"`bond_stretch` must be larger than 1, got {self.bond_stretch}")
        if self.stuck_limit < 0:
            raise ValueError(f"`stuck_limit` must not be negative, got {self.stuck_limit}")
        if self.energy_tolerance < 0:
            raise ValueError(f"`energy_tolerance` must not be negative, got {self.energy_tolerance}")
        low, high = self.rattle if isinstance(self.rattle, tuple) else (self.rattle, self.rattle)
        if not 0 <= low <= high:
            raise ValueError(f"`rattle` must be a size >= 0 or a range 0 <= low <= high in Å, got {self.rattle}")
        check_names(self.features)


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"`{name}` must be positive, got {value}")
