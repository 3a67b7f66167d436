"""The potential energy surface under a structure as ASE's optimizers see it: coordinates in, points out."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian
from ase.data import chemical_symbols
from scipy import sparse

from relaxrl.errors import CalculatorError
from relaxrl.optimize.curvature import pair_hessian
from relaxrl.optimize.safeguard import Point
from relaxrl.typing import BoolArray, FloatArray, IntArray

PLAIN_STIFFNESS = 10.0
"""eV/Å², the Hessian guess where a filter leaves no structure to make one from."""


class Surface:
    """Evaluates points, moves atoms between them, and keeps the last failure of the calculator.

    Args:
        atoms: The structure or a filter of it.
    """

    def __init__(self, atoms: Any) -> None:
        self.atoms = atoms
        self.optimizable = atoms.__ase_optimizable__()
        self.failure: Exception | None = None

    @property
    def structure(self) -> Atoms | None:
        """The structure itself; None under a filter, whose coordinates are not positions."""
        return self.atoms if isinstance(self.atoms, Atoms) else None

    @property
    def numbers(self) -> IntArray:
        """Atomic numbers, (n_atoms,)."""
        structure = self.atoms if isinstance(self.atoms, Atoms) else self.atoms.atoms
        return np.asarray(structure.numbers, dtype=np.int64)

    @property
    def symbols(self) -> set[str]:
        """Elements of the structure."""
        return {chemical_symbols[number] for number in self.numbers}

    def length(self, displacement: FloatArray) -> float:
        """Largest displacement of an atom, Å, of a vector (n_dof,)."""
        return float(self.optimizable.gradient_norm(displacement))

    def here(self) -> Point | None:
        """Energy and forces where the atoms stand; None, with the reason in `failure`, if there are none."""
        try:
            # Forces first: calculators then have the energy too, in one call.
            gradient = np.asarray(self.optimizable.get_gradient(), dtype=np.float64).copy()
            energy = float(self.optimizable.get_value())
        except Exception as error:  # calculators raise whatever they like
            self.failure = error
            return None
        if not (np.isfinite(gradient).all() and np.isfinite(energy)):
            self.failure = CalculatorError(f"energy or forces are not finite (energy {energy} eV)")
            return None
        fmax = float(self.optimizable.gradient_norm(gradient))
        return Point(self.optimizable.get_x().copy(), energy, gradient, fmax)

    def displaced(self, start: Point, displacement: FloatArray) -> Point | None:
        """One force evaluation at `start` displaced; constraints have their say. None if the calculator refuses."""
        self.place(start.x)
        self.optimizable.set_x(start.x + displacement)
        return self.here()

    def place(self, x: FloatArray) -> None:
        """Put the atoms back at a geometry that stood before, to the last bit."""
        if self.structure is None:
            self.optimizable.set_x(x)
        else:
            self.structure.set_positions(x.reshape(-1, 3), apply_constraint=False)

    @property
    def free(self) -> BoolArray | None:
        """Which coordinates can move, (n_dof,); None where all can. Other constraints act when atoms are moved."""
        if self.structure is None or not self.structure.constraints:
            return None
        free = np.ones((len(self.structure), 3), dtype=bool)
        for constraint in self.structure.constraints:
            if isinstance(constraint, FixAtoms):
                free[constraint.get_indices()] = False
            elif isinstance(constraint, FixCartesian):
                free[constraint.get_indices()] &= ~np.asarray(constraint.mask, dtype=bool)
        return free.ravel()

    def hessian_guess(self, x: FloatArray) -> sparse.csr_array:
        """A positive definite guess, (n_dof, n_dof), eV/Å², that costs no force evaluation."""
        if self.structure is None:
            return PLAIN_STIFFNESS * sparse.eye_array(len(x), format="csr")
        atoms = Atoms(self.structure.numbers, x.reshape(-1, 3), cell=self.structure.cell, pbc=self.structure.pbc)
        return pair_hessian(atoms)
