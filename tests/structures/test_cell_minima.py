"""Minima in which the cell relaxes, too."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from relaxrl import potentials
from relaxrl.structures import MinimumConfig
from relaxrl.structures.alloys import strained
from relaxrl.structures.curvature import finite_difference_hessian, hessian_function, hessian_with_strain, softest_modes
from relaxrl.structures.minima import search_minimum
from relaxrl.structures.relaxation import NotRelaxedError, StrainedCrystal, relaxed_with, residual


def alloy(seed: int = 0) -> Atoms:
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.symbols[[0, 3, 5]] = "Au"
    atoms.rattle(0.08, seed=seed)
    return strained(atoms, 0.04, np.random.default_rng(seed))


def test_the_gradient_is_the_derivative_of_the_energy() -> None:
    atoms = alloy()
    atoms.calc = EMT()
    crystal = StrainedCrystal(atoms)
    x = crystal.get_x() + 0.1 * np.random.default_rng(1).normal(size=crystal.ndofs())
    crystal.set_x(x)
    gradient = crystal.get_gradient()
    for k in (0, 7, 23, 24, 25, 26, 27, 28, 29):
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved[k] += sign * 1e-4
            crystal.set_x(moved)
            ends.append(crystal.get_value())
        assert gradient[k] == pytest.approx((ends[0] - ends[1]) / 2e-4, abs=1e-6)


def test_relaxation_ends_where_that_of_ase_does() -> None:
    relaxed = relaxed_with(alloy(), EMT(), 1e-4, 300, cell=True)
    atoms = alloy()
    atoms.calc = EMT()
    assert BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-4, steps=500)
    relaxed.calc = EMT()
    assert relaxed.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-5)
    assert relaxed.cell.volume == pytest.approx(atoms.cell.volume, rel=1e-4)
    assert np.abs(relaxed.get_stress()).max() < 1e-4
    # From start to end the cell is strained, not rotated.
    deformation = np.linalg.solve(alloy().cell.array, relaxed.cell.array)
    np.testing.assert_allclose(deformation, deformation.T, atol=1e-10)


def test_second_derivatives_with_strain_are_those_of_the_gradient() -> None:
    relaxed = relaxed_with(alloy(), EMT(), 1e-3, 300, cell=True)
    whole = hessian_with_strain(relaxed, EMT(), hessian_function(EMT(), potentials.EMT()))
    atoms = relaxed.copy()
    atoms.calc = EMT()
    crystal = StrainedCrystal(atoms)
    x, numeric = crystal.get_x(), np.empty_like(whole)
    for k in range(len(x)):
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved[k] += sign * 5e-3
            crystal.set_x(moved)
            ends.append(crystal.get_gradient())
        numeric[:, k] = (ends[0] - ends[1]) / 1e-2
    np.testing.assert_allclose(whole, numeric, atol=5e-3)
    assert np.abs(whole[-6:, -6:]).max() > 1
    assert np.abs(whole[:-6, -6:]).max() > 0.1


@pytest.mark.parametrize("check", ["hessian", "rattle"])
def test_neither_forces_nor_stress_are_left_and_all_leads_up(check: str) -> None:
    config = MinimumConfig(cell=True, check=check, fmax=1e-4 if check == "hessian" else 2e-3)  # type: ignore[arg-type]
    minimum = search_minimum(
        alloy(), EMT(), hessian_function(EMT(), potentials.EMT()), np.random.default_rng(0), config
    )
    atoms = minimum.atoms.copy()
    atoms.calc = EMT()
    assert residual(atoms, cell=True) <= config.fmax
    assert atoms.get_potential_energy() == pytest.approx(minimum.energy)
    assert softest_modes(finite_difference_hessian(minimum.atoms, EMT()))[0] > 0.01  # a minimum at fixed cell, too
    generator = np.random.default_rng(3)
    for _ in range(5):
        moved = strained(minimum.atoms, 0.02, generator)
        moved.positions += generator.normal(0, 0.03, moved.positions.shape)
        moved.calc = EMT()
        assert moved.get_potential_energy() > minimum.energy


def test_a_cell_that_is_unstable_at_its_own_shape_is_left() -> None:
    """Face-centred tetragonal copper in the cell of bcc has no forces, and stress is zero at its best volume."""
    atoms = bulk("Cu", "bcc", a=2.87, cubic=True)
    atoms.calc = EMT()
    flat = relaxed_with(atoms, EMT(), 1e-4, 100, cell=True)  # without noise it stays bcc
    hessian = hessian_function(EMT(), potentials.EMT())
    assert softest_modes(hessian_with_strain(flat, EMT(), hessian), len(flat))[0] < -0.01
    minimum = search_minimum(flat, EMT(), hessian, np.random.default_rng(0), MinimumConfig(cell=True, fmax=1e-4))
    fcc = bulk("Cu", a=3.6)
    assert minimum.energy / 2 == pytest.approx(
        search_minimum(fcc, EMT(), hessian, np.random.default_rng(0), MinimumConfig(cell=True, fmax=1e-4)).energy,
        abs=0.02,
    )


def test_cells_that_explode_or_collapse_are_given_up() -> None:
    atoms = bulk("Cu", cubic=True)
    far = atoms.copy()
    far.set_cell(atoms.cell.array * 1.4, scale_atoms=True)
    with pytest.raises(NotRelaxedError, match="collapsed"):
        relaxed_with(far, EMT(), 1e-3, 300, cell=True)
    near = atoms.copy()
    near.set_cell(atoms.cell.array * 0.75, scale_atoms=True)
    with pytest.raises(NotRelaxedError, match="exploded"):
        relaxed_with(near, EMT(), 1e-3, 300, cell=True)
    with pytest.raises(NotRelaxedError, match="not converged"):
        relaxed_with(alloy(), EMT(), 1e-6, 3, cell=True)
