import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms, FixSymmetry
from ase.filters import FrechetCellFilter, StrainFilter, UnitCellFilter
from ase.optimize import BFGS
from ase.spacegroup.symmetrize import check_symmetry

from relaxrl.agents import load_agent
from relaxrl.errors import CalculatorError, CheckpointError, ConfigError, StructureError
from relaxrl.optimize import RelaxCell, RLOptimizer
from relaxrl.potentials import CountedCalculator, EvaluationCounter

FMAX = 0.01
SAME_ENERGY = 1e-3
"""eV/atom, between two relaxations to FMAX."""


@pytest.fixture(scope="module")
def metals():
    return load_agent("metals")


def alloy(seed=0, strain=0.03, rattle=0.08):
    generator = np.random.default_rng(seed)
    atoms = bulk("Cu", cubic=True)
    atoms.symbols[:] = ["Cu", "Ni", "Al", "Cu"]
    noise = generator.normal(0, strain, (3, 3))
    atoms.set_cell(atoms.cell @ (np.eye(3) + noise), scale_atoms=True)
    atoms.positions += generator.normal(0, rattle, (4, 3))
    return atoms


def counted(atoms, calculator=None):
    counter = EvaluationCounter()
    atoms.calc = CountedCalculator(calculator or EMT(), counter)
    return counter


def relaxed_by_bfgs(atoms, filtered=FrechetCellFilter):
    atoms = atoms.copy()
    counter = counted(atoms)
    assert BFGS(filtered(atoms), logfile=None).run(fmax=FMAX, steps=300)
    return atoms, counter.count


def as_ase_counts(atoms):
    """What FrechetCellFilter compares to fmax."""
    copy = atoms.copy()
    copy.calc = EMT()
    return np.linalg.norm(FrechetCellFilter(copy).get_forces(), axis=1).max()


@pytest.mark.parametrize("seed", range(3))
def test_positions_and_cell_relax_in_a_fraction_of_the_evaluations(metals, seed):
    start = alloy(seed)
    reference, n_bfgs = relaxed_by_bfgs(start)
    counter = counted(start)
    optimizer = RLOptimizer(start, agent=metals, cell=True, logfile=None)
    assert optimizer.run(fmax=FMAX)
    assert as_ase_counts(start) < FMAX * 1.01
    assert counter.count == counter.distinct == optimizer.force_evaluations
    assert counter.count < 0.3 * n_bfgs
    assert optimizer.handover_reason == ""
    assert start.get_potential_energy() < reference.get_potential_energy() + SAME_ENERGY * 4


@pytest.mark.parametrize("filtered", [FrechetCellFilter, UnitCellFilter, StrainFilter])
def test_filters_are_steered_by_the_agent(metals, filtered):
    start = alloy()
    reference, n_bfgs = relaxed_by_bfgs(start, filtered)
    counter = counted(start)
    whole = filtered(start)
    optimizer = RLOptimizer(whole, agent=metals, logfile=None)
    assert optimizer.run(fmax=FMAX)
    assert optimizer.handover_reason == ""
    assert np.linalg.norm(whole.get_forces(), axis=1).max() < FMAX
    assert counter.count == counter.distinct == optimizer.force_evaluations
    assert counter.count <= n_bfgs
    assert start.get_potential_energy() == pytest.approx(reference.get_potential_energy(), abs=4 * SAME_ENERGY)
    # The filter's own coordinates know where its atoms are.
    here, cell = start.positions.copy(), start.cell.array.copy()
    whole.set_positions(whole.get_positions())
    np.testing.assert_allclose(start.positions, here, atol=1e-8)
    np.testing.assert_allclose(start.cell.array, cell, atol=1e-8)


def test_a_filter_of_a_strained_reference_goes_on_from_there(metals):
    start = alloy()
    whole = FrechetCellFilter(start)
    whole.orig_cell = bulk("Cu", cubic=True).cell.array
    counted(start)
    assert RLOptimizer(whole, agent=metals, logfile=None).run(fmax=FMAX)
    reference, _ = relaxed_by_bfgs(alloy())
    assert start.get_potential_energy() == pytest.approx(reference.get_potential_energy(), abs=4 * SAME_ENERGY)


