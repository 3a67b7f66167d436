"""Which strains of a cell may be used: one vocabulary for the optimizer and the environment, that of ASE's filters."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from ase import Atoms
from pydantic import BeforeValidator

from relaxrl.config import configclass
from relaxrl.errors import StructureError
from relaxrl.strain import STRAIN_BASIS, vector_from_tensor
from relaxrl.typing import BoolArray, FloatArray

FLAT = 0.5
"""Å; a cell whose opposite faces are closer than this holds no atoms that could be told from their images."""

STRAINS = ("xx", "yy", "zz", "yz", "xz", "xy")
"""Names of the components of a strain, in Voigt's order."""


def voigt_mask(mask: Any) -> tuple[bool, ...] | None:
    """A mask of six or (3, 3), if it is symmetric and of zeros and ones."""
    try:
        full = np.asarray(mask, dtype=float)
    except (TypeError, ValueError):
        return None
    if full.shape == (3, 3):
        if not np.array_equal(full, full.T):
            return None
        full = full[(0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)]
    if full.shape != (6,) or not np.isin(full, (0.0, 1.0)).all():
        return None
    return tuple(bool(value) for value in full)


def _read_mask(mask: Any) -> Any:
    """Masks as ASE's filters take them, of six or (3, 3), or the names of what is free; others as they are."""
    names = mask.replace(",", " ").split() if isinstance(mask, str) else mask
    if isinstance(names, list | tuple | set) and names and all(isinstance(name, str) for name in names):
        unknown = sorted(set(names) - set(STRAINS))
        if unknown:
            raise ValueError(f"there is no strain `{unknown[0]}`; there are {', '.join(STRAINS)}")
        return tuple(name in names for name in STRAINS)
    known = voigt_mask(mask)
    return mask if known is None else known


@configclass
class FreeStrain:
    """What of a cell may change; names and meanings are those of ASE's `FrechetCellFilter`.

    Examples:
        >>> FreeStrain(mask="xx,yy,xy").mask
        (True, True, False, False, False, True)
    """

    mask: Annotated[tuple[bool, ...], BeforeValidator(_read_mask)] = (True,) * 6
    """Components of the strain that are free: xx, yy, zz, yz, xz, xy; or a symmetric (3, 3) of them, or their names."""
    hydrostatic_strain: bool = False
    """Only the size changes, not the shape."""
    constant_volume: bool = False
    """Only the shape changes, not the size. The volume of the start is kept exactly."""

    def __post_init__(self) -> None:
        if len(self.mask) != 6:
            raise ValueError(f"`mask` must have 6 entries (xx, yy, zz, yz, xz, xy), got {len(self.mask)}")
        if self.hydrostatic_strain and self.constant_volume:
            raise ValueError("`hydrostatic_strain` and `constant_volume` together leave no strain; choose one")

    def directions(self, cell: FloatArray, pbc: BoolArray) -> FloatArray:
        """Orthonormal strains that are free, (k, 6) in `STRAIN_BASIS`; those of periodic directions alone.

        Args:
            cell: (3, 3), Å.
            pbc: (3,), bool.

        Raises:
            StructureError: There are none.
        """
        free = self._unmasked(cell, pbc)
        size = _span((free.T @ (free @ vector_from_tensor(np.eye(3))))[None])
        if self.hydrostatic_strain:
            free = size
        elif self.constant_volume:
            free = _common(free.T @ free, np.eye(6) - size.T @ size)
        if len(free) == 0:
            kept = " at constant volume" if self.constant_volume else ""
            raise StructureError(
                f"no strain of this cell is free{kept} with pbc {np.asarray(pbc).tolist()} and mask {list(self.mask)}; "
                "expected a crystal or a slab, and a mask that leaves something; or relax at fixed cell"
            )
        return free

    def volume_direction(self, cell: FloatArray, pbc: BoolArray) -> FloatArray:
        """The strain, (6,), that makes up for changes of volume by the others; arguments as for `directions`."""
        free = self._unmasked(cell, pbc)
        along: FloatArray = free.T @ (free @ vector_from_tensor(np.eye(3)))
        return along / float(np.linalg.norm(along))

    def _unmasked(self, cell: FloatArray, pbc: BoolArray) -> FloatArray:
        periodic = np.asarray(cell)[np.asarray(pbc)]
        # Onto the plane or line of the periodic vectors.
        onto = np.linalg.pinv(periodic) @ periodic if len(periodic) else np.zeros((3, 3))
        inside = vector_from_tensor(onto @ STRAIN_BASIS @ onto)
        return _common(inside, np.diag(np.asarray(self.mask, dtype=float)))


def check_cell(atoms: Atoms) -> None:
    """Whether stress and strain have a meaning for this cell.

    Raises:
        StructureError: Vectors are missing, or the cell is flat.
    """
    cell = atoms.cell.array
    if not np.isfinite(cell).all() or atoms.cell.rank < 3:
        raise StructureError(
            f"stress needs a cell with three independent vectors, got {cell.round(4).tolist()} Å; give slabs and wires "
            "a vector across their vacuum, or relax at fixed cell"
        )
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    if heights.min() < FLAT:
        raise StructureError(
            f"the cell is nearly flat: its faces are {heights.min():.3g} Å apart, expected at least {FLAT} Å; reduce "
            "the cell (ase.build.niggli_reduce), or check its vectors"
        )


def _span(vectors: FloatArray) -> FloatArray:
    """Orthonormal rows that span the same space."""
    _, values, rows = np.linalg.svd(vectors)
    span: FloatArray = rows[: int((values > 1e-8).sum())]
    return span


def _common(first: FloatArray, second: FloatArray) -> FloatArray:
    """Orthonormal rows that span what two projectors (6, 6) have in common."""
    values, vectors = np.linalg.eigh(first @ second @ first)
    common: FloatArray = vectors[:, values > 1 - 1e-8].T
    return common
