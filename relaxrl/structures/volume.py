"""The volume of a crystal whose elements were exchanged: bond lengths first, then the lowest energy."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, CalculatorSetupError, PropertyNotImplementedError
from scipy.optimize import minimize_scalar

from relaxrl.errors import StructureError
from relaxrl.structures.check import closest_pair
from relaxrl.structures.expected_volume import expected_volume

_STRETCHES = np.arange(0.7, 1.41, 0.05)
"""Lengths tried, in units of those at which the closest pair is as far apart as its covalent radii say: metals are
a fifth larger, silicates and phosphates a tenth smaller."""

_VOLUMES = (0.4, 3.0)
"""Range of the volume of a crystal, in units of what its elements usually take up: cages of silica reach 2."""

_TOLERANCE = 1e-3
"""Of the stretch; the search for a minimum with relaxed atoms begins there."""


def at_bond_lengths(atoms: Atoms) -> Atoms:
    """A copy stretched alike in all directions such that its closest pair is as far apart as its covalent radii say."""
    return stretched(atoms, 1.0 / closest_pair(atoms)[3])


def at_lowest_energy(atoms: Atoms, calculator: Calculator, name: str) -> Atoms:
    """A copy stretched alike in all directions to its volume of lowest energy, atoms not relaxed.

    Args:
        atoms: The crystal, with bonds of the lengths that covalent radii give.
        calculator: Called some twenty times.
        name: What the error calls it.

    Raises:
        StructureError: The energy falls towards the largest or smallest volume tried, or can't be computed; or the
            volume is not that of a solid of these elements.
    """
    energies = np.array([_energy(stretched(atoms, stretch), calculator) for stretch in _STRETCHES])
    lowest = int(energies.argmin())
    if not np.isfinite(energies[lowest]) or lowest in (0, len(energies) - 1):
        way = "can't be computed" if not np.isfinite(energies[lowest]) else "falls" if lowest else "collapses"
        raise StructureError(
            f"{name}: its energy {way} between {_STRETCHES[0]:.2f} and {_STRETCHES[-1]:.2f} of the expected bond "
            "lengths; there is no crystal of this kind under this calculator"
        )
    result = minimize_scalar(
        lambda stretch: _energy(stretched(atoms, stretch), calculator),
        bounds=(_STRETCHES[lowest - 1], _STRETCHES[lowest + 1]),
        method="bounded",
        options={"xatol": _TOLERANCE},
    )
    found = stretched(atoms, float(result.x))
    ratio = found.cell.volume / expected_volume(found.get_chemical_symbols())
    if not _VOLUMES[0] < ratio < _VOLUMES[1]:
        raise StructureError(
            f"{name}: has {ratio:.2f} of the volume of its elements, expected {_VOLUMES[0]} to {_VOLUMES[1]}; there is "
            "no such solid"
        )
    return found


def stretched(atoms: Atoms, factor: float) -> Atoms:
    """A copy with all lengths multiplied."""
    copy = atoms.copy()
    copy.set_cell(atoms.cell.array * factor, scale_atoms=True)
    return copy


def _energy(atoms: Atoms, calculator: Calculator) -> float:
    """eV; infinite where it can't be computed."""
    atoms.calc = calculator
    try:
        energy = float(atoms.get_potential_energy())
    except (CalculatorSetupError, PropertyNotImplementedError, NotImplementedError):
        raise
    except (RuntimeError, ValueError, ArithmeticError, np.linalg.LinAlgError):
        return np.inf
    return energy if np.isfinite(energy) else np.inf
