import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter, StrainFilter, UnitCellFilter
from scipy import sparse

from relaxrl.cell import check_cell
from relaxrl.errors import StructureError
from relaxrl.optimize import RelaxCell
from relaxrl.optimize.cell import FilterCell
from relaxrl.optimize.cell_surface import make_surface
from relaxrl.optimize.chart import Chart, Geometry
from relaxrl.optimize.curvature import pair_hessian_with_strain
from relaxrl.strain import tensor_from_vector, vector_from_tensor


def alloy(seed=0, strain=0.03, rattle=0.1):
    generator = np.random.default_rng(seed)
    atoms = bulk("Cu", cubic=True)
    atoms.symbols[:] = ["Cu", "Ni", "Al", "Au"]
    noise = generator.normal(0, strain, (3, 3))
    atoms.set_cell(atoms.cell @ (np.eye(3) + noise), scale_atoms=True)
    atoms.positions += generator.normal(0, rattle, (4, 3))
    atoms.calc = EMT()
    return atoms


def random_chart(atoms, seed=0):
    directions = np.linalg.qr(np.random.default_rng(seed).normal(size=(6, 6)))[0]
    return Chart(Geometry(atoms.positions.copy(), atoms.cell.array.copy()), directions, 3.0)


def test_coordinates_undo_geometry():
    atoms = alloy()
    chart = random_chart(atoms)
    x = np.random.default_rng(1).normal(0, 0.1, 18)
    np.testing.assert_allclose(chart.coordinates(chart.geometry(x)), x, atol=1e-12)
    np.testing.assert_allclose(chart.coordinates(chart.geometry(np.zeros(18))), 0, atol=1e-14)


def test_jacobian_is_the_change_in_displacements_and_strain():
    atoms = alloy()
    chart = random_chart(atoms)
    generator = np.random.default_rng(1)
    x, step = generator.normal(0, 0.2, 18), 1e-6 * generator.normal(size=18)
    before, after = chart.geometry(x), chart.geometry(x + step)
    displacements, strain_of = chart.strain_columns(x)
    local = np.concatenate([step[:-6] + displacements @ step[-6:], strain_of @ step[-6:]])
    # Bonds and their images change as that strain and those displacements say, but for a rotation.
    strain, u = tensor_from_vector(local[-6:]), local[:-6].reshape(-1, 3)
    rows = np.concatenate([before.positions[1:] - before.positions[0], before.cell])
    changed = np.concatenate([after.positions[1:] - after.positions[0], after.cell])
    expected = rows + rows @ strain + np.concatenate([u[1:] - u[0], np.zeros((3, 3))])
    np.testing.assert_allclose(changed @ changed.T, expected @ expected.T, atol=1e-10)


@pytest.mark.parametrize("dense", [True, False])
def test_a_quadratic_form_is_the_same_in_all_coordinates(dense):
    atoms = alloy()
    chart = random_chart(atoms)
    generator = np.random.default_rng(3)
    noise = generator.normal(size=(18, 18))
    local, x, step = noise + noise.T, generator.normal(0, 0.2, 18), generator.normal(size=18)
    displacements, strain = chart.strain_columns(x)
    here = np.concatenate([step[:-6] + displacements @ step[-6:], strain @ step[-6:]])
    hessian = chart.hessian(x, local if dense else sparse.csr_array(local))
    assert step @ (hessian @ step) == pytest.approx(here @ local @ here)
    np.testing.assert_allclose(np.eye(18) @ hessian, (hessian @ np.eye(18)).T, atol=1e-12)
    slope = generator.normal(size=18)
    assert chart.gradient(x, slope[:-6], slope[-6:]) @ step == pytest.approx(slope @ here)


