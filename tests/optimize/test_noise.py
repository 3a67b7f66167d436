import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import all_changes
from ase.calculators.emt import EMT

from relaxrl.errors import CalculatorError
from relaxrl.optimize import RLOptimizer
from relaxrl.optimize.noise import NUDGE, fell_off, noise
from relaxrl.optimize.surface import FixedCellSurface


class Noisy(EMT):
    """EMT with random errors of forces (eV/Å), energy (eV) and stress."""

    def __init__(self, of_forces, of_energy=0.0, seed=0):
        super().__init__()
        self.of_forces, self.of_energy = of_forces, of_energy
        self.generator = np.random.default_rng(seed)
        self.calls = 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        noisy = self.results["forces"] + self.generator.normal(0, self.of_forces, (len(atoms), 3))
        energy = self.results["energy"] + self.generator.normal(0, self.of_energy)
        self.results |= {"forces": noisy, "energy": energy, "free_energy": energy}
        self.results["stress"] = self.results["stress"] + self.generator.normal(0, self.of_forces / 20, 6)


def alloy(calculator, seed=0):
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.symbols[::3] = "Au"
    atoms.rattle(0.12, seed=seed)
    atoms.calc = calculator
    return atoms


@pytest.mark.parametrize("cell", [False, True])
@pytest.mark.parametrize("agent", ["metals", None])
@pytest.mark.parametrize("of_energy", [0.0, 1e-3])
def test_above_its_noise_a_calculator_is_relaxed_as_ever(agent, cell, of_energy):
    atoms = alloy(Noisy(1e-3, of_energy))
    optimizer = RLOptimizer(atoms, agent=agent, cell=cell, logfile=None)
    assert optimizer.run(fmax=0.02, steps=100)
    assert optimizer.force_evaluations == atoms.calc.calls < 20
    atoms.calc = EMT()
    assert np.linalg.norm(atoms.get_forces(), axis=1).max() < 0.02 + 5e-3


@pytest.mark.parametrize("cell", [False, True])
@pytest.mark.parametrize("agent", ["metals", None])
@pytest.mark.parametrize("of_energy", [0.0, 0.1])
def test_below_its_noise_the_end_is_orderly_and_says_why(agent, cell, of_energy):
    atoms = alloy(Noisy(0.1, of_energy))
    optimizer = RLOptimizer(atoms, agent=agent, cell=cell, logfile=None)
    with pytest.raises(CalculatorError, match=r"changes its mind: .* forces differ by 0\.\d+ eV/Å"):
        optimizer.run(fmax=0.01, steps=1000)
    assert optimizer.force_evaluations == atoms.calc.calls < 250
    atoms.calc = EMT()
    assert np.linalg.norm(atoms.get_forces(), axis=1).max() < 2  # the good part of the way was not lost


def test_noise_is_measured_where_the_atoms_stand():
    atoms = alloy(Noisy(0.0))
    surface = FixedCellSurface(atoms)
    here = surface.here()
    found = noise(surface, here, fmax=0.01)
    assert found.size < 100 * NUDGE
    assert found.evaluations == 1
    np.testing.assert_array_equal(atoms.positions.ravel(), here.x)
    atoms.calc = Noisy(0.05)
    found = [noise(surface, surface.here(), fmax=0.01) for _ in range(20)]
    assert {one.evaluations for one in found} == {2}
    # The largest of eight vectors, of normal deviates in each component; the smallest of three ways to measure it.
    assert 0.05 * 1.8 < np.mean([one.size for one in found]) < 0.05 * 2.7


class Rough(EMT):
    """EMT with another term for the first component of the first atom's position, Å: its energy, eV, and slope."""

    def __init__(self, term):
        super().__init__()
        self.term, self.calls = term, 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        energy, slope = self.term(float(atoms.positions[0, 0]))
        forces = self.results["forces"].copy()
        forces[0, 0] -= slope
        energy += self.results["energy"]
        self.results |= {"forces": forces, "energy": energy, "free_energy": energy}


def at(term, x=0.0):
    atoms = bulk("Cu", cubic=True)
    atoms.calc = Rough(term)
    atoms.positions[0, 0] = x
    surface = FixedCellSurface(atoms)
    return surface, surface.here()


def test_steep_curves_kinks_and_cliffs_are_no_noise():
    """Not even where a nudge goes across."""
    terms = {
        "curve": lambda x: (0.5e5 * x**2, 1e5 * x),
        "kink": lambda x: (abs(x), np.sign(x)),
        "cliff": lambda x: (float(x > 0.5 * NUDGE), 3.0 * float(x > 0.5 * NUDGE)),
    }
    for name, term in terms.items():
        surface, here = at(term, x=-0.3 * NUDGE)
        found = noise(surface, here, fmax=0.01)
        assert found.evaluations == 2, name
        assert found.size < 1e-3, name


def test_a_cliff_is_told_from_a_slope():
    def cliff(x):
        return 0.3 * float(x > 0), 0.0

    _, below = at(cliff, -0.001)
    for x, fell in ((0.001, True), (-0.003, False), (0.5, False)):  # beyond it, on this side, too far to tell
        _, there = at(cliff, x)
        assert fell_off(below, there) is fell, x


SHELF, HEIGHT = 0.15, 0.1


def shelf(x):
    """Beyond x, where the atom starts, the energy is lower: no step down leads to the crystal."""
    return (-HEIGHT, 0.0) if x > SHELF else (0.0, 0.0)


@pytest.mark.parametrize("agent", ["metals", None])
def test_a_cliff_that_holds_atoms_back_is_climbed(agent):
    atoms = bulk("Cu", cubic=True)
    atoms.positions[0, 0] += 0.5
    atoms.calc = Rough(shelf)
    first = atoms.get_potential_energy()
    optimizer = RLOptimizer(atoms, agent=agent, logfile=None)
    assert optimizer.run(fmax=0.01, steps=200)
    assert optimizer.force_evaluations == atoms.calc.calls < 100
    assert atoms.get_potential_energy() < first


def test_a_run_across_a_cliff_goes_on_from_its_restart_file(tmp_path):
    def begin(restart=None):
        atoms = bulk("Cu", cubic=True)
        atoms.positions[0, 0] += 0.5
        atoms.calc = Rough(shelf)
        return atoms, RLOptimizer(atoms, agent=None, logfile=None, restart=restart)

    whole, optimizer = begin()
    optimizer.run(fmax=0.01, steps=200)
    steps = optimizer.nsteps
    for before in range(1, steps):
        atoms, optimizer = begin(tmp_path / f"{before}.npz")
        optimizer.run(fmax=0.01, steps=before)
        again, optimizer = begin(tmp_path / f"{before}.npz")
        again.positions[:] = atoms.positions
        optimizer.run(fmax=0.01, steps=200)
        np.testing.assert_allclose(again.positions, whole.positions, atol=1e-9)  # sums in another order