def test_other_filters_are_left_to_the_quasi_newton_method(metals):
    atoms = alloy()
    counted(atoms)
    lopsided = np.ones((3, 3))
    lopsided[0, 1] = 0
    optimizer = RLOptimizer(UnitCellFilter(atoms, mask=lopsided), agent=metals, logfile=None)
    optimizer.run(fmax=0.05, steps=50)
    assert "filter" in optimizer.handover_reason


@pytest.mark.parametrize("kind", ["hydrostatic_strain", "constant_volume"])
def test_masks_that_ase_counts_in_its_own_way_are_left_to_it(metals, kind):
    start = alloy()

    def filtered(atoms):
        return FrechetCellFilter(atoms, mask=(True, True, False, False, False, False), **{kind: True})

    reference, _ = relaxed_by_bfgs(start, filtered)
    atoms = start.copy()
    counted(atoms)
    assert RLOptimizer(filtered(atoms), agent=metals, logfile=None).run(fmax=FMAX, steps=200)
    np.testing.assert_allclose(atoms.cell.array, reference.cell.array, atol=0.02)


@pytest.mark.parametrize("agent", ["metals", None])
def test_masks_pressure_and_volume(metals, agent):
    agent = metals if agent else None
    fixed = RelaxCell(mask=(True, True, False, False, False, True))
    atoms = alloy()
    start, atoms.calc = atoms.cell.array.copy(), EMT()
    assert RLOptimizer(atoms, agent=agent, cell=fixed, logfile=None).run(fmax=FMAX)
    strain = np.linalg.solve(start, atoms.cell.array) - np.eye(3)
    np.testing.assert_allclose(strain[2], 0, atol=1e-12)
    assert np.abs(strain[:2, :2]).max() > 1e-3
    assert np.abs(atoms.get_stress()[[0, 1, 5]]).max() < 1e-3 < np.abs(atoms.get_stress()[2])

    atoms = alloy()
    volume, atoms.calc = atoms.get_volume(), EMT()
    assert RLOptimizer(atoms, agent=agent, cell=RelaxCell(constant_volume=True), logfile=None).run(fmax=FMAX)
    assert atoms.get_volume() == pytest.approx(volume, rel=1e-10)
    stress = atoms.get_stress(voigt=False)
    np.testing.assert_allclose(stress, np.eye(3) * np.trace(stress) / 3, atol=1e-3)

    atoms = alloy()
    shape, atoms.calc = atoms.cell.array / atoms.get_volume() ** (1 / 3), EMT()
    assert RLOptimizer(atoms, agent=agent, cell=RelaxCell(hydrostatic_strain=True), logfile=None).run(fmax=FMAX)
    np.testing.assert_allclose(atoms.cell.array / atoms.get_volume() ** (1 / 3), shape, atol=1e-12)
    assert abs(np.trace(atoms.get_stress(voigt=False))) < 3e-3
    free_volume = atoms.get_volume()

    atoms = alloy()
    atoms.calc = EMT()
    cell = RelaxCell(scalar_pressure=0.05, smax=1e-4)
    assert RLOptimizer(atoms, agent=agent, cell=cell, logfile=None).run(fmax=FMAX)
    np.testing.assert_allclose(atoms.get_stress(), [-0.05] * 3 + [0] * 3, atol=1e-4)
    assert atoms.get_volume() < free_volume


def test_smax_is_a_stress(metals):
    # So many atoms that the row of stress times volume over their number is no strict measure.
    atoms = alloy()
    atoms.calc = EMT()
    optimizer = RLOptimizer(atoms, agent=metals, cell=RelaxCell(smax=2e-5), logfile=None)
    assert optimizer.run(fmax=0.05)
    assert np.abs(atoms.get_stress()).max() < 2e-5
    forces = np.linalg.norm(atoms.get_forces(), axis=1).max()
    assert forces < 0.05


