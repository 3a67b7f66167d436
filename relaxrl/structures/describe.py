"""What there is to know about a structure before it is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase.calculators.calculator import Calculator
from ase.units import _amu

from relaxrl.errors import CalculatorError
from relaxrl.structures.check import check_structure, closest_pair
from relaxrl.structures.crystal import Crystal, Kind
from relaxrl.structures.curvature import HessianFunction, softest_modes
from relaxrl.structures.relaxation import energy_and_forces

Stationary = Literal["minimum", "saddle point", "not relaxed"]

STATIONARY_FMAX = 0.01
"""eV/Å; above it, a structure is not called stationary and curvatures say nothing about it."""

_FLAT = 1e-3
"""eV/Å²; curvature below which a stationary point does not count as a minimum, the accuracy of finite differences."""


@dataclass(frozen=True)
class Description:
    """One structure in numbers.

    Attributes:
        id: `FILE#INDEX`.
        formula: Hill notation.
        n_atoms: Atoms in the cell.
        density: g/cm³; None without a cell.
        closest: Distance of the closest pair, Å, and as a fraction of the sum of covalent radii.
        kind: Whether it counts as relaxed.
        parent: The crystal it descends from.
        fmax: Largest force, eV/Å; None without a calculator.
        energy: eV; None without a calculator.
        stationary: What the Hessian says; None if not asked for.
        remarks: What is odd about it.
    """

    id: str
    formula: str
    n_atoms: int
    density: float | None
    closest: tuple[float, float]
    kind: Kind
    parent: str
    fmax: float | None
    energy: float | None
    stationary: Stationary | None
    remarks: tuple[str, ...]


def describe(
    crystal: Crystal, calculator: Calculator | None = None, hessian: HessianFunction | None = None
) -> Description:
    """Describe a structure.

    Args:
        crystal: The structure.
        calculator: Evaluates energy and forces, if given.
        hessian: Decides whether a stationary structure is a minimum, if given.

    Raises:
        CalculatorError: The calculator failed.
    """
    atoms = crystal.atoms
    fmax = energy = stationary = None
    if calculator is not None:
        try:
            energy, forces = energy_and_forces(atoms, calculator)
        except Exception as error:  # calculators raise what they like
            raise CalculatorError(f"{crystal.id}: the calculator failed: {type(error).__name__}: {error}") from error
        fmax = float(np.linalg.norm(forces, axis=1).max())
        if hessian is not None:
            stationary = _stationary(crystal, fmax, hessian)
    _, _, distance, ratio = closest_pair(atoms)
    volume = float(atoms.cell.volume) if atoms.pbc.all() else 0.0
    return Description(
        crystal.id,
        atoms.get_chemical_formula(),
        len(atoms),
        float(atoms.get_masses().sum()) * _amu * 1e27 / volume if volume > 0 else None,
        (distance, ratio),
        crystal.kind,
        crystal.parent,
        fmax,
        energy,
        stationary,
        tuple(check_structure(atoms)),
    )


def _stationary(crystal: Crystal, fmax: float, hessian: HessianFunction) -> Stationary:
    if fmax > STATIONARY_FMAX:
        return "not relaxed"
    curvature = softest_modes(hessian(crystal.atoms))[0]
    return "minimum" if curvature > _FLAT else "saddle point"
