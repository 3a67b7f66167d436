"""Relaxation of a crystal to where sets are made of: by BFGS, at fixed cell or with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, CalculatorSetupError, PropertyNotImplementedError
from ase.optimize import BFGS
from ase.utils.abc import Optimizable

from relaxrl.errors import StructureError
from relaxrl.strain import LENGTH_PER_ROOT_ATOM, tensor_from_vector, vector_from_tensor
from relaxrl.structures.check import closest_pair
from relaxrl.structures.crystal import MIN_SEPARATION
from relaxrl.typing import FloatArray

VOLUME_RANGE = (0.5, 2.0)
"""Volume over that of the start; a crystal that leaves it has collapsed or fallen apart."""

_ALPHA = 10.0
"""Initial curvature of BFGS, eV/Å²; ASE's default of 70 needs more than twice the force evaluations."""

_DIGITS = 6
"""Decimals, Å, that a relaxation hands on: rounding errors die here instead of growing in the next one."""


class NotRelaxedError(StructureError):
    """A relaxation led nowhere; the message is a reason of a few words, to be counted."""


class StrainedCrystal(Optimizable):
    """Positions and symmetric strain from where it began, as one vector for ASE's optimizers.

    x = (s, q) with positions s (1 + E), cell cell_0 (1 + E), E = the tensor of q / L (`relaxrl.strain`). The gradient
    is the exact derivative of the energy. Converged are forces, and the rows of stress times volume over the number of
    atoms, as ASE's cell filters count them.

    Args:
        atoms: With a calculator; moved in place.
    """

    def __init__(self, atoms: Atoms) -> None:
        self.atoms = atoms
        self.length = LENGTH_PER_ROOT_ATOM * len(atoms) ** 0.5
        self._cell = atoms.cell.array.copy()
        self._volume = float(atoms.cell.volume)
        self._x = np.concatenate([atoms.positions.ravel(), np.zeros(6)])
        self._known: tuple[FloatArray, float] | None = None

    def ndofs(self) -> int:
        """3 n_atoms + 6."""
        return len(self._x)

    def get_x(self) -> FloatArray:
        """(3 n_atoms + 6,), Å."""
        return self._x.copy()

    def set_x(self, x: FloatArray) -> None:
        """Move atoms and cell.

        Raises:
            NotRelaxedError: The cell collapses or explodes.
        """
        deformation = self._deformation(x)
        ratio = float(np.linalg.det(deformation))
        if not VOLUME_RANGE[0] < ratio < VOLUME_RANGE[1]:
            raise NotRelaxedError("collapsed" if ratio < 1 else "exploded")
        self._x, self._known = np.array(x), None
        self.atoms.set_cell(self._cell @ deformation)
        self.atoms.positions[:] = x[:-6].reshape(-1, 3) @ deformation

    def get_gradient(self) -> FloatArray:
        """(3 n_atoms + 6,), eV/Å."""
        return self._evaluated()[0].copy()

    def _evaluated(self) -> tuple[FloatArray, float]:
        """Gradient and residual; optimizers ask for them often, and calculators take long to see what is old."""
        if self._known is None:
            # Stress first: calculators then have the forces, too, in one call.
            stress = self.atoms.get_stress(voigt=False)
            forces = self.atoms.get_forces()
            deformation, volume = self._deformation(self._x), float(self.atoms.cell.volume)
            of_strain = vector_from_tensor(np.linalg.solve(deformation, volume * stress)) / self.length
            gradient = np.concatenate([(-forces @ deformation).ravel(), of_strain])
            self._known = gradient, _residual(forces, stress, volume)
        return self._known

    def get_value(self) -> float:
        """Energy, eV."""
        return float(self.atoms.get_potential_energy())

    def converged(self, gradient: FloatArray, fmax: float) -> bool:
        """Whether forces and stress are small enough."""
        del gradient
        return self._evaluated()[1] < fmax

    def iterimages(self) -> Iterator[Atoms]:
        """The crystal."""
        images: Iterator[Atoms] = self.atoms.iterimages()
        return images

    def _deformation(self, x: FloatArray) -> FloatArray:
        deformation: FloatArray = np.eye(3) + tensor_from_vector(x[-6:] / self.length)
        return deformation


def residual(atoms: Atoms, cell: bool) -> float:
    """Largest force, eV/Å; with the cell also the longest row of stress times volume over the number of atoms, eV."""
    # Stress first: one call gives both.
    stress = atoms.get_stress(voigt=False) if cell else None
    return _residual(atoms.get_forces(), stress, float(atoms.cell.volume))


def _residual(forces: FloatArray, stress: FloatArray | None, volume: float) -> float:
    rows = [np.linalg.norm(forces, axis=1)]
    if stress is not None:
        rows.append(np.linalg.norm(stress, axis=1) * volume / len(forces))
    return float(np.concatenate(rows).max())


def relaxed_with(
    atoms: Atoms,
    calculator: Calculator,
    fmax: float,
    steps: int,
    cell: bool = False,
    on_geometry: Callable[[Atoms], None] | None = None,
) -> Atoms:
    """A copy relaxed by BFGS, without its calculator.

    Args:
        atoms: Where to begin.
        calculator: Gives energy, forces and, with the cell, stress.
        fmax: eV/Å; see `residual`.
        steps: At most.
        cell: Whether the cell relaxes, too, in symmetric strains.
        on_geometry: Called at each geometry that was evaluated, with the atoms that move.

    Raises:
        NotRelaxedError: It did not converge, the cell exploded or collapsed, atoms overlap, or the calculator failed.
    """
    relaxed = atoms.copy()
    relaxed.calc = calculator
    optimizer = BFGS(StrainedCrystal(relaxed) if cell else relaxed, logfile=None, alpha=_ALPHA)
    if on_geometry is not None:
        optimizer.attach(lambda: on_geometry(relaxed))
    try:
        converged = optimizer.run(fmax=fmax, steps=steps)
    except NotRelaxedError:
        raise
    except (CalculatorSetupError, PropertyNotImplementedError, NotImplementedError):
        raise  # the calculator does not fit the structure: no displacement would help
    except (RuntimeError, ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
        raise NotRelaxedError("the calculator failed") from error
    relaxed.calc = None
    relaxed.positions[:] = np.round(relaxed.positions, _DIGITS)
    if not converged:
        raise NotRelaxedError("not converged")
    if cell and closest_pair(relaxed)[3] < MIN_SEPARATION:
        raise NotRelaxedError("atoms overlap")
    return relaxed


def relax(atoms: Atoms, calculator: Calculator, fmax: float, steps: int, cell: bool = False) -> Atoms | None:
    """As `relaxed_with`; None where that fails."""
    try:
        return relaxed_with(atoms, calculator, fmax, steps, cell)
    except NotRelaxedError:
        return None


def energy_and_forces(atoms: Atoms, calculator: Calculator) -> tuple[float, FloatArray]:
    """Energy in eV and forces (n_atoms, 3) in eV/Å."""
    evaluated = atoms.copy()
    evaluated.calc = calculator
    return float(evaluated.get_potential_energy()), np.asarray(evaluated.get_forces(), dtype=np.float64)
