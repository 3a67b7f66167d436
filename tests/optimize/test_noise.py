import itertools

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import all_changes
from ase.calculators.emt import EMT

from relaxrl.errors import CalculatorError
from relaxrl.optimize import RLOptimizer
from relaxrl.optimize.noise import NUDGE, hit_a_cliff, noise
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
    # The largest of eight vectors, of normal deviates in each component; `noise` takes the smallest of three measures.
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
        assert hit_a_cliff(below, there) is fell, x


def pit(x):
    """Beyond 0.15 Å, where the atom starts, the energy is lower, and a slope before it leads there from both sides."""
    if x > 0.15:
        return -0.1, 0.0
    return (3 * (x - 0.10), 3.0) if x > 0.10 else (0.0, 0.0)


def displaced(calculator):
    atoms = bulk("Cu", cubic=True)
    atoms.positions[0, 0] += 0.5
    atoms.calc = calculator
    return atoms


def test_a_cliff_that_holds_atoms_back_is_crossed():
    atoms = displaced(Rough(pit))
    first = atoms.get_potential_energy()
    optimizer = RLOptimizer(atoms, agent=None, logfile=None)
    assert optimizer.run(fmax=0.01, steps=200)
    assert optimizer.force_evaluations == atoms.calc.calls < 100
    assert optimizer.state_dict()["safeguard"]["rough"]
    assert atoms.get_potential_energy() < first


def test_a_run_across_a_cliff_goes_on_from_its_restart_file(tmp_path):
    whole = displaced(Rough(pit))
    optimizer = RLOptimizer(whole, agent=None, logfile=None)
    optimizer.run(fmax=0.01, steps=200)
    interrupted_when_rough = 0
    for before in range(1, optimizer.nsteps):
        atoms = displaced(Rough(pit))
        first = RLOptimizer(atoms, agent=None, logfile=None, restart=tmp_path / f"{before}.npz")
        first.run(fmax=0.01, steps=before)
        interrupted_when_rough += first.state_dict()["safeguard"]["rough"]
        again = displaced(Rough(pit))
        again.positions[:] = atoms.positions
        second = RLOptimizer(again, agent=None, logfile=None, restart=tmp_path / f"{before}.npz")
        second.run(fmax=0.01, steps=200)
        np.testing.assert_allclose(again.positions, whole.positions, atol=1e-9)  # sums in another order
        assert second.force_evaluations == optimizer.force_evaluations + 1  # where it goes on
    assert interrupted_when_rough > 1


def needles(x):
    """A saw of 0.2 eV: steep everywhere, so that no minimum of the crystal is one of the whole."""
    return 0.2 * (x / 0.01 % 1.0), 20.0


def test_where_roughness_has_no_end_atoms_stand_at_the_lowest_point():
    atoms = displaced(Rough(needles))
    seen = []
    optimizer = RLOptimizer(atoms, agent=None, logfile=None, maxstep=0.05)
    optimizer.attach(lambda: seen.append((atoms.get_potential_energy(), atoms.positions.copy())))
    with pytest.raises(CalculatorError, match=r"stuck at fmax|no step from fmax"):
        optimizer.run(fmax=0.01, steps=2000)
    lowest = min(energy for energy, _ in seen)
    assert optimizer.state_dict()["safeguard"]["rough"]
    assert atoms.get_potential_energy() == pytest.approx(lowest, abs=1e-9)
    assert seen[-1][0] > lowest + 0.01
    steps = [np.linalg.norm(after - before, axis=1).max() for (_, before), (_, after) in itertools.pairwise(seen)]
    assert max(steps) < 0.05 + 1e-9
