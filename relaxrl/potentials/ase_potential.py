"""Any ASE calculator as a `Potential`, one structure after another or several at once in a pool of processes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError

from relaxrl.errors import CalculatorError
from relaxrl.graph import AtomGraph
from relaxrl.io import atoms_from_graph
from relaxrl.potentials.base import Evaluation, Potential
from relaxrl.typing import FloatArray
from relaxrl.workers import worker_processes


class CalculatorFactory(Protocol):
    """What makes calculators; must be picklable where processes are used. `CalculatorSpec` is one."""

    def create(self) -> Any:
        """A new ASE calculator."""


class _Result(NamedTuple):
    energy: float
    forces: FloatArray
    stress: FloatArray | None
    failure: str | None


class ASEPotential(Potential):
    """An ASE calculator as a potential.

    One calculator per process serves all structures in turn, since some hold a large model. After it has raised, it is
    made anew. A structure for which it raises, or whose numbers are not finite, is failed; the others go on.

    Args:
        spec: Makes the calculator.
        workers: Processes to spread a batch over; 0 evaluates in this one. They are spawned, so a script that uses them
            needs `if __name__ == "__main__":`.

    Raises:
        ValueError: `workers` is negative.
    """

    def __init__(self, spec: CalculatorFactory, workers: int = 0) -> None:
        if workers < 0:
            raise ValueError(f"`workers` must not be negative, got {workers}")
        self.spec = spec
        self.workers = workers
        self._calculator: Any = None
        self._pool: ProcessPoolExecutor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_calculator": None, "_pool": None}

    def __enter__(self) -> ASEPotential:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The calculator's name."""
        return str(getattr(self.spec, "name", "calculator"))

    def close(self) -> None:
        """End the processes; another evaluation would start new ones."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def evaluate(self, graph: AtomGraph, stress: bool = False) -> Evaluation:
        """Evaluate all structures of the batch once.

        Raises:
            CalculatorError: The calculator can't be made, or has no stress at all while it was asked for.
        """
        structures = atoms_from_graph(graph)
        results = self._in_pool(structures, stress) if self.workers else self._here(structures, stress)
        device = graph.positions.device
        failures = {k: result.failure for k, result in enumerate(results) if result.failure is not None}
        failed = torch.zeros(graph.n_graphs, dtype=torch.bool, device=device)
        failed[list(failures)] = True
        tensor = None
        if stress:
            none = np.full((3, 3), np.nan)
            stresses = np.stack([none if result.stress is None else result.stress for result in results])
            tensor = torch.from_numpy(stresses).to(device)
        return Evaluation(
            energy=torch.tensor([result.energy for result in results], dtype=torch.float64, device=device),
            forces=torch.from_numpy(np.concatenate([result.forces for result in results])).to(device),
            failed=failed,
            messages=failures,
            stress=tensor,
        )

    def _here(self, structures: Iterable[Atoms], stress: bool) -> list[_Result]:
        results = []
        for atoms in structures:
            if self._calculator is None:
                self._calculator = self.spec.create()
            result = _evaluate(self._calculator, atoms, stress)
            if result.failure is not None:
                self._calculator = None
            results.append(result)
        return results

    def _in_pool(self, structures: list[Atoms], stress: bool) -> list[_Result]:
        """All at once; those that a dying process left without a result once more, one by one."""
        futures = self._submit(structures, stress)
        first = [_unless_broken(future) for future in futures]
        if None in first:
            self.close()
        return [result or self._once_more(atoms, stress) for result, atoms in zip(first, structures, strict=True)]

    def _once_more(self, atoms: Atoms, stress: bool) -> _Result:
        (future,) = self._submit([atoms], stress)
        result = _unless_broken(future)
        if result is None:
            self.close()
        return result or _failed(atoms, "the calculator's process died")

    def _submit(self, structures: list[Atoms], stress: bool) -> list[Future[_Result]]:
        if self._pool is None:
            self._pool = worker_processes(self.workers, _start_worker, (self.spec,))
        futures: list[Future[_Result]] = []
        for atoms in structures:
            try:
                futures.append(self._pool.submit(_evaluate_in_worker, atoms, stress))
            except BrokenProcessPool as error:
                futures.append(Future())
                futures[-1].set_exception(error)
        return futures


def _evaluate(calculator: Any, atoms: Atoms, stress: bool) -> _Result:
    tensor = None
    if stress and "stress" not in getattr(calculator, "implemented_properties", ("stress",)):
        raise CalculatorError(f"calculator {type(calculator).__name__} gives no stress; relax at fixed cell")
    try:
        atoms.calc = calculator
        if stress and atoms.cell.rank == 3:  # first: calculators then have energy and forces too, in one call
            tensor = np.asarray(atoms.get_stress(voigt=False), dtype=np.float64)
        forces = np.asarray(atoms.get_forces(), dtype=np.float64)
        energy = float(_consistent_energy(atoms))
    except Exception as error:  # whatever a calculator raises is the failure of this structure
        return _failed(atoms, f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
    finally:
        atoms.calc = None
    if not (np.isfinite(forces).all() and np.isfinite(energy)):
        return _failed(atoms, "energy or forces are not finite")
    return _Result(energy, forces, tensor, None)


def _consistent_energy(atoms: Atoms) -> float:
    """The energy whose derivative the forces are; some calculators have none under that name."""
    try:
        return float(atoms.get_potential_energy(force_consistent=True))
    except PropertyNotImplementedError:
        return float(atoms.get_potential_energy())


def _failed(atoms: Atoms, message: str) -> _Result:
    return _Result(np.nan, np.full((len(atoms), 3), np.nan), None, message)


def _unless_broken(future: Future[_Result]) -> _Result | None:
    try:
        return future.result()
    except BrokenProcessPool:
        return None


_create: Callable[[], Any] | None = None
_worker_calculator: Any = None


def _start_worker(spec: CalculatorFactory) -> None:
    """Prepares a process of the pool; the calculator itself is made at the first structure, where errors are heard."""
    global _create
    _create = spec.create
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle


def _evaluate_in_worker(atoms: Atoms, stress: bool) -> _Result:
    global _worker_calculator
    if _worker_calculator is None and _create is not None:
        _worker_calculator = _create()
    result = _evaluate(_worker_calculator, atoms, stress)
    if result.failure is not None:
        _worker_calculator = None
    return result
