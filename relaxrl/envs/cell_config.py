"""What an environment can be asked for about cells."""

from __future__ import annotations

from relaxrl.cell import FreeStrain
from relaxrl.config import configclass


@configclass
class CellConfig(FreeStrain):
    """Cells that strain in the environment: what is free, as `relaxrl.optimize.RelaxCell` says it, and how far."""

    smax: float | None = None
    """Convergence: no principal stress that is free exceeds it, eV/Å³. None: as ASE's cell filters count, when stress
    times volume, divided by the number of atoms, is not above fmax."""

    max_strain: float = 0.1
    """Largest strain of one step; the norm of the tensor, longer ones are shortened. With 5 Å it is as far as
    `max_step`, and the optimizer goes as far."""

    strain: float | tuple[float, float] = (0.0, 0.03)
    """Standard deviation of the random strain of a minimum at each start, for each component in
    `relaxrl.strain.STRAIN_BASIS`; a pair is a range from which each episode draws its own. Lattice constants of
    databases are off by 1 to 3 %. None is longer than four times this."""

    volume_range: tuple[float, float] = (0.5, 2.0)
    """Volume over that of the start; a step beyond is taken back in part. A strain of 3 % along all axes
    changes it by 9 %, and a crystal of twice the volume has bonds 26 % longer: it is lost."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.smax is not None and not 0 < self.smax < float("inf"):
            raise ValueError(f"`smax` must be positive and finite, got {self.smax} eV/Å³")
        if not 0 < self.max_strain <= 0.5:
            raise ValueError(f"`max_strain` must be above 0 and at most 0.5, got {self.max_strain}")
        low, high = self.strain if isinstance(self.strain, tuple) else (self.strain, self.strain)
        if not 0 <= low <= high <= 0.1:
            raise ValueError(
                f"`strain` must be a size from 0 to 0.1 or a range 0 <= low <= high <= 0.1, got {self.strain}"
            )
        least, most = self.volume_range
        if not 0 < least < 1 < most < float("inf"):
            raise ValueError(f"`volume_range` must be 0 < least < 1 < most, got {self.volume_range}")