@pytest.mark.parametrize("structure", ["L12", "hcp", "B2"])
@pytest.mark.parametrize("constrained", [False, True], ids=["free", "FixSymmetry"])
def test_symmetry_of_the_start_is_kept(metals, structure, constrained):
    if structure == "L12":
        atoms = bulk("Cu", a=3.9, cubic=True)
        atoms.symbols[0] = "Au"
        atoms.set_cell(atoms.cell @ np.diag([1.0, 1.0, 1.04]), scale_atoms=True)  # tetragonal
    elif structure == "hcp":
        atoms = bulk("Ni", "hcp", a=2.6, c=4.0)
    else:
        atoms = bulk("NiAl", "cesiumchloride", a=2.95).repeat((1, 1, 2))
        atoms.positions[1, 2] += 0.12
        atoms.positions[3, 2] -= 0.12
    before = check_symmetry(atoms, 1e-5).number
    if constrained:
        atoms.set_constraint(FixSymmetry(atoms))
    counter = counted(atoms)
    assert RLOptimizer(atoms, agent=metals, cell=True, logfile=None).run(fmax=FMAX)
    assert counter.count == counter.distinct <= 15
    free = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
    # The symmetry of the start, or more.
    found = check_symmetry(free, 1e-4)
    assert found.number >= before


def test_atoms_that_are_fixed_go_with_the_cell(metals):
    atoms = alloy()
    atoms.set_constraint(FixAtoms([0, 3]))
    place, counter = atoms.get_scaled_positions(wrap=False), counted(atoms)
    assert RLOptimizer(atoms, agent=metals, cell=True, logfile=None).run(fmax=FMAX)
    np.testing.assert_allclose(atoms.get_scaled_positions(wrap=False)[[0, 3]], place[[0, 3]], atol=1e-12)
    assert np.abs(atoms.get_scaled_positions(wrap=False) - place).max() > 1e-3
    assert counter.count == counter.distinct < 30
    assert np.abs(atoms.get_stress()).max() < 1e-3


def test_a_slab_strains_in_its_plane(metals):
    slab = fcc111("Cu", (2, 2, 3), a=3.7, vacuum=6)
    slab.rattle(0.05, seed=0)
    slab.pbc = [True, True, False]
    height, counter = slab.cell[2].copy(), counted(slab)
    assert RLOptimizer(slab, agent=metals, cell=True, logfile=None).run(fmax=FMAX)
    np.testing.assert_allclose(slab.cell[2], height, atol=1e-12)
    assert counter.count == counter.distinct < 15
    assert np.abs(slab.get_stress()[[0, 1, 5]]).max() * slab.get_volume() / len(slab) < FMAX


def test_left_handed_cells(metals):
    atoms, mirror = alloy(), alloy()
    mirror.set_cell(mirror.cell[[1, 0, 2]])
    for each in (atoms, mirror):
        each.calc = EMT()
        assert RLOptimizer(each, agent=metals, cell=True, logfile=None).run(fmax=FMAX)
    assert mirror.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
    np.testing.assert_allclose(mirror.cell[[1, 0, 2]], atoms.cell.array, atol=1e-5)


class NoStress(EMT):
    implemented_properties = ("energy", "free_energy", "forces")

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        self.results.pop("stress")


class Repelling(Calculator):
    """Atoms that want to be far apart, however far they are; or, with a pressure, at one place."""

    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, pressure):
        super().__init__()
        self.pressure = pressure

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        volume, n = atoms.get_volume(), len(atoms)
        self.results = {
            "energy": -self.pressure * volume,
            "forces": np.zeros((n, 3)),
            "stress": np.array([-self.pressure] * 3 + [0.0] * 3),
        }


@pytest.mark.parametrize(("pressure", "message"), [(0.5, "explodes"), (-0.5, "collapses")])
def test_cells_that_find_no_end_are_an_error(metals, pressure, message):
    atoms = alloy()
    atoms.calc = Repelling(pressure)
    with pytest.raises(CalculatorError, match=message):
        RLOptimizer(atoms, agent=metals, cell=True, logfile=None).run(fmax=FMAX, steps=300)
    assert np.isfinite(atoms.positions).all()
    assert atoms.get_volume() > 1


def test_bad_input(metals):
    atoms = alloy()
    atoms.calc = NoStress()
    with pytest.raises(CalculatorError, match="NoStress gives no stress"):
        RLOptimizer(atoms, agent=metals, cell=True, logfile=None).run(fmax=FMAX)
    with pytest.raises(ConfigError, match="one of both"):
        RLOptimizer(FrechetCellFilter(atoms), agent=metals, cell=True)
    atoms.set_cell([[3.6, 0, 0], [0, 3.6, 0], [3.5, 3.5, 0.05]])
    with pytest.raises(StructureError, match="nearly flat"):
        RLOptimizer(atoms, agent=metals, cell=True)
    atoms.pbc = False
    atoms.set_cell([9, 9, 9])
    with pytest.raises(StructureError, match="no strain"):
        RLOptimizer(atoms, agent=metals, cell=True)


