"""Force evaluations, counted in one place: they are the cost of a relaxation.

A *force evaluation* is one call of the calculator that computes forces, the first of a relaxation included. Reading a
result that the calculator still holds is none; computing the same geometry again is one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.abc import GetPropertiesMixin
from ase.calculators.calculator import PropertyNotImplementedError, all_changes
from ase.stress import voigt_6_to_full_3x3_stress

from relaxrl.errors import CalculatorError
from relaxrl.graph import AtomGraph, force_norms
from relaxrl.potentials.base import Evaluation, Potential
from relaxrl.typing import FloatArray

_GEOMETRY_DECIMALS = 8
"""Geometries that agree to this many decimals (Å) are one: cell filters return to a point only to round-off."""


class EvaluationCounter:
    """What was evaluated since it was made or reset.

    Attributes:
        count: Force evaluations, failed ones included.
        energy_calls: Calls of the calculator that computed an energy only; not part of `count`.
        energies: Energy of each force evaluation, eV; NaN where it failed.
        fmaxs: F_max of each, eV/Å, after the structure's constraints; NaN where it failed.
        times: When each ended, in seconds since the start.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything and start the clock again."""
        self.count = 0
        self.energy_calls = 0
        self.energies: list[float] = []
        self.fmaxs: list[float] = []
        self.times: list[float] = []
        self.started = time.perf_counter()
        self._geometries: set[bytes] = set()

    @property
    def distinct(self) -> int:
        """How many different geometries were evaluated; the rest of `count` were repetitions."""
        return len(self._geometries)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.started

    def record(self, energy: float, fmax: float, geometry: Sequence[np.ndarray]) -> None:
        """Count one force evaluation.

        Args:
            energy: eV.
            fmax: eV/Å.
            geometry: Arrays that together are the geometry: positions, cell, and what else may change.
        """
        self.count += 1
        self.energies.append(energy)
        self.fmaxs.append(fmax)
        self.times.append(self.seconds)
        # Adding 0.0 turns -0.0 into 0.0, whose bytes differ.
        rounded = [np.round(np.asarray(array, dtype=np.float64), _GEOMETRY_DECIMALS) + 0.0 for array in geometry]
        self._geometries.add(b"".join(array.tobytes() for array in rounded))

    def evaluations_to(self, fmax: float) -> int | None:
        """Force evaluations until F_max was first at most `fmax` (eV/Å), that one included; None if it never was."""
        for number, reached in enumerate(self.fmaxs, start=1):
            if reached <= fmax:
                return number
        return None


class CountedCalculator(GetPropertiesMixin):
    """An ASE calculator whose force evaluations are counted; all else passes through to it.

    It watches the calculator's own `calculate`, so that its cache goes on to decide what is a new evaluation.

    Args:
        calculator: Any ASE calculator.
        counter: Where to count; a new one if None.
        structure: What error messages call the structure; its formula if None.
        stress: Whether the stress counts in F_max, as ASE's cell filters count it.

    Raises:
        CalculatorError: On evaluation, where the calculator raised or returned numbers that are not finite; names
            calculator, structure and the number of the evaluation.
    """

    def __init__(
        self,
        calculator: Any,
        counter: EvaluationCounter | None = None,
        structure: str | None = None,
        stress: bool = False,
    ) -> None:
        self.calculator = calculator
        self.stress = stress
        self.counter = EvaluationCounter() if counter is None else counter
        self.structure = structure

    def __getattr__(self, name: str) -> Any:
        # Reached only for what this class lacks. Unpickling asks before `calculator` is there.
        if name.startswith("__") or name == "calculator":
            raise AttributeError(name)
        return getattr(self.calculator, name)

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """The property, from the calculator's cache or from a counted calculation."""
        return self._watched(atoms, lambda: self.calculator.get_property(name, atoms, allow_calculation))

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Make the calculator calculate, whether it needs to or not."""
        self._watched(atoms, lambda: self.calculator.calculate(atoms, list(properties), list(system_changes)))

    def _watched(self, atoms: Atoms | None, call: Callable[[], Any]) -> Any:
        """`call()`, with the calculator's `calculate` replaced for so long by one that counts."""
        calculator = self.calculator
        replaced = vars(calculator).get("calculate")
        original = calculator.calculate

        def calculate(*args: Any, **kwargs: Any) -> None:
            try:
                original(*args, **kwargs)
            except PropertyNotImplementedError:
                self._record(atoms)
                raise
            except Exception as error:
                self._forget()
                said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                raise self._failure(atoms, f"raised {said}") from error
            self._record(atoms)

        calculator.calculate = calculate
        try:
            return call()
        finally:
            if replaced is None:
                del calculator.calculate
            else:
                calculator.calculate = replaced

    def _record(self, atoms: Atoms | None) -> None:
        results = self.calculator.results
        atoms = self.calculator.atoms if atoms is None else atoms
        energy = float(results.get("energy", np.nan))
        if "forces" not in results:
            self.counter.energy_calls += 1
            if "energy" in results and not np.isfinite(energy):
                self._forget()
                raise CalculatorError(f"{self._named(atoms)}: the energy is {energy}, expected a finite number")
            return
        forces = np.array(results["forces"], dtype=np.float64)
        bad = "forces" if not np.isfinite(forces).all() else "energy"
        if bad == "forces" or ("energy" in results and not np.isfinite(energy)):
            self._forget()
            raise self._failure(atoms, f"returned {bad} that are not finite" if bad == "forces" else f"said {energy}")
        for constraint in atoms.constraints:
            if hasattr(constraint, "adjust_potential_energy"):
                energy += constraint.adjust_potential_energy(atoms)
            constraint.adjust_forces(atoms, forces)
        fmax = largest_norm(forces)
        if self.stress and "stress" in results:
            fmax = max(fmax, stress_as_force(atoms, results["stress"]))
        self.counter.record(energy, fmax, _geometry(atoms))

    def _forget(self) -> None:
        """Empty the calculator's cache, or the next call would be handed what the failed one left there."""
        if hasattr(self.calculator, "reset"):
            self.calculator.reset()
        else:
            self.calculator.results = {}

    def _failure(self, atoms: Atoms | None, what: str) -> CalculatorError:
        """Counts the failed evaluation and says what happened."""
        atoms = self.calculator.atoms if atoms is None else atoms
        self.counter.record(np.nan, np.nan, () if atoms is None else _geometry(atoms))
        return CalculatorError(f"{self._named(atoms)}, force evaluation {self.counter.count}: the calculator {what}")

    def _named(self, atoms: Atoms | None) -> str:
        name = getattr(self.calculator, "name", type(self.calculator).__name__)
        structure = self.structure or ("an unknown structure" if atoms is None else atoms.get_chemical_formula())
        return f"calculator {name}, structure {structure}"


