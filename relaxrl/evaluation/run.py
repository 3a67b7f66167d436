"""One structure relaxed by one method, and everything about it that is worth knowing."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms

from relaxrl.envs.cohesion import came_apart
from relaxrl.errors import CalculatorError
from relaxrl.evaluation.film import Film, Geometry
from relaxrl.evaluation.methods import is_guided, make_optimizer
from relaxrl.io import graph_from_atoms
from relaxrl.optimize import Policy
from relaxrl.potentials import CalculatorSpec, CountedCalculator, EvaluationCounter
from relaxrl.potentials.counting import stress_as_force

THRESHOLDS = (0.1, 0.05, 0.01)
"""eV/Å; force evaluations until fmax is below each of them are read off one and the same run."""


@dataclass(frozen=True)
class Start:
    """A structure as all methods get it.

    Attributes:
        structure: Its id, `FILE#INDEX`.
        collection: The set it belongs to: FILE, folder or name as the user gave it.
        atoms: Without a calculator.
    """

    structure: str
    collection: str
    atoms: Atoms


@dataclass(frozen=True)
class Limits:
    """When a run ends.

    Attributes:
        fmax: eV/Å; converged below it.
        steps: Steps of the optimizer; one step may take several force evaluations.
        seconds: Wall-clock time; None for no limit.
        also: eV/Å, above fmax; forces at which tables compare as well.
        cell: Whether cells relax, too. Stress times volume over the number of atoms then counts among the forces, as in
            ASE's cell filters.
    """

    fmax: float = 0.01
    steps: int = 500
    seconds: float | None = None
    also: tuple[float, ...] = ()
    cell: bool = False

    @property
    def thresholds(self) -> tuple[float, ...]:
        """`THRESHOLDS`, those of `also`, and fmax, largest first."""
        return tuple(sorted({*THRESHOLDS, *self.also, self.fmax}, reverse=True))

    @property
    def censored(self) -> int:
        """Force evaluations that a failed run counts as, unless it took more."""
        return self.steps + 1


@dataclass(frozen=True)
class RunRecord:
    """The outcome of one run.

    Attributes:
        structure: `FILE#INDEX`.
        collection: Set that the structure belongs to.
        formula: Chemical formula.
        natoms: Number of atoms.
        method: Name of the method; agents as `agent:NAME`.
        converged: Whether the method says that fmax was reached, the energy is not above that of the start, and the
            structure is whole.
        reason: "converged"; "steps" or "time", which ran out; "energy_above_start"; "broken", the structure
            came apart; "calculator: ..." or "error: ...", what was said.
        force_evaluations: All of them, the first included.
        distinct_evaluations: Of different geometries; the rest repeat earlier ones.
        evaluations: Force evaluations until fmax first was at most each threshold; None where it never was, and for
            thresholds below the fmax asked for, where the run was not meant to go. At fmax itself, None as well for
            runs that are not converged.
        seconds: Wall-clock time.
        fmax: eV/Å, at the end; NaN if no forces were ever computed.
        energy: eV, at the end; NaN likewise.
        handover: Why the agent was relieved before the end; empty if it was not, and for methods without one.
        trace: fmax of each force evaluation, eV/Å; NaN where the calculator failed.
        energies: Energy of each, eV; NaN likewise.
        film: Its geometries; None where they were not kept.
    """

    structure: str
    collection: str
    formula: str
    natoms: int
    method: str
    converged: bool
    reason: str
    force_evaluations: int
    distinct_evaluations: int
    evaluations: dict[float, int | None]
    seconds: float
    fmax: float
    energy: float
    handover: str
    trace: list[float] = field(repr=False)
    energies: list[float] = field(default_factory=list, repr=False)
    film: Film | None = field(default=None, repr=False)


class _OutOfTime(BaseException):
    """The time of a run is over."""


class _TimedCounter(EvaluationCounter):
    """Counts, remembers geometries, and ends the run when its time is over."""

    def __init__(self, seconds: float | None) -> None:
        super().__init__()
        self.limit = seconds
        self.geometries: list[Geometry] = []

    def record(self, energy: float, fmax: float, geometry: Sequence[np.ndarray]) -> None:
        super().record(energy, fmax, geometry)
        if len(geometry) > 1:
            self.geometries.append((np.array(geometry[0]), np.array(geometry[1])))
        if self.limit is not None and self.seconds > self.limit:
            raise _OutOfTime


def run_method(
    start: Start, method: str, calculator: CalculatorSpec, limits: Limits, agents: Mapping[str, Policy] | None = None
) -> RunRecord:
    """Relax a copy of the structure with a fresh calculator; failures are part of the record, never raised.

    Args:
        start: The structure.
        method: A name of `methods.method_names()` or `agent:NAME`.
        calculator: Made anew for this run; `stored` for the structure's own.
        limits: When to stop.
        agents: Loaded agents by NAME.
    """
    with quiet():
        own = calculator.of(start.atoms, start.structure)
        return run_with(start, method, own.create(), limits, agents or {}, own)


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings: optimizers warn of what the record holds anyway (steps too long, line searches that fail)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def run_with(
    start: Start, method: str, made: Any, limits: Limits, agents: Mapping[str, Policy], calculator: CalculatorSpec
) -> RunRecord:
    """`run_method` with a calculator that was `made` already, and with all its warnings."""
    atoms = start.atoms.copy()
    counter = _TimedCounter(limits.seconds)
    atoms.calc = CountedCalculator(made, counter, start.structure, limits.cell)
    began = time.perf_counter()
    converged, reason, handover = _relax(atoms, method, limits, agents, calculator)
    seconds = time.perf_counter() - began
    # Before energy and forces are asked for: an optimizer may end at a geometry that has to be evaluated again.
    spent, distinct, trace, energies = counter.count, counter.distinct, list(counter.fmaxs), list(counter.energies)
    film = Film.of(atoms, counter.geometries)
    reached = {level: counter.evaluations_to(level) if level > limits.fmax else None for level in limits.thresholds}
    energy, fmax = _final(atoms, counter, limits.cell)
    if converged and _above(energy, counter.energies[0], len(atoms)):
        converged, reason = False, "energy_above_start"
    if converged and bool(came_apart(graph_from_atoms([start.atoms]), graph_from_atoms([atoms]))):
        converged, reason = False, "broken"
    if converged:
        # Filters that count a strain's logarithm may be content a trifle earlier.
        reached[limits.fmax] = counter.evaluations_to(limits.fmax) or (spent if limits.cell else None)
    return RunRecord(
        structure=start.structure,
        collection=start.collection,
        formula=atoms.get_chemical_formula(),
        natoms=len(atoms),
        method=method,
        converged=converged,
        reason=reason,
        force_evaluations=spent,
        distinct_evaluations=distinct,
        evaluations=reached,
        seconds=seconds,
        fmax=fmax,
        energy=energy,
        handover=handover,
        trace=trace,
        energies=energies,
        film=film,
    )


def _relax(
    atoms: Atoms, method: str, limits: Limits, agents: Mapping[str, Policy], calculator: CalculatorSpec
) -> tuple[bool, str, str]:
    """Whether it converged, why it ended, and why the agent was relieved."""
    optimizer, converged = None, False
    try:
        optimizer = make_optimizer(method, atoms, agents, calculator, limits.cell)
        converged = bool(optimizer.run(fmax=limits.fmax, steps=limits.steps))
        reason = "converged" if converged else "steps"
    except _OutOfTime:
        reason = "time"
    except CalculatorError as error:
        reason = f"calculator: {_one_line(error)}"
    except Exception as error:  # optimizers of several libraries: whatever they raise is a failure of theirs
        reason = f"error: {type(error).__name__}: {_one_line(error)}"
    return converged, reason, str(getattr(optimizer, "handover_reason", "")) if is_guided(method) else ""


def _final(atoms: Atoms, counter: EvaluationCounter, cell: bool) -> tuple[float, float]:
    """Energy and fmax where the atoms stand, or, if the calculator gives none any more, of the last evaluation."""
    try:
        counted: CountedCalculator = atoms.calc
        atoms.calc = counted.calculator  # a last look, neither counted nor timed
        fmax = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
        if cell:
            fmax = max(fmax, stress_as_force(atoms, atoms.get_stress()))
        energy = float(atoms.get_potential_energy())
        if np.isfinite(energy) and np.isfinite(fmax):
            return energy, fmax
    except Exception:  # it has failed before, and that is on record
        pass
    finite = [k for k, value in enumerate(counter.fmaxs) if np.isfinite(value)]
    return (counter.energies[finite[-1]], counter.fmaxs[finite[-1]]) if finite else (float("nan"), float("nan"))


def _above(energy: float, first: float, natoms: int) -> bool:
    """Whether an energy is above the first one by more than rounding, also that of a float32 potential."""
    return energy > first + max(1e-6 * natoms, 2e-7 * abs(first))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
