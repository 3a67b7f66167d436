"""The potential energy surface under a structure as optimizers see it: coordinates in, points out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian, FixCom
from ase.data import chemical_symbols
from scipy import sparse

from relaxrl.errors import CalculatorError
from relaxrl.io import graph_from_atoms
from relaxrl.optimize.curvature import pair_hessian
from relaxrl.optimize.policy import Policy, predicted_hessian
from relaxrl.optimize.safeguard import Point
from relaxrl.typing import BoolArray, FloatArray, IntArray, StateDict

PLAIN_STIFFNESS = 10.0
"""eV/Å², the Hessian guess where a filter leaves no structure to make one from."""


class Surface(ABC):
    """Evaluates points, moves atoms between them, and keeps the last failure of the calculator.

    What the coordinates are is the matter of each surface.

    Args:
        atoms: The structure or a filter of it.
        optimizable: What ASE's optimizers ask for energy, gradient and convergence.
    """

    without_hessian = "the agent shows no Hessian"
    """Why an agent is of no use here if it predicts no Hessian of these coordinates."""

    def __init__(self, atoms: Any, optimizable: Any) -> None:
        self.atoms = atoms
        self.optimizable = optimizable
        self.failure: Exception | None = None

    @property
    def structure(self) -> Atoms | None:
        """The structure itself where displacements of its atoms are the coordinates; else None."""
        return None

    @property
    def numbers(self) -> IntArray:
        """Atomic numbers, (n_atoms,)."""
        structure = self.atoms if isinstance(self.atoms, Atoms) else self.atoms.atoms
        return np.asarray(structure.numbers, dtype=np.int64)

    @property
    def symbols(self) -> set[str]:
        """Elements of the structure."""
        return {chemical_symbols[number] for number in self.numbers}

    @property
    def free(self) -> BoolArray | None:
        """Which coordinates can move, (n_dof,); None where all can. Other constraints act when atoms are moved."""
        return None

    def length(self, displacement: FloatArray) -> float:
        """Largest displacement of an atom, Å, of a vector (n_dof,)."""
        return float(self.optimizable.gradient_norm(displacement))

    def here(self) -> Point | None:
        """Energy and forces where the atoms stand; None, with the reason in `failure`, if there are none."""
        try:
            point = self._read()
        except Exception as error:  # calculators raise whatever they like
            self.failure = error
            return None
        if not (np.isfinite(point.gradient).all() and np.isfinite(point.energy)):
            self.failure = CalculatorError(f"energy or forces are not finite (energy {point.energy} eV)")
            return None
        return point

    def begin(self, point: Point) -> Point:
        """A relaxation begins where the atoms stand; the point in the coordinates that it will use."""
        return point

    def displaced(self, start: Point, displacement: FloatArray) -> Point | None:
        """One force evaluation at `start` displaced; constraints have their say. None if the calculator refuses."""
        self.place(start)
        try:
            self.optimizable.set_x(start.x + displacement)
        except Exception as error:  # constraints refuse, too
            self.failure = error
            return None
        return self.here()

    @abstractmethod
    def place(self, point: Point) -> None:
        """Put the atoms back at a geometry that stood before, to the last bit."""

    @abstractmethod
    def hessian_guess(self, point: Point) -> sparse.csr_array:
        """A positive definite guess, (n_dof, n_dof), eV/Å², that costs no force evaluation."""

    @abstractmethod
    def predicted(self, policy: Policy, point: Point) -> FloatArray | None:
        """The agent's Hessian in these coordinates, (n_dof, n_dof), eV/Å², symmetric; None if it shows none."""

    def _read(self) -> Point:
        # Forces first: calculators then have the energy too, in one call.
        gradient = np.asarray(self.optimizable.get_gradient(), dtype=np.float64).copy()
        energy = float(self.optimizable.get_value())
        fmax = float(self.optimizable.gradient_norm(gradient))
        return Point(self.optimizable.get_x().copy(), energy, gradient, fmax)

    def state_dict(self) -> StateDict:
        """What the coordinates depend on."""
        return {}

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a state made by `state_dict`."""
        del state


class FixedCellSurface(Surface):
    """Coordinates are the positions of atoms in a cell that stays as it is."""

    def __init__(self, atoms: Atoms) -> None:
        super().__init__(atoms, atoms.__ase_optimizable__())

    @property
    def structure(self) -> Atoms:
        """The structure itself."""
        structure: Atoms = self.atoms
        return structure

    @property
    def free(self) -> BoolArray | None:
        """See `Surface`."""
        return free_positions(self.structure)

    def place(self, point: Point) -> None:
        """See `Surface`."""
        self.structure.set_positions(point.x.reshape(-1, 3), apply_constraint=False)

    def hessian_guess(self, point: Point) -> sparse.csr_array:
        """Springs along the bonds."""
        here, x = self.structure, point.x.reshape(-1, 3)
        return pair_hessian(Atoms(here.numbers, x, cell=here.cell, pbc=here.pbc))

    def predicted(self, policy: Policy, point: Point) -> FloatArray | None:
        """See `Surface`."""
        positions = torch.from_numpy(point.x.reshape(-1, 3).copy())
        return predicted_hessian(policy, graph_from_atoms(self.structure).replace(positions=positions))

    def _read(self) -> Point:
        point = super()._read()
        if not any(isinstance(each, FixCom) for each in self.structure.constraints):
            return point
        # `FixCom` keeps the place by a shift of all atoms alike, but takes from the forces what points along the
        # masses. That leaves a net force, which steps would follow in vain; given back, none is left.
        rows, masses = point.gradient.reshape(-1, 3), self.structure.get_masses()[:, None]
        return replace(point, gradient=(rows - masses * (rows.sum(axis=0) / masses.sum())).ravel())


class FilterSurface(Surface):
    """Coordinates are those of a filter of which nothing is known."""

    without_hessian = "agents move atoms and cells, not coordinates of a filter that they don't know"

    def __init__(self, atoms: Any) -> None:
        super().__init__(atoms, atoms.__ase_optimizable__())

    def place(self, point: Point) -> None:
        """See `Surface`; filters return to a point but for rounding."""
        self.optimizable.set_x(point.x)

    def hessian_guess(self, point: Point) -> sparse.csr_array:
        """The same stiffness in all directions."""
        return PLAIN_STIFFNESS * sparse.eye_array(len(point.x), format="csr")

    def predicted(self, policy: Policy, point: Point) -> FloatArray | None:
        """None: see `without_hessian`."""
        del policy, point
        return None


def free_positions(atoms: Atoms) -> BoolArray | None:
    """Which Cartesian coordinates of the atoms can move, (3 n_atoms,); None without constraints."""
    if not atoms.constraints:
        return None
    free = np.ones((len(atoms), 3), dtype=bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            free[constraint.get_indices()] = False
        elif isinstance(constraint, FixCartesian):
            free[constraint.get_indices()] &= ~np.asarray(constraint.mask, dtype=bool)
    return free.ravel()
