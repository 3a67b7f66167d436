"""The counter against calculators that count their own calls by hand."""

import copy
import pickle
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators import emt
from ase.constraints import FixAtoms, Hookean
from ase.filters import FrechetCellFilter
from ase.io import read
from ase.optimize import (
    BFGS,
    FIRE,
    FIRE2,
    LBFGS,
    BFGSLineSearch,
    GoodOldQuasiNewton,
    GPMin,
    MDMin,
)
from ase.optimize.precon import PreconLBFGS
from ase.optimize.sciopt import SciPyFminCG

from relaxrl.errors import CalculatorError
from relaxrl.io import graph_from_atoms
from relaxrl.potentials import EMT, CountedCalculator, CountedPotential, EvaluationCounter


class HandCounted(emt.EMT):  # type: ignore[misc] # ASE is untyped
    """EMT that notes each call of `calculate`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[float] = []

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = ("positions",)) -> None:
        super().calculate(atoms, properties, system_changes)
        self.calls.append(float(np.linalg.norm(self.results["forces"], axis=1).max()))


class Lazy(emt.EMT):  # type: ignore[misc] # ASE is untyped
    """Computes only what it is asked for, as some quantum codes do."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = ("positions",)) -> None:
        super().calculate(atoms, properties, system_changes)
        self.calls.append(properties[0])
        self.results = {key: self.results[key] for key in {"energy", *properties}}


