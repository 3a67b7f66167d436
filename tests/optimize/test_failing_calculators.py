"""Calculators that fail, whose forces belong to no energy, or that are interrupted."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT

from relaxrl.errors import CalculatorError
from relaxrl.optimize import RLOptimizer


class Downhill:
    """Steepest descent as an agent."""

    def act(self, graph):
        return 0.03 * graph.forces


def alloy(calculator, repeat=(1, 1, 1)):
    atoms = bulk("Cu", cubic=True) * repeat
    generator = np.random.default_rng(0)
    atoms.symbols[:] = generator.choice(["Cu", "Au", "Ni"], len(atoms))
    atoms.positions += generator.normal(scale=0.15, size=atoms.positions.shape)
    atoms.calc = calculator
    return atoms


class Failing(EMT):
    """EMT that fails at some calls."""

    def __init__(self, fails, how="raise"):
        super().__init__()
        self.fails = fails
        self.how = how
        self.calls = 0

    def calculate(self, *args, **kwargs):
        self.calls += 1
        super().calculate(*args, **kwargs)
        if self.fails(self.calls):
            if self.how == "raise":
                raise RuntimeError("SCF did not converge")
            if self.how == "interrupt":
                raise KeyboardInterrupt
            self.results["forces"] = self.results["forces"] * np.nan


@pytest.mark.parametrize("how", ["raise", "nan"])
@pytest.mark.parametrize("agent", [None, Downhill()])
def test_a_calculator_that_fails_once_is_asked_again_closer_by(how, agent):
    atoms = alloy(Failing(lambda call: call == 3, how))
    optimizer = RLOptimizer(atoms, agent=agent, logfile=None)
    assert optimizer.run(fmax=0.01, steps=200)
    assert optimizer.force_evaluations == atoms.calc.calls


@pytest.mark.parametrize("how", ["raise", "nan"])
def test_a_calculator_that_keeps_failing_leaves_the_last_good_geometry(how):
    atoms = alloy(Failing(lambda call: call > 3, how))
    accepted = []
    optimizer = RLOptimizer(atoms, agent=Downhill(), logfile=None)
    optimizer.attach(lambda: accepted.append(atoms.positions.copy()))
    with pytest.raises(CalculatorError, match="failed at 5 geometries in a row"):
        optimizer.run(fmax=0.01, steps=200)
    np.testing.assert_array_equal(atoms.positions, accepted[-1])
    assert np.isfinite(atoms.positions).all()


@pytest.mark.parametrize("how", ["raise", "nan"])
def test_a_calculator_that_fails_at_the_start_is_named(how):
    atoms = alloy(Failing(lambda call: True, how))  # noqa: ARG005 (a predicate of the call number)
    start = atoms.positions.copy()
    with pytest.raises(CalculatorError, match="first geometry"):
        RLOptimizer(atoms, agent=None, logfile=None).run(fmax=0.01)
    np.testing.assert_array_equal(atoms.positions, start)


def test_without_a_calculator_it_says_so():
    with pytest.raises(CalculatorError, match="no calculator"):
        RLOptimizer(bulk("Cu"), agent=None, logfile=None).run()


def test_ctrl_c_leaves_the_last_good_geometry():
    atoms = alloy(Failing(lambda call: call == 3, "interrupt"))
    accepted = []
    optimizer = RLOptimizer(atoms, agent=Downhill(), logfile=None)
    optimizer.attach(lambda: accepted.append(atoms.positions.copy()))
    with pytest.raises(KeyboardInterrupt):
        optimizer.run(fmax=0.01)
    np.testing.assert_array_equal(atoms.positions, accepted[-1])


class Inconsistent(Calculator):
    """Forces that are no gradient: they turn around a centre, with an energy that never changes."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        forces = np.zeros((len(atoms), 3))
        forces[:, 0], forces[:, 1] = -atoms.positions[:, 1] - 5, atoms.positions[:, 0] + 5
        self.results = {"energy": 0.0, "forces": forces}


def test_forces_that_are_no_gradient_end_in_an_error_not_in_an_endless_loop():
    atoms = Atoms("Cu2", positions=[[0, 0, 0], [2.5, 0, 0]], calculator=Inconsistent())
    with pytest.raises(CalculatorError, match="gradient of the energy"):
        RLOptimizer(atoms, agent=None, logfile=None).run(fmax=0.01)
    assert np.isfinite(atoms.positions).all()


def test_noisy_energies_of_single_precision_don_t_stop_it():
    class Rounded(EMT):
        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            shifted = np.float32(self.results["energy"] - 500.0)
            self.results["energy"] = self.results["free_energy"] = float(shifted)
            self.results["forces"] = self.results["forces"].astype(np.float32).astype(float)

    atoms = alloy(Rounded(), repeat=(2, 1, 1))
    assert RLOptimizer(atoms, agent=None, logfile=None).run(fmax=0.001, steps=100)
