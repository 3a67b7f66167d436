"""Second derivatives of the energy, and what they say about a stationary point."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from relaxrl.io import graph_from_atoms
from relaxrl.potentials import CountedCalculator, Potential, TorchPotential, parse_calculator
from relaxrl.potentials.mixed import torch_equal
from relaxrl.structures.relaxation import StrainedCrystal
from relaxrl.typing import FloatArray

HessianFunction = Callable[[Atoms], FloatArray]
"""Structure in; second derivatives of its energy out, (3 n_atoms, 3 n_atoms), eV/Å²."""

_DEGENERATE = 1e-3
"""eV/Å²; modes whose curvatures differ by less are treated alike."""

_STEP = 5e-3
"""Å, of finite differences."""


def softest_modes(hessian: FloatArray, n_atoms: int | None = None) -> tuple[float, FloatArray]:
    """The smallest eigenvalue, eV/Å², and the modes that have it, with the three translations taken out.

    Args:
        hessian: (3 n_atoms, 3 n_atoms), eV/Å², symmetric; or with six rows and columns more, of strain.
        n_atoms: As many rows as three times this are of atoms; all if None.

    Returns:
        The eigenvalue, and orthonormal vectors (len(hessian), n_modes) that span all modes within a small distance of
        it: symmetric crystals have degenerate ones. A single atom at fixed cell has nothing but translations: infinity
        and no modes.
    """
    size = len(hessian)
    n_atoms = size // 3 if n_atoms is None else n_atoms
    if size == 3:
        return float("inf"), np.zeros((3, 0))
    translations = np.zeros((size, 3))
    translations[: 3 * n_atoms] = np.tile(np.eye(3), (n_atoms, 1)) / np.sqrt(n_atoms)
    # Translations are lifted above all other modes rather than projected to zero, where a soft mode may lie as well.
    top = float(np.abs(hessian).sum(axis=1).max()) + 1.0
    without = hessian - translations @ (translations.T @ hessian)
    without = without - (without @ translations) @ translations.T + top * translations @ translations.T
    values, vectors = np.linalg.eigh(0.5 * (without + without.T))
    return float(values[0]), vectors[:, values <= values[0] + _DEGENERATE]


def surface(calculator: str) -> tuple[Calculator, HessianFunction]:
    """A new calculator of this name and its Hessian.

    Each structure needs its own: calculators keep neighbour lists and other state, and what one structure leaves behind
    would show in the last digits of the next, and at times in the minimum that it falls into. The Hessian raises
    `CalculatorError` where the calculator fails.
    """
    spec = parse_calculator(calculator)
    made = spec.create()
    return made, hessian_function(CountedCalculator(made), torch_equal(spec))


def hessian_function(calculator: Calculator, potential: Potential | None = None) -> HessianFunction:
    """Analytic second derivatives where the potential has them, else finite differences of the calculator's forces."""
    if isinstance(potential, TorchPotential):
        analytic = potential

        def hessian(atoms: Atoms) -> FloatArray:
            found: FloatArray = analytic.hessian(graph_from_atoms(atoms))[0].detach().numpy()
            # Some formulas have no second derivative at symmetric points, where angles are straight.
            return found if np.isfinite(found).all() else finite_difference_hessian(atoms, calculator)

        return hessian
    return lambda atoms: finite_difference_hessian(atoms, calculator)


def finite_difference_hessian(atoms: Atoms, calculator: Calculator, step: float = _STEP) -> FloatArray:
    """Second derivatives from central differences of forces: (3 n_atoms, 3 n_atoms), eV/Å², made symmetric.

    Args:
        atoms: The structure.
        calculator: Called 6 n_atoms times.
        step: Å.
    """
    moved = atoms.copy()
    moved.calc = calculator
    rows = np.empty((3 * len(atoms), 3 * len(atoms)))
    for k in range(3 * len(atoms)):
        place = divmod(k, 3)
        moved.positions[place] += step
        forward = moved.get_forces(apply_constraint=False)
        moved.positions[place] -= 2 * step
        backward = moved.get_forces(apply_constraint=False)
        moved.positions[place] = atoms.positions[place]
        rows[k] = (backward - forward).ravel() / (2 * step)
    return 0.5 * (rows + rows.T)


def hessian_with_strain(
    atoms: Atoms, calculator: Calculator, hessian: HessianFunction, step: float = _STEP
) -> FloatArray:
    """Second derivatives in the coordinates of `StrainedCrystal`, (3 n_atoms + 6, 3 n_atoms + 6), eV/Å².

    Args:
        atoms: The structure.
        calculator: Gives forces and stress; called 12 times for the strains.
        hessian: That at fixed cell.
        step: Å; the strains are this over the length that strains are scaled with.
    """
    moved = atoms.copy()
    moved.calc = calculator
    crystal = StrainedCrystal(moved)
    origin, size = crystal.get_x(), crystal.ndofs()
    columns = np.empty((size, 6))
    for k in range(6):
        ends = []
        for sign in (1.0, -1.0):
            x = origin.copy()
            x[size - 6 + k] += sign * step
            crystal.set_x(x)
            ends.append(crystal.get_gradient())
        columns[:, k] = (ends[0] - ends[1]) / (2 * step)
    whole = np.empty((size, size))
    whole[:-6, :-6] = hessian(atoms)
    whole[:, -6:] = columns
    whole[-6:, :-6] = columns[:-6].T
    whole[-6:, -6:] = 0.5 * (columns[-6:] + columns[-6:].T)
    return whole