class Faulty(emt.EMT):  # type: ignore[misc] # ASE is untyped
    """Raises, or returns NaN, from the third call on."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault, self.calls = fault, 0

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = ("positions",)) -> None:
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        if self.calls < 3:
            return
        if self.fault == "raise":
            raise RuntimeError("SCF did not converge")
        if self.fault == "energy":
            self.results["energy"] = np.inf
        else:
            self.results["forces"][0] = np.nan


def crystal() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.numbers[0] = 79
    atoms.rattle(0.15, seed=3)
    return atoms


METHODS: list[Any] = [BFGS, LBFGS, BFGSLineSearch, FIRE, FIRE2, MDMin, GPMin, GoodOldQuasiNewton, SciPyFminCG]
METHODS.append(partial(PreconLBFGS, precon="Exp"))  # chosen by itself only for a hundred atoms and more


@pytest.mark.parametrize("method", METHODS)
def test_counts_what_each_optimizer_calls(method: Any) -> None:
    atoms, calculator = crystal(), HandCounted()
    atoms.calc = CountedCalculator(calculator)
    counter = atoms.calc.counter
    method(atoms, logfile=None).run(fmax=0.05, steps=60)
    assert counter.count == len(calculator.calls) > 3
    np.testing.assert_allclose(counter.fmaxs, calculator.calls)
    reached = next(k for k, fmax in enumerate(calculator.calls, start=1) if fmax <= 0.05)
    assert counter.evaluations_to(0.05) == reached
    assert counter.evaluations_to(1e-9) is None


@pytest.mark.parametrize("method", [BFGS, BFGSLineSearch, FIRE])
def test_counts_under_a_cell_filter(method: Any) -> None:
    atoms, calculator = crystal(), HandCounted()
    atoms.calc = CountedCalculator(calculator)
    method(FrechetCellFilter(atoms), logfile=None).run(fmax=0.05, steps=15)
    assert atoms.calc.counter.count == len(calculator.calls) > 3


def test_the_path_is_that_of_the_bare_calculator() -> None:
    bare, counted = crystal(), crystal()
    bare.calc, counted.calc = emt.EMT(), CountedCalculator(emt.EMT())
    for atoms in (bare, counted):
        BFGS(atoms, logfile=None).run(fmax=0.01, steps=30)
    assert np.array_equal(bare.positions, counted.positions)
    assert counted.get_potential_energy() == bare.get_potential_energy()
    assert np.array_equal(counted.get_stress(), bare.get_stress())


def test_results_at_hand_are_not_evaluations_but_recalculations_are() -> None:
    atoms = crystal()
    atoms.calc = CountedCalculator(HandCounted())
    counter = atoms.calc.counter
    for _ in range(3):
        atoms.get_forces()
        atoms.get_potential_energy()
        atoms.get_stress()
    assert (counter.count, counter.distinct) == (1, 1)
    start = atoms.positions.copy()
    atoms.positions[0, 0] += 0.1
    atoms.get_forces()
    atoms.positions = start + 1e-12  # where a cell filter returns to
    atoms.get_forces()
    assert (counter.count, counter.distinct) == (3, 2)
    atoms.calc.calculate(atoms, ["forces"], [])
    assert (counter.count, counter.distinct) == (4, 2)
    assert len(counter.energies) == len(counter.fmaxs) == len(counter.times) == 4
    assert counter.times == sorted(counter.times)


def test_calls_for_the_energy_alone_are_counted_apart() -> None:
    atoms, calculator = crystal(), Lazy()
    atoms.calc = CountedCalculator(calculator)
    atoms.get_potential_energy()
    atoms.get_forces()
    atoms.get_stress()
    assert calculator.calls == ["energy", "forces", "stress"]
    assert (atoms.calc.counter.count, atoms.calc.counter.energy_calls) == (1, 2)


def test_fmax_and_energy_are_those_of_the_constrained_structure() -> None:
    atoms = crystal()
    atoms.calc = CountedCalculator(emt.EMT())
    free = np.linalg.norm(atoms.get_forces(), axis=1)
    hardest = int(free.argmax())
    atoms.set_constraint(FixAtoms([hardest]))
    atoms.calc.calculate(atoms, ["forces"], [])
    expected = np.delete(free, hardest).max()
    assert atoms.calc.counter.fmaxs == pytest.approx([free.max(), expected])
    atoms.set_constraint(Hookean(a1=0, a2=1, rt=1.0, k=5.0))
    atoms.calc.calculate(atoms, ["forces"], [])
    assert atoms.calc.counter.energies[-1] == pytest.approx(atoms.get_potential_energy())
    assert atoms.calc.counter.fmaxs[-1] == pytest.approx(np.linalg.norm(atoms.get_forces(), axis=1).max())


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("raise", "raised RuntimeError: SCF did not converge"),
        ("forces", "returned forces that are not finite"),
        ("energy", "said inf"),
    ],
)
def test_failures_name_calculator_structure_and_evaluation(fault: str, said: str) -> None:
    atoms = crystal()
    atoms.calc = CountedCalculator(Faulty(fault), structure="train.extxyz#7")
    with pytest.raises(CalculatorError, match=rf"calculator faulty, structure train.extxyz#7, .* 3: .*{said}"):
        BFGS(atoms, logfile=None).run(fmax=1e-6, steps=10)
    assert atoms.calc.counter.count == 3
    assert np.isnan(atoms.calc.counter.fmaxs[2])
    with pytest.raises(CalculatorError, match="force evaluation 4"):  # no NaN from the cache
        atoms.get_forces()


def test_other_attributes_and_missing_properties_pass_through(tmp_path: Any) -> None:
    atoms = crystal()
    atoms.calc = CountedCalculator(emt.EMT())
    assert atoms.calc.name == "emt"
    with pytest.raises(NotImplementedError, match="dipole"):
        atoms.get_dipole_moment()
    assert atoms.calc.counter.count == 0
    atoms.get_forces()
    atoms.write(tmp_path / "structure.extxyz")
    np.testing.assert_allclose(read(tmp_path / "structure.extxyz").get_forces(), atoms.get_forces(), atol=1e-7)
    assert copy.deepcopy(atoms.calc).counter.count == 1
    assert pickle.loads(pickle.dumps(CountedCalculator(emt.EMT()))).name == "emt"


def test_reset_forgets() -> None:
    atoms = crystal()
    atoms.calc = CountedCalculator(emt.EMT())
    atoms.get_forces()
    atoms.calc.counter.reset()
    assert (atoms.calc.counter.count, atoms.calc.counter.distinct, atoms.calc.counter.fmaxs) == (0, 0, [])


def test_counted_potential_counts_each_structure() -> None:
    graph = graph_from_atoms([crystal(), bulk("Al"), bulk("Fe")])
    together = CountedPotential(EMT(), EvaluationCounter())
    evaluation = together.evaluate(graph)
    together.evaluate(graph)
    assert isinstance(together.counter, EvaluationCounter)
    assert (together.counter.count, together.counter.distinct) == (6, 3)
    each = [EvaluationCounter() for _ in range(3)]
    CountedPotential(EMT(), each).evaluate(graph)
    assert [counter.count for counter in each] == [1, 1, 1]
    assert each[0].energies == pytest.approx([float(evaluation.energy[0])])
    expected = torch.linalg.vector_norm(evaluation.forces[:4], dim=1).max()
    assert each[0].fmaxs == pytest.approx([float(expected)])
    assert np.isnan(each[2].fmaxs[0])
    with pytest.raises(ValueError, match="expected 3 structures"):
        CountedPotential(EMT(), each).evaluate(graph_from_atoms(bulk("Al")))