class CountedPotential(Potential):
    """A potential whose evaluations are counted, one for each structure of a batch.

    Args:
        potential: What evaluates.
        counter: One counter for all, or one for each place in the batch.
    """

    def __init__(self, potential: Potential, counter: EvaluationCounter | Sequence[EvaluationCounter]) -> None:
        self.potential = potential
        self.counter = counter

    def evaluate(self, graph: AtomGraph, stress: bool = False) -> Evaluation:
        """Evaluate all structures once, and count each.

        Raises:
            ValueError: There is one counter for each place, and the batch has another number of structures.
        """
        one = isinstance(self.counter, EvaluationCounter)
        counters = [self.counter] * graph.n_graphs if isinstance(self.counter, EvaluationCounter) else self.counter
        if not one and len(counters) != graph.n_graphs:
            raise ValueError(f"expected {len(counters)} structures, one for each counter, got {graph.n_graphs}")
        evaluation = self.potential.evaluate(graph, stress)
        sizes = graph.atoms_per_graph.tolist()
        norms = np.split(force_norms(evaluation.forces).cpu().numpy(), np.cumsum(sizes)[:-1])
        positions = np.split(graph.positions.detach().cpu().numpy(), np.cumsum(sizes)[:-1])
        numbers = np.split(graph.atomic_numbers.cpu().numpy(), np.cumsum(sizes)[:-1])
        cells = graph.cell.detach().cpu().numpy()
        energies, failed = evaluation.energy.tolist(), evaluation.failed.tolist()
        for k, counter in enumerate(counters):
            energy, fmax = (np.nan, np.nan) if failed[k] else (energies[k], float(norms[k].max(initial=0.0)))
            counter.record(energy, fmax, (positions[k], cells[k], numbers[k]))
        return evaluation


def largest_norm(forces: FloatArray) -> float:
    """F_max = max_i |F_i| of forces (n_atoms, 3); 0 without atoms."""
    return float(np.linalg.norm(forces, axis=1).max(initial=0.0))


def stress_as_force(atoms: Atoms, stress: FloatArray) -> float:
    """The longest row of stress times volume over the number of atoms, eV: what ASE's cell filters compare to fmax."""
    full = stress if np.shape(stress) == (3, 3) else voigt_6_to_full_3x3_stress(stress)
    return largest_norm(np.asarray(full, dtype=np.float64)) * float(atoms.get_volume()) / max(len(atoms), 1)


def _geometry(atoms: Atoms) -> tuple[np.ndarray, ...]:
    return atoms.positions, atoms.cell.array, atoms.numbers
