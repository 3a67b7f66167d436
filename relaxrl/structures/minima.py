"""True minima: relaxed with rattle and re-relaxation until the Hessian has no direction left that leads down.

A symmetric crystal relaxed without noise stays on the saddle point that its symmetry pins it to. Published "relaxed"
structures are full of such points, and an agent that is rewarded for reaching them learns to stop on saddles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, CalculatorSetupError, PropertyNotImplementedError
from ase.optimize import BFGS

from relaxrl.config import configclass
from relaxrl.io import graph_from_atoms
from relaxrl.potentials import Potential, TorchPotential, parse_calculator
from relaxrl.structures.check import closest_pair
from relaxrl.structures.crystal import MIN_SEPARATION, perturb
from relaxrl.typing import FloatArray

HessianFunction = Callable[[Atoms], FloatArray]
"""Structure in; second derivatives of its energy out, (3 n_atoms, 3 n_atoms), eV/Å²."""

_ALPHA = 10.0
"""Initial curvature of BFGS, eV/Å²; ASE's default of 70 needs more than twice the force evaluations."""

_STEP_DOWN = 0.3
"""Å, length of the displacement along a mode of negative curvature."""

_NEWTON_STEPS = 12
_LARGEST_NEWTON_STEP = 0.1
"""Å; a longer step would leave the basin that the Hessian describes."""

_DEGENERATE = 1e-3
"""eV/Å²; modes whose curvatures differ by less are treated alike."""

_DIGITS = 6
"""Decimals, Å, that a relaxation hands on: rounding errors die here instead of growing in the next one."""

_SAME_ENERGY = 1e-4
"""eV; relaxations that end closer than this have ended in one minimum."""


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

    def __post_init__(self) -> None:
        if self.fmax <= 0 or self.min_curvature < 0 or self.rattle < 0:
            raise ValueError("`fmax` must be positive, `min_curvature` and `rattle` must not be negative")
        if self.relaxations < 1 or self.attempts < 1 or self.steps < 1:
            raise ValueError("`relaxations`, `attempts` and `steps` must be at least 1")