@pytest.mark.parametrize("pressure", [0.0, 0.05])
def test_gradient_is_that_of_the_enthalpy(pressure):
    atoms = alloy()
    surface = make_surface(atoms, RelaxCell(scalar_pressure=pressure))
    start = surface.here()
    far = surface.displaced(start, np.random.default_rng(2).normal(0, 0.2, 18))
    numeric = np.zeros(18)
    for k in range(18):
        step = np.zeros(18)
        step[k] = 1e-4
        numeric[k] = (surface.displaced(far, step).energy - surface.displaced(far, -step).energy) / 2e-4
    np.testing.assert_allclose(far.gradient, numeric, atol=2e-6)


def test_gradient_at_constant_volume_is_that_of_the_energy_along_it():
    atoms = alloy()
    volume = atoms.get_volume()
    surface = make_surface(atoms, RelaxCell(constant_volume=True))
    generator = np.random.default_rng(2)
    far = surface.displaced(surface.here(), np.where(surface.free, generator.normal(0, 0.2, 18), 0))
    assert atoms.get_volume() == pytest.approx(volume, rel=1e-12)
    direction = np.where(surface.free, generator.normal(size=18), 0)
    ahead, behind = surface.displaced(far, 1e-4 * direction), surface.displaced(far, -1e-4 * direction)
    assert far.gradient @ direction == pytest.approx((ahead.energy - behind.energy) / 2e-4, abs=1e-5)


def test_gradient_counts_what_strain_does_to_fixed_atoms():
    atoms = alloy()
    atoms.set_constraint(FixAtoms([0, 2]))
    surface = make_surface(atoms, RelaxCell())
    far = surface.displaced(surface.here(), np.where(surface.free, 0.1, 0.0))
    assert not far.gradient[:3].any()
    assert not surface.free[:3].any()
    for k in range(12, 18):
        step = np.zeros(18)
        step[k] = 1e-4
        ahead, behind = surface.displaced(far, step), surface.displaced(far, -step)
        # Fixed atoms keep their place in the cell.
        np.testing.assert_allclose(
            ahead.geometry[0] @ np.linalg.inv(ahead.geometry[-3:]),
            alloy().get_scaled_positions(wrap=False)[0],
            atol=1e-12,
        )
        assert far.gradient[k] == pytest.approx((ahead.energy - behind.energy) / 2e-4, abs=2e-6)


def test_a_place_is_found_again_to_the_last_bit():
    surface = make_surface(atoms := alloy(), RelaxCell())
    start = surface.here()
    surface.displaced(start, np.full(18, 0.05))
    surface.place(start)
    again = surface.here()
    np.testing.assert_array_equal(again.geometry, start.geometry)
    np.testing.assert_array_equal(again.x, start.x)
    np.testing.assert_array_equal(atoms.positions, alloy().positions)


def test_springs_resist_strain_as_they_resist_displacements():
    # An affine displacement of a finite piece is a strain.
    atoms = Atoms("Cu3", positions=[[0, 0, 0], [2.5, 0.3, 0.1], [0.2, 2.4, 0.5]], cell=[30, 30, 30])
    matrix = pair_hessian_with_strain(atoms).toarray()
    s = np.random.default_rng(0).normal(size=6)
    u = (atoms.positions @ tensor_from_vector(s)).ravel()
    springs = matrix[:9, :9] - np.eye(9)
    np.testing.assert_allclose(matrix[:9, 9:] @ s, springs @ u, atol=1e-9)
    assert s @ (matrix[9:, 9:] - 12 * np.eye(6)) @ s == pytest.approx(u @ springs @ u)


