"""How a relaxation treats the cell, and what ASE's filters mean in these words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian, FixCom, FixSymmetry
from ase.filters import FrechetCellFilter, StrainFilter, UnitCellFilter

from relaxrl.cell import FreeStrain, voigt_mask
from relaxrl.config import configclass
from relaxrl.errors import StructureError
from relaxrl.typing import FloatArray

WITH_CELL = (FixAtoms, FixSymmetry, FixCom)
"""Constraints that are respected where the cell relaxes; `FixCartesian`, too, if it holds all three coordinates. For an
atom that is free in one direction alone, energy and stress disagree about where it goes with the cell."""


@configclass
class RelaxCell(FreeStrain):
    """What of the cell may change, against which pressure, and when its stress is small enough."""

    scalar_pressure: float = 0.0
    """eV/Å³; energy + pressure times volume is minimised."""
    smax: float | None = None
    """eV/Å³; converged when no component of the stress that is free exceeds it. None: as ASE's filters count, when
    each row of stress times volume, divided by the number of atoms, is shorter than fmax."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.smax is not None and not self.smax > 0:
            raise ValueError(f"`smax` must be positive, got {self.smax} eV/Å³")
        if not np.isfinite(self.scalar_pressure):
            raise ValueError(f"`scalar_pressure` must be finite, got {self.scalar_pressure} eV/Å³")


def _holds_all(constraint: Any) -> bool:
    return isinstance(constraint, FixCartesian) and bool(np.all(constraint.mask))


def check_constraints(atoms: Atoms) -> None:
    """Whether the constraints have a meaning for a cell that strains.

    Raises:
        StructureError: Names those that don't.
    """
    given = [each for each in atoms.constraints if not (isinstance(each, WITH_CELL) or _holds_all(each))]
    wrong = sorted({type(each).__name__ for each in given})
    if wrong:
        known = ", ".join(each.__name__ for each in WITH_CELL)
        raise StructureError(
            f"the cell can't relax under {', '.join(wrong)}; expected constraints among {known}. Remove it, or relax "
            "at fixed cell, where all constraints of ASE are respected"
        )


@dataclass(frozen=True)
class FilterCell:
    """A filter of ASE as something that we understand.

    Attributes:
        cell: Which strains are free.
        reference: (3, 3), Å; the cell that the filter counts strain from.
        atoms_move: Whether atoms move other than with the cell.
    """

    cell: RelaxCell
    reference: FloatArray
    atoms_move: bool

    @staticmethod
    def of(atoms: Any) -> FilterCell | None:
        """What a filter relaxes; None of those that are not filters of cells, or have masks of another kind."""
        # Not by isinstance: classes derived from these count in coordinates of their own.
        if type(atoms) is StrainFilter:
            mask = voigt_mask(atoms.mask)
            return None if mask is None else FilterCell(RelaxCell(mask=mask), np.array(atoms.origcell), False)
        if type(atoms) not in (FrechetCellFilter, UnitCellFilter):
            return None
        mask = voigt_mask(atoms.mask)
        if mask is None or (atoms.hydrostatic_strain and atoms.constant_volume):
            return None
        # ASE takes the trace of what is masked on the diagonal, too: other strains than those that are free here.
        if not all(mask[:3]) and (atoms.hydrostatic_strain or atoms.constant_volume):
            return None
        cell = RelaxCell(
            mask=mask,
            hydrostatic_strain=bool(atoms.hydrostatic_strain),
            constant_volume=bool(atoms.constant_volume),
            scalar_pressure=float(atoms.scalar_pressure),
        )
        return FilterCell(cell, np.array(atoms.orig_cell), True)