@dataclass(frozen=True)
class Minimum:
    """A structure from which every small displacement leads up.

    Attributes:
        atoms: The structure, without a calculator.
        energy: eV.
        fmax: Largest force on an atom, eV/Å.
        curvature: Smallest eigenvalue of the Hessian with translations taken out, eV/Å².
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
    """Relax a structure at fixed cell to a true minimum near it.

    Args:
        atoms: Where to begin. Constraints are not supported: the translations are the only free directions.
        calculator: Gives energy and forces.
        hessian: Gives the second derivatives; see `hessian_function`.
        generator: Draws the displacements.
        config: Effort and thresholds.

    Returns:
        The minimum, or None if none was found: the relaxation did not converge, the curvature stayed negative or too
        small, or atoms ended on top of each other.
    """
    lowest = None
    current = atoms
    for _ in range(config.relaxations):
        relaxed = relax(perturb(current, config.rattle, generator), calculator, 1e-3, config.steps)
        if relaxed is None:
            return None
        energy = energy_and_forces(relaxed, calculator)[0]
        settled = lowest is not None and energy > lowest[0] - _SAME_ENERGY
        if lowest is None or energy < lowest[0]:
            lowest = energy, relaxed
        if settled:
            break
        current = relaxed
    if lowest is None:  # pragma: no cover - relaxations >= 1
        return None
    current = lowest[1]
    for _ in range(config.attempts):
        polished = _newton(current, calculator, hessian, config)
        if polished is None:
            return None
        curvature, modes = softest_modes(hessian(polished))
        if curvature >= config.min_curvature:
            return _accept(polished, calculator, curvature, config)
        pushed = polished.copy()
        # Which vectors span degenerate modes is a matter of rounding; a random vector's part in their space is not.
        direction = modes @ (modes.T @ generator.normal(size=len(modes)))
        pushed.positions += _STEP_DOWN * (direction / np.linalg.norm(direction)).reshape(-1, 3)
        relaxed = relax(perturb(pushed, 0.1 * config.rattle, generator), calculator, 1e-3, config.steps)
        if relaxed is None:
            return None
        current = relaxed
    return None


def _accept(atoms: Atoms, calculator: Calculator, curvature: float, config: MinimumConfig) -> Minimum | None:
    energy, forces = energy_and_forces(atoms, calculator)
    fmax = float(np.linalg.norm(forces, axis=1).max())
    if fmax > config.fmax or closest_pair(atoms)[3] < MIN_SEPARATION:
        return None
    return Minimum(atoms, energy, fmax, curvature)


def relax(atoms: Atoms, calculator: Calculator, fmax: float, steps: int) -> Atoms | None:
    """A copy relaxed by BFGS at fixed cell, without its calculator; None where that fails."""
    relaxed = atoms.copy()
    relaxed.calc = calculator
    optimizer = BFGS(relaxed, logfile=None, alpha=_ALPHA)
    try:
        converged = optimizer.run(fmax=fmax, steps=steps)
    except (CalculatorSetupError, PropertyNotImplementedError, NotImplementedError):
        raise  # the calculator does not fit the structure: no displacement would help
    except (RuntimeError, ValueError, ArithmeticError, np.linalg.LinAlgError):
        return None
    relaxed.calc = None
    relaxed.positions[:] = np.round(relaxed.positions, _DIGITS)
    return relaxed if converged else None


def energy_and_forces(atoms: Atoms, calculator: Calculator) -> tuple[float, FloatArray]:
    """Energy in eV and forces (n_atoms, 3) in eV/Å."""
    evaluated = atoms.copy()
    evaluated.calc = calculator
    return float(evaluated.get_potential_energy()), np.asarray(evaluated.get_forces(), dtype=np.float64)


def softest_modes(hessian: FloatArray) -> tuple[float, FloatArray]:
    """The smallest eigenvalue, eV/Å², and the modes that have it, with the three translations taken out.

    Args:
        hessian: (3 n_atoms, 3 n_atoms), eV/Å², symmetric.

    Returns:
        The eigenvalue, and orthonormal vectors (3 n_atoms, n_modes) that span all modes within a small distance of it:
        symmetric crystals have degenerate ones. A single atom of a crystal has nothing but translations: infinity and
        no modes.
    """
    n_atoms = len(hessian) // 3
    if n_atoms == 1:
        return float("inf"), np.zeros((3, 0))
    translations = np.tile(np.eye(3), (n_atoms, 1)) / np.sqrt(n_atoms)
    # Translations are lifted above all other modes rather than projected to zero, where a soft mode may lie as well.
    top = float(np.abs(hessian).sum(axis=1).max()) + 1.0
    without = hessian - translations @ (translations.T @ hessian)
    without = without - (without @ translations) @ translations.T + top * translations @ translations.T
    values, vectors = np.linalg.eigh(0.5 * (without + without.T))
    return float(values[0]), vectors[:, values <= values[0] + _DEGENERATE]


def _newton(atoms: Atoms, calculator: Calculator, hessian: HessianFunction, config: MinimumConfig) -> Atoms | None:
    """A copy moved to the stationary point at hand, far below `fmax`, so that rounding hardly shows in it."""
    moved = atoms.copy()
    for _ in range(_NEWTON_STEPS):
        forces = energy_and_forces(moved, calculator)[1]
        if np.linalg.norm(forces, axis=1).max() < 1e-3 * config.fmax:
            break
        step = np.linalg.lstsq(hessian(moved), forces.ravel(), rcond=1e-6)[0].reshape(-1, 3)
        step -= step.mean(axis=0)
        longest = np.linalg.norm(step, axis=1).max()
        moved.positions += step * min(1.0, _LARGEST_NEWTON_STEP / longest)
    return moved


def surface(calculator: str) -> tuple[Calculator, HessianFunction]:
    """A new calculator of this name and its Hessian.

    Each structure needs its own: calculators keep neighbour lists and other state, and what one structure leaves behind
    would show in the last digits of the next, and at times in the minimum that it falls into.
    """
    spec = parse_calculator(calculator)
    made = spec.create()
    return made, hessian_function(made, spec.potential())


def hessian_function(calculator: Calculator, potential: Potential | None = None) -> HessianFunction:
    """Analytic second derivatives where the potential has them, else finite differences of the calculator's forces."""
    if isinstance(potential, TorchPotential):
        analytic = potential
        return lambda atoms: analytic.hessian(graph_from_atoms(atoms))[0].detach().numpy()
    return lambda atoms: finite_difference_hessian(atoms, calculator)


def finite_difference_hessian(atoms: Atoms, calculator: Calculator, step: float = 5e-3) -> FloatArray:
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
