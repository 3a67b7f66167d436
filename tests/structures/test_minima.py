import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.optimize import BFGS

from relaxrl import potentials
from relaxrl.structures import Crystal, MinimumConfig, find_minima
from relaxrl.structures.curvature import finite_difference_hessian, hessian_function, softest_modes
from relaxrl.structures.describe import describe
from relaxrl.structures.minima import find_minimum
from relaxrl.structures.relaxation import energy_and_forces


@pytest.fixture
def body_centred() -> Atoms:
    """Copper in bcc: forces vanish by symmetry, and many directions lead down."""
    return bulk("Cu", "bcc", a=2.87, cubic=True) * (2, 2, 1)


def test_finite_differences_agree_with_analytic_second_derivatives() -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.symbols[1] = "Al"
    atoms.rattle(0.05, rng=np.random.default_rng(0))
    analytic = hessian_function(EMT(), potentials.EMT())(atoms)
    numeric = finite_difference_hessian(atoms, EMT())
    np.testing.assert_allclose(numeric, analytic, atol=2e-3)
    assert np.abs(analytic).max() > 1.0


def test_softest_mode_of_a_chain_by_hand() -> None:
    # Three masses on a line with springs k: eigenvalues 0, k, 3k along it, 0 across.
    k = 2.0
    along = k * np.array([[1.0, -1, 0], [-1, 2, -1], [0, -1, 1]])
    hessian = np.kron(along, np.diag([1.0, 0, 0])) + np.kron(along, np.diag([0, 5.0, 0]))
    hessian += np.kron(along, np.diag([0, 0, 7.0]))
    curvature, modes = softest_modes(hessian)
    assert curvature == pytest.approx(k)
    np.testing.assert_allclose(np.abs(modes.reshape(3, 3)[:, 0]), np.sqrt([0.5, 0, 0.5]), atol=1e-7)
    assert softest_modes(-hessian)[0] == pytest.approx(-3 * 7 * k)


def test_a_symmetric_saddle_point_is_left(body_centred: Atoms) -> None:
    calculator, hessian = EMT(), hessian_function(EMT(), potentials.EMT())
    energy, forces = energy_and_forces(body_centred, calculator)
    assert np.abs(forces).max() < 1e-10  # noiseless relaxation would call it relaxed
    assert softest_modes(hessian(body_centred))[0] < -0.1
    still = body_centred.copy()
    still.calc = EMT()
    assert BFGS(still, logfile=None).run(fmax=0.01, steps=5)
    assert softest_modes(hessian(still))[0] < -0.1
    minimum = find_minimum(body_centred, calculator, hessian, np.random.default_rng(0), MinimumConfig())
    assert minimum is not None
    assert minimum.energy < energy - 0.005
    assert minimum.curvature >= 0.01
    assert minimum.fmax <= 1e-5
    assert minimum.fmax == pytest.approx(np.linalg.norm(energy_and_forces(minimum.atoms, EMT())[1], axis=1).max())
    np.testing.assert_array_equal(minimum.atoms.cell.array, body_centred.cell.array)


def test_descent_along_the_mode_alone_leaves_the_saddle_point(body_centred: Atoms) -> None:
    config = MinimumConfig(rattle=1e-9, relaxations=1)
    hessian = hessian_function(EMT(), potentials.EMT())
    minimum = find_minimum(body_centred, EMT(), hessian, np.random.default_rng(0), config)
    assert minimum is not None
    assert softest_modes(hessian(minimum.atoms))[0] >= 0.01


def test_every_displacement_of_a_minimum_leads_up() -> None:
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.symbols[[0, 3]] = "Au"
    minimum = find_minimum(atoms, EMT(), hessian_function(EMT()), np.random.default_rng(1), MinimumConfig(fmax=1e-4))
    assert minimum is not None
    generator = np.random.default_rng(2)
    for _ in range(20):
        moved = minimum.atoms.copy()
        moved.positions += generator.normal(0.0, 0.02, size=(8, 3))
        assert energy_and_forces(moved, EMT())[0] > minimum.energy


def test_no_minimum_where_there_is_none() -> None:
    # Two atoms far apart in vacuum feel nothing: no positive curvature.
    apart = Atoms("Ar2", [[0, 0, 0], [9.0, 0, 0]])
    calculator = LennardJones(sigma=1.0, epsilon=0.01, rc=3.0)
    hessian = hessian_function(calculator)
    assert find_minimum(apart, calculator, hessian, np.random.default_rng(0), MinimumConfig(attempts=2)) is None


def test_minima_of_own_crystals_depend_on_seed_and_id_alone() -> None:
    atoms = bulk("Ni", cubic=True)
    atoms.info["source"] = "mine"
    crystals = [Crystal(f"own.cif#{k}", atoms, "nickel") for k in range(2)]
    config = MinimumConfig(fmax=1e-4)
    together = list(find_minima(crystals, "emt", config, seed=3))
    alone = list(find_minima(crystals[1:], "emt", config, seed=3))
    assert together[1] is not None
    assert alone[0] is not None
    np.testing.assert_array_equal(together[1].atoms.positions, alone[0].atoms.positions)
    assert (alone[0].kind, alone[0].parent, alone[0].id) == ("minimum", "nickel", "own.cif#1")
    assert alone[0].atoms.info["source"] == "mine"
    assert alone[0].minimum_energy == pytest.approx(energy_and_forces(alone[0].atoms, EMT())[0])


def test_descriptions_tell_minima_from_saddle_points(body_centred: Atoms) -> None:
    calculator, hessian = EMT(), hessian_function(EMT(), potentials.EMT())
    face_centred = bulk("Cu", cubic=True)
    moved = face_centred.copy()
    moved.positions[0, 0] += 0.1
    found = [
        describe(Crystal(f"{k}", atoms, "copper"), calculator, hessian)
        for k, atoms in enumerate((face_centred, body_centred, moved))
    ]
    assert [one.stationary for one in found] == ["minimum", "saddle point", "not relaxed"]
    assert found[0].density == pytest.approx(8.96, rel=0.01)  # g/cm³, copper
    assert found[0].closest[0] == pytest.approx(3.61 / np.sqrt(2))


def test_degenerate_modes_come_together() -> None:
    # Two atoms joined by springs alike in all directions: three equal curvatures of relative motion.
    hessian = np.kron(np.array([[1.0, -1.0], [-1.0, 1.0]]), np.eye(3))
    curvature, modes = softest_modes(hessian)
    assert curvature == pytest.approx(2.0)
    np.testing.assert_allclose(modes.T @ modes, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(modes[:3], -modes[3:], atol=1e-12)
    assert softest_modes(np.zeros((3, 3)))[0] == np.inf


def test_what_came_before_does_not_show_in_a_minimum() -> None:
    first, second = bulk("Ni", cubic=True), bulk("Ni", cubic=True)
    first.rattle(0.3, seed=1)
    config = MinimumConfig(fmax=1e-4)
    crystals = [Crystal("a#0", first, "a"), Crystal("b#0", second, "b")]
    after_another = list(find_minima(crystals, "emt", config, seed=0))[1]
    alone = next(find_minima(crystals[1:], "emt", config, seed=0))
    assert after_another is not None
    assert alone is not None
    assert after_another.atoms == alone.atoms
