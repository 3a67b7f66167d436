"""What can't be relaxed says why before, or where, it goes wrong; nothing that was reached is lost."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from relaxrl.errors import CalculatorError
from relaxrl.evaluation import evaluate
from relaxrl.optimize import RLOptimizer


class Falling(Calculator):
    """A pressure that never ends: cells collapse or explode."""

    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, pressure=0.5):
        super().__init__()
        self.pressure = pressure

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        energy = -self.pressure * atoms.get_volume()
        stress = np.array([-self.pressure] * 3 + [0.0] * 3)
        self.results = {"energy": energy, "free_energy": energy, "forces": np.zeros((len(atoms), 3)), "stress": stress}


def rattled():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=0)
    return atoms


@pytest.mark.parametrize("pressure", [0.5, -0.5])
@pytest.mark.parametrize("agent", ["metals", None])
def test_a_cell_without_end_keeps_the_last_geometry_that_stood(pressure, agent):
    atoms = rattled()
    atoms.calc = Falling(pressure)
    with pytest.raises(CalculatorError, match=r"explodes|collapses"):
        RLOptimizer(atoms, agent=agent, cell=True, logfile=None).run(fmax=0.01, steps=300)
    assert 0.09 < atoms.get_volume() / rattled().get_volume() < 11


def test_evaluation_tells_of_a_cell_without_end():
    report = evaluate(None, [rattled()], Falling, methods=["untrained"], cell=True, steps=60)
    outcomes = {record.method: record for record in report.records}
    assert not outcomes["untrained"].converged
    assert "explodes" in outcomes["untrained"].reason


def test_mixed_periodicity_strains_in_its_plane_alone():
    atoms = bulk("Cu", cubic=True) * (1, 1, 2)
    atoms.pbc = (True, True, False)
    atoms.center(vacuum=5.0, axis=2)
    atoms.rattle(0.05, seed=0)
    atoms.calc = EMT()
    before = atoms.cell.array.copy()
    assert RLOptimizer(atoms, agent="metals", cell=True, logfile=None).run(fmax=0.02)
    np.testing.assert_allclose(atoms.cell.array[2], before[2], atol=1e-12)
    assert np.abs(atoms.cell.array[:2] - before[:2]).max() > 1e-3


@pytest.mark.filterwarnings("ignore:the agent was trained on")
def test_elements_beyond_the_table_are_relaxed_by_whoever_can():
    atoms = Atoms("Og4", bulk("Ar", a=5.3, cubic=True).positions, cell=[5.3] * 3, pbc=True)
    atoms.rattle(0.1, seed=0)
    atoms.calc = LennardJones(epsilon=0.0104, sigma=3.4, rc=8.0, smooth=True)
    for agent in ("metals", None):
        copy = atoms.copy()
        copy.calc = LennardJones(epsilon=0.0104, sigma=3.4, rc=8.0, smooth=True)
        with np.errstate(all="ignore"):
            assert RLOptimizer(copy, agent=agent, logfile=None).run(fmax=0.005, steps=100)


def test_a_left_handed_cell_relaxes_to_the_same_energy():
    right = rattled()
    left = right.copy()
    left.set_cell(right.cell.array[[1, 0, 2]], scale_atoms=False)
    for atoms in (right, left):
        atoms.calc = EMT()
        assert RLOptimizer(atoms, agent="metals", cell=True, logfile=None).run(fmax=0.01)
    assert left.get_potential_energy() == pytest.approx(right.get_potential_energy(), abs=1e-3)
    assert np.linalg.det(left.cell.array) < 0