def test_stress_that_is_not_finite(metals):
    atoms = alloy()
    atoms.calc = Repelling(float("nan"))
    with pytest.raises(CalculatorError, match="not finite"):
        RLOptimizer(atoms, agent=metals, cell=True, logfile=None).run(fmax=FMAX)


def test_without_an_agent_and_with_other_potentials():
    atoms = bulk("Ar", "fcc", a=5.0, cubic=True)
    atoms.rattle(0.1, seed=0)
    atoms.calc = LennardJones(epsilon=0.0104, sigma=3.4, rc=10.0, smooth=True)
    assert RLOptimizer(atoms, agent=None, cell=True, logfile=None).run(fmax=0.001)
    assert np.abs(atoms.get_stress()).max() < 1e-4


def test_a_wrong_agent_is_overruled():
    class Wrong:
        def act(self, graph):
            raise AssertionError(f"displacements alone are not asked for, here of {graph.n_atoms} atoms")

        def hessian_with_strain(self, graph):
            return -1e-3 * np.eye(3 * graph.n_atoms + 6)

    atoms = alloy()
    reference, _ = relaxed_by_bfgs(atoms)
    counter = counted(atoms)
    optimizer = RLOptimizer(atoms, agent=Wrong(), cell=True, logfile=None)
    assert optimizer.run(fmax=FMAX)
    assert optimizer.handover_reason
    assert counter.count == counter.distinct
    assert atoms.get_potential_energy() < reference.get_potential_energy() + 4 * SAME_ENERGY


def test_a_run_that_was_interrupted_goes_on_to_the_last_bit(metals, tmp_path):
    whole, parts = alloy(strain=0.05, rattle=0.2), alloy(strain=0.05, rattle=0.2)
    whole.calc, parts.calc = EMT(), EMT()
    assert RLOptimizer(whole, agent=metals, cell=True, logfile=None).run(fmax=FMAX)
    file = tmp_path / "restart.npz"
    assert not RLOptimizer(parts, agent=metals, cell=True, logfile=None, restart=file).run(fmax=FMAX, steps=2)
    parts.calc = EMT()
    assert RLOptimizer(parts, agent=metals, cell=True, logfile=None, restart=file).run(fmax=FMAX)
    np.testing.assert_array_equal(parts.positions, whole.positions)
    np.testing.assert_array_equal(parts.cell.array, whole.cell.array)
    with pytest.raises(CheckpointError, match="another restart file"):
        RLOptimizer(parts, agent=metals, logfile=None, restart=file)


def test_the_same_optimizer_goes_on_where_the_user_strains_the_cell(metals):
    atoms = alloy()
    counter = counted(atoms)
    optimizer = RLOptimizer(atoms, agent=metals, cell=True, logfile=None)
    assert optimizer.run(fmax=FMAX)
    relaxed = atoms.get_potential_energy()
    atoms.set_cell(atoms.cell @ (np.eye(3) + 0.03 * np.array([[0, 1, 0], [-1, 1, 0], [0, 0, 0]])), scale_atoms=True)
    assert optimizer.run(fmax=FMAX)
    assert atoms.get_potential_energy() == pytest.approx(relaxed, abs=4 * SAME_ENERGY)
    assert counter.count == optimizer.force_evaluations


def test_a_trajectory_holds_cells_and_stress(metals, tmp_path):
    from ase.io import read

    atoms = alloy()
    atoms.calc = EMT()
    file = tmp_path / "cell.traj"
    assert RLOptimizer(atoms, agent=metals, cell=True, logfile=None, trajectory=file).run(fmax=FMAX)
    frames = read(file, index=":")
    assert len(frames) >= 3
    assert frames[0].get_volume() != pytest.approx(frames[-1].get_volume(), rel=1e-6)
    np.testing.assert_allclose(frames[-1].get_stress(), atoms.get_stress())