@pytest.mark.parametrize(
    ("cell", "n_free"),
    [
        (RelaxCell(), 6),
        (RelaxCell(mask=(True, True, False, False, False, True)), 3),
        (RelaxCell(hydrostatic_strain=True), 1),
        (RelaxCell(constant_volume=True), 5),
        (RelaxCell(mask=(True, True, False, False, False, False), constant_volume=True), 1),
    ],
)
def test_free_strains_of_a_crystal(cell, n_free):
    directions = cell.directions(np.diag([3.0, 4.0, 5.0]), np.ones(3, bool))
    assert directions.shape == (n_free, 6)
    np.testing.assert_allclose(directions @ directions.T, np.eye(n_free), atol=1e-12)
    strains = tensor_from_vector(directions)
    for k, free in enumerate(cell.mask):
        assert free or not np.abs(directions[:, k]).max() > 1e-12
    if cell.constant_volume:
        np.testing.assert_allclose(np.trace(strains, axis1=1, axis2=2), 0, atol=1e-12)
    if cell.hydrostatic_strain:
        np.testing.assert_allclose(np.abs(strains[0]), np.eye(3) / 3**0.5, atol=1e-12)


def test_only_periodic_directions_strain():
    slab = fcc111("Cu", (2, 2, 2), vacuum=5)
    strains = tensor_from_vector(RelaxCell().directions(slab.cell.array, slab.pbc))
    assert len(strains) == 3
    np.testing.assert_allclose(strains[:, 2], 0, atol=1e-12)
    wire = tensor_from_vector(
        RelaxCell().directions(np.array([[1.0, 1, 0], [0, 9, 0], [0, 0, 9]]), np.array([1, 0, 0], bool))
    )
    np.testing.assert_allclose(np.abs(wire), [[[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 0]]], atol=1e-12)
    with pytest.raises(StructureError, match="no strain"):
        RelaxCell().directions(slab.cell.array, np.zeros(3, bool))
    with pytest.raises(StructureError, match="no strain"):
        RelaxCell(mask=(False,) * 6).directions(slab.cell.array, np.ones(3, bool))


def test_settings_that_make_no_sense():
    with pytest.raises(ValueError, match="6 entries"):
        RelaxCell(mask=(True, False))
    with pytest.raises(ValueError, match="smax"):
        RelaxCell(smax=0.0)
    with pytest.raises(ValueError, match="leave no strain"):
        RelaxCell(hydrostatic_strain=True, constant_volume=True)
    with pytest.raises(ValueError, match="scalar_pressure"):
        RelaxCell(scalar_pressure=float("nan"))


def test_cells_without_stress():
    with pytest.raises(StructureError, match="three independent vectors"):
        check_cell(Atoms("Cu", cell=[3, 3, 0], pbc=[True, True, False]))
    with pytest.raises(StructureError, match="nearly flat"):
        check_cell(Atoms("Cu", cell=[[3, 0, 0], [0, 3, 0], [2.9, 2.9, 0.1]], pbc=True))
    check_cell(Atoms("Cu", cell=[[3, 0, 0], [0, 0, 3], [0, 3, 0]], pbc=True))  # left-handed


def test_filters_are_understood():
    atoms = alloy()
    known = FilterCell.of(FrechetCellFilter(atoms, mask=[1, 1, 0, 0, 0, 1], scalar_pressure=0.1))
    assert known.cell == RelaxCell(mask=(True, True, False, False, False, True), scalar_pressure=0.1)
    assert FilterCell.of(UnitCellFilter(atoms, hydrostatic_strain=True)).cell.hydrostatic_strain
    strained = FilterCell.of(StrainFilter(atoms, mask=[1, 0, 0, 0, 0, 0]))
    assert not strained.atoms_move
    assert strained.cell.mask == (True, False, False, False, False, False)
    lopsided = np.ones((3, 3))
    lopsided[0, 1] = 0
    assert FilterCell.of(UnitCellFilter(atoms, mask=lopsided)) is None


def test_tensors_and_vectors():
    tensor = np.random.default_rng(0).normal(size=(3, 3))
    symmetric = tensor + tensor.T
    np.testing.assert_allclose(tensor_from_vector(vector_from_tensor(symmetric)), symmetric, atol=1e-14)
    assert np.linalg.norm(vector_from_tensor(symmetric)) == pytest.approx(np.linalg.norm(symmetric))
