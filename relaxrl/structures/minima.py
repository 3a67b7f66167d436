"""True minima: relaxed with rattle and re-relaxation until the Hessian has no direction left that leads down.

A symmetric crystal relaxed without noise stays on the saddle point that its symmetry pins it to. Published "relaxed"
structures are full of such points, and an agent that is rewarded for reaching them learns to stop on saddles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from relaxrl.config import configclass
from relaxrl.errors import StructureError
from relaxrl.structures.alloys import strained
from relaxrl.structures.check import closest_pair
from relaxrl.structures.crystal import MIN_SEPARATION, perturb
from relaxrl.structures.curvature import HessianFunction, hessian_with_strain, softest_modes
from relaxrl.structures.relaxation import NotRelaxedError, StrainedCrystal, relaxed_with, residual
from relaxrl.typing import FloatArray

_STEP_DOWN = 0.3
"""Å, length of the displacement along a mode of negative curvature."""

_NEWTON_STEPS = 12
_LARGEST_NEWTON_STEP = 0.1
"""Å; a longer step would leave the basin that the Hessian describes."""

_SAME_ENERGY = 1e-4
"""eV; relaxations that end closer than this have ended in one minimum."""

_ROUGH = 1e-3
"""eV/Å; where relaxations end that are polished afterwards."""

_SHEAR = 0.05
"""Largest component of the random strain before a relaxation with the cell, for each Å of displacement."""


@configclass
class MinimumConfig:
    """How hard to look for a true minimum, and what counts as one."""

    fmax: float = 1e-5
    """eV/Å, largest force on an atom of a minimum; ten to a thousand times tighter than any relaxation asks for."""
    min_curvature: float = 1e-2
    """eV/Å², smallest eigenvalue of the Hessian (translations taken out) of a minimum; softer ones are ill-defined."""
    rattle: float = 0.1
    """Å, standard deviation of the displacement before each relaxation; enough to leave symmetric saddle points."""
    relaxations: int = 3
    """Relaxations at most, each from the displaced result of the one before, until one brings no lower energy."""
    attempts: int = 6
    """Descents along negative curvature at most before the structure is given up."""
    steps: int = 500
    """Steps of one relaxation at most."""
    cell: bool = False
    """Whether the cell relaxes, too, in all symmetric strains: minima have neither forces nor stress, and their Hessian
    is that of positions and strain."""
    check: Literal["hessian", "rattle"] = "hessian"
    """What makes sure that it is a minimum: its `hessian`, some hundred evaluations, after Newton steps to `fmax`; or,
    for expensive calculators, `rattle`: displaced and relaxed again it comes back, or to something lower that comes
    back itself. Single precision allows an `fmax` of some 2e-3."""
    same_energy: float = 1e-3
    """eV per atom; with `rattle`, what still counts as having come back."""

    def __post_init__(self) -> None:
        if self.fmax <= 0 or self.min_curvature < 0 or self.rattle < 0:
            raise ValueError("`fmax` must be positive, `min_curvature` and `rattle` must not be negative")
        if self.same_energy <= 0:
            raise ValueError(f"`same_energy` must be positive, got {self.same_energy}")
        if self.relaxations < 1 or self.attempts < 1 or self.steps < 1:
            raise ValueError("`relaxations`, `attempts` and `steps` must be at least 1")


@dataclass(frozen=True)
class Minimum:
    """A structure from which every small displacement leads up.

    Attributes:
        atoms: The structure, without a calculator.
        energy: eV.
        fmax: Largest force on an atom, eV/Å.
        curvature: Smallest eigenvalue of the Hessian with translations taken out, eV/Å²; NaN where none was computed.
    """

    atoms: Atoms
    energy: float
    fmax: float
    curvature: float


def find_minimum(
    atoms: Atoms,
    calculator: Calculator,
    hessian: HessianFunction,
    generator: np.random.Generator,
    config: MinimumConfig,
) -> Minimum | None:
    """As `search_minimum`; None if none was found."""
    try:
        return search_minimum(atoms, calculator, hessian, generator, config)
    except NotRelaxedError:
        return None


def search_minimum(
    atoms: Atoms,
    calculator: Calculator,
    hessian: HessianFunction,
    generator: np.random.Generator,
    config: MinimumConfig,
) -> Minimum:
    """Relax a structure to a true minimum near it.

    Args:
        atoms: Where to begin. Constraints are not supported: the translations are the only free directions.
        calculator: Gives energy, forces and, with the cell, stress.
        hessian: Gives the second derivatives at fixed cell; see `hessian_function`.
        generator: Draws the displacements.
        config: Effort and thresholds.

    Raises:
        NotRelaxedError: None was found: the relaxation did not converge, the cell collapsed or exploded, the curvature
            stayed negative or too small, or atoms ended on top of each other. The message is the reason.
    """
    if config.check == "rattle":
        return _settled(atoms, calculator, generator, config)
    current, flat = _lowest(atoms, calculator, generator, config), 0
    for _ in range(config.attempts):
        polished, second = _newton(current, calculator, hessian, config)
        curvature, modes = softest_modes(second, len(polished))
        if curvature >= config.min_curvature:
            return _accept(polished, calculator, curvature, config)
        flat += curvature > -config.min_curvature
        if flat > 1:  # not by chance: bonds too few to hold it
            raise NotRelaxedError("flat")
        # Which vectors span degenerate modes is a matter of rounding; a random vector's part in their space is not.
        direction = modes @ (modes.T @ generator.normal(size=len(modes)))
        pushed = _moved(polished, _STEP_DOWN * direction / np.linalg.norm(direction), config.cell)
        current = _again(pushed, 0.1 * config.rattle, calculator, generator, config, _ROUGH)
    raise NotRelaxedError("saddle point")


def _lowest(atoms: Atoms, calculator: Calculator, generator: np.random.Generator, config: MinimumConfig) -> Atoms:
    """The lowest of some relaxations, each from the displaced result of the one before."""
    lowest: tuple[float, Atoms] | None = None
    current = atoms
    for _ in range(config.relaxations):
        current = _again(current, config.rattle, calculator, generator, config, _ROUGH)
        energy = _energy(current, calculator)
        settled = lowest is not None and energy > lowest[0] - _SAME_ENERGY
        if lowest is None or energy < lowest[0]:
            lowest = energy, current
        if settled:
            break
    assert lowest is not None  # there is at least one relaxation
    return lowest[1]


def _settled(atoms: Atoms, calculator: Calculator, generator: np.random.Generator, config: MinimumConfig) -> Minimum:
    """Displaced and relaxed until that brings nothing lower."""
    current = _again(atoms, config.rattle, calculator, generator, config, config.fmax)
    energy = _energy(current, calculator)
    for _ in range(config.attempts):
        again = _again(current, config.rattle, calculator, generator, config, config.fmax)
        difference = (_energy(again, calculator) - energy) / len(atoms)
        if abs(difference) <= config.same_energy:
            return _accept(current, calculator, float("nan"), config)
        if difference < 0:
            current, energy = again, _energy(again, calculator)
    raise NotRelaxedError("does not come back to one minimum")


def _again(
    atoms: Atoms,
    rattle: float,
    calculator: Calculator,
    generator: np.random.Generator,
    config: MinimumConfig,
    fmax: float,
) -> Atoms:
    """Displaced, with the cell also strained a little, so that no symmetry is left; and relaxed."""
    try:
        start = perturb(atoms, rattle, generator)
    except StructureError as error:
        raise NotRelaxedError("atoms overlap") from error
    if config.cell:
        start = strained(start, _SHEAR * rattle, generator)
    return relaxed_with(start, calculator, fmax, config.steps, config.cell)


def _accept(atoms: Atoms, calculator: Calculator, curvature: float, config: MinimumConfig) -> Minimum:
    evaluated = atoms.copy()
    evaluated.calc = calculator
    fmax = residual(evaluated, config.cell)
    if fmax > config.fmax:
        raise NotRelaxedError("forces do not vanish")
    if closest_pair(atoms)[3] < MIN_SEPARATION:
        raise NotRelaxedError("atoms overlap")
    return Minimum(atoms, float(evaluated.get_potential_energy()), fmax, curvature)


def _energy(atoms: Atoms, calculator: Calculator) -> float:
    evaluated = atoms.copy()
    evaluated.calc = calculator
    return float(evaluated.get_potential_energy())


def _moved(atoms: Atoms, step: FloatArray, cell: bool) -> Atoms:
    """A copy moved by a step in positions, (3 n_atoms,), or in positions and strain, (3 n_atoms + 6,), Å."""
    moved = atoms.copy()
    if cell:
        crystal = StrainedCrystal(moved)
        crystal.set_x(crystal.get_x() + step)
    else:
        moved.positions += step.reshape(-1, 3)
    return moved


def _newton(
    atoms: Atoms, calculator: Calculator, hessian: HessianFunction, config: MinimumConfig
) -> tuple[Atoms, FloatArray]:
    """A copy moved to the stationary point at hand, far below `fmax`, so that rounding hardly shows in it.

    Returns:
        The copy, and the Hessian there, of positions or of positions and strain.
    """
    moved = atoms.copy()
    for _ in range(_NEWTON_STEPS):
        gradient = _gradient(moved, calculator, config.cell)
        if np.linalg.norm(gradient.reshape(-1, 3), axis=1).max() < 1e-3 * config.fmax:
            break
        step = -np.linalg.lstsq(_second(moved, calculator, hessian, config.cell), gradient, rcond=1e-6)[0]
        positions = step[: 3 * len(atoms)].reshape(-1, 3)
        positions -= positions.mean(axis=0)
        longest = np.linalg.norm(step.reshape(-1, 3), axis=1).max()
        moved = _moved(moved, step * min(1.0, _LARGEST_NEWTON_STEP / longest), config.cell)
    return moved, _second(moved, calculator, hessian, config.cell)


def _gradient(atoms: Atoms, calculator: Calculator, cell: bool) -> FloatArray:
    evaluated = atoms.copy()
    evaluated.calc = calculator
    if cell:
        return StrainedCrystal(evaluated).get_gradient()
    return -np.asarray(evaluated.get_forces(), dtype=np.float64).ravel()


def _second(atoms: Atoms, calculator: Calculator, hessian: HessianFunction, cell: bool) -> FloatArray:
    return hessian_with_strain(atoms, calculator, hessian) if cell else hessian(atoms)
