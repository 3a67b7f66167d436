import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import all_changes
from ase.calculators.emt import EMT

from relaxrl.errors import CalculatorError
from relaxrl.optimize import RLOptimizer
from relaxrl.optimize.noise import NUDGE, noise
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
    assert noise(surface, here) < 100 * NUDGE
    np.testing.assert_array_equal(atoms.positions.ravel(), here.x)
    atoms.calc = Noisy(0.05)
    found = [noise(surface, surface.here()) for _ in range(20)]
    # The largest of eight vectors, of normal deviates in each component.
    assert np.mean(found) == pytest.approx(0.05 * 2.7, rel=0.2)
