"""A structure as LAMMPS wants it: in a fully periodic box whose first vector lies along x and whose second in xy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.geometry.cell import complete_cell

from relaxrl.errors import CalculatorError
from relaxrl.typing import FloatArray

_GAP = 25.0
"""Å; empty space between images where a structure is not periodic: more than the cutoff of any of these potentials."""
_LEAST_HEIGHT = 0.2
"""Å; flatter cells would need so many images that LAMMPS runs out of memory before it says why."""


@dataclass(frozen=True)
class LammpsBox:
    """A box for LAMMPS, and the way there from the frame of a structure.

    Attributes:
        cell: (3, 3), Å, rows; lower triangular, with tilts of at most half the box.
        rotation: (3, 3), orthogonal; a row vector v becomes v @ rotation. A reflection where the cell is left-handed.
        to_fractions: (3, 3), 1/Å; positions @ to_fractions are fractions of the box.
    """

    cell: FloatArray
    rotation: FloatArray
    to_fractions: FloatArray

    @classmethod
    def of(cls, atoms: Atoms) -> LammpsBox:
        """The box of a structure.

        Non-periodic directions become periodic ones with a wide gap.

        Raises:
            CalculatorError: The cell has nearly no height in a periodic direction, or a number is not finite.
        """
        pbc = np.asarray(atoms.pbc, dtype=bool)
        rows = np.where(pbc[:, None], np.asarray(atoms.cell.array, dtype=np.float64), 0.0)
        if not (np.isfinite(rows).all() and np.isfinite(atoms.positions).all()):
            raise CalculatorError(f"positions and cell of {atoms.symbols} must be finite")
        _check_heights(atoms, rows[pbc])
        full = np.asarray(complete_cell(rows), dtype=np.float64)
        for k in np.flatnonzero(~pbc):  # unit vectors, normal to all others
            full[k] *= float(np.ptp(atoms.positions @ full[k])) + _GAP
        q, r = np.linalg.qr(full.T)
        signs = np.where(np.diag(r) < 0.0, -1.0, 1.0)
        rotation, cell = q * signs, _reduced((signs[:, None] * r).T)
        return cls(cell, rotation, rotation @ np.linalg.inv(cell))

    def place(self, positions: FloatArray) -> FloatArray:
        """Positions (n_atoms, 3), Å, turned into the box and moved inside by whole cell vectors."""
        fractions = np.mod(positions @ self.to_fractions, 1.0)
        fractions[fractions >= 1.0] = 0.0  # the remainder of a tiny negative number
        placed: FloatArray = fractions @ self.cell
        return placed

    @property
    def volume(self) -> float:
        """Å³."""
        return float(np.prod(np.diag(self.cell)))


def _reduced(cell: FloatArray) -> FloatArray:
    """The same lattice with tilts of at most half the box, beyond which LAMMPS grows slow and complains."""
    cell = np.tril(cell)
    for row, column in ((1, 0), (2, 1), (2, 0)):
        cell[row] -= np.round(cell[row, column] / cell[column, column]) * cell[column]
    return cell


def _check_heights(atoms: Atoms, rows: FloatArray) -> None:
    """Raise where a periodic direction has no height over the others."""
    for k in range(len(rows)):
        others = np.delete(rows, k, axis=0)
        rest = rows[k]
        if len(others):
            basis = np.linalg.svd(others, full_matrices=False)[2]
            rest = rest - basis.T @ (basis @ rest)
        if np.linalg.norm(rest) < _LEAST_HEIGHT:
            raise CalculatorError(
                f"the cell of {atoms.symbols} is flat: it is {np.linalg.norm(rest):.2g} Å high in a periodic "
                f"direction, expected at least {_LEAST_HEIGHT:g} Å"
            )
