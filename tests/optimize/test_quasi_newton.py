import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from scipy import sparse

from relaxrl.optimize import SecantPairs, newton_step, pair_hessian, quasi_newton

ROUNDING = 1e-9


def bfgs_matrix(hessian, pairs):
    """The textbook update, Nocedal & Wright (6.19)."""
    for step, change in pairs.recent():
        seen = hessian @ step
        hessian = hessian - np.outer(seen, seen) / (step @ seen) + np.outer(change, change) / (change @ step)
    return hessian


def convex_surface(n, seed=0):
    generator = np.random.default_rng(seed)
    root = generator.normal(size=(n, n))
    return root @ root.T + np.eye(n), generator


def test_the_recursion_is_textbook_bfgs():
    exact, generator = convex_surface(9)
    guess = sparse.csr_array(np.diag(generator.uniform(5, 20, 9)))
    pairs = SecantPairs()
    for _ in range(4):
        step = generator.normal(size=9)
        pairs.add(step, exact @ step)
    gradient = generator.normal(size=9)
    scaled = guess.toarray() * quasi_newton.guess_scale(guess, pairs)
    for step, change in pairs.recent():
        assert step @ change > quasi_newton.DAMPING * step @ scaled @ step  # else damping would act
    expected = -np.linalg.solve(bfgs_matrix(scaled, pairs), gradient)
    np.testing.assert_allclose(newton_step(gradient, guess, pairs), expected, atol=ROUNDING)


def test_negative_curvature_still_gives_a_downhill_step():
    generator = np.random.default_rng(1)
    pairs = SecantPairs()
    for _ in range(5):
        step = generator.normal(size=6)
        pairs.add(step, -3 * step)
    gradient = generator.normal(size=6)
    assert newton_step(gradient, sparse.eye_array(6, format="csr") * 5.0, pairs) @ gradient < 0


def test_the_scale_is_that_of_the_last_pair():
    guess = sparse.eye_array(3, format="csr") * 2.0
    pairs = SecantPairs()
    assert quasi_newton.guess_scale(guess, pairs) == 1.0
    pairs.add(np.array([0.1, 0.0, 0.0]), np.array([0.6, 0.0, 0.0]))  # curvature 6 = 3 times the guess
    assert quasi_newton.guess_scale(guess, pairs) == pytest.approx(3.0)
    pairs.add(np.array([0.0, 0.1, 0.0]), np.array([0.0, -9.0, 0.0]))  # clipped to 0.2
    assert quasi_newton.guess_scale(guess, pairs) == pytest.approx(0.2)


def test_fixed_coordinates_stay_and_are_not_solved_for():
    exact, generator = convex_surface(6)
    gradient = generator.normal(size=6)
    free = np.array([True, False, True, True, False, True])
    step = newton_step(gradient, sparse.csr_array(exact), SecantPairs(), free)
    assert not step[~free].any()
    np.testing.assert_allclose(step[free], -np.linalg.solve(exact[np.ix_(free, free)], gradient[free]), atol=ROUNDING)
    assert not newton_step(gradient, sparse.csr_array(exact), SecantPairs(), np.zeros(6, dtype=bool)).any()


def test_large_systems_are_solved_iteratively_with_the_same_result(monkeypatch):
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    hessian = pair_hessian(atoms)
    generator = np.random.default_rng(0)
    gradient = generator.normal(size=hessian.shape[0])
    dense = newton_step(gradient, hessian, SecantPairs())
    monkeypatch.setattr(quasi_newton, "DENSE_LIMIT", 10)
    np.testing.assert_allclose(newton_step(gradient, hessian, SecantPairs()), dense, atol=1e-5 * np.abs(dense).max())


def test_pairs_forget_the_oldest_and_refuse_nonsense():
    pairs = SecantPairs(memory=2)
    for k in range(1, 4):
        pairs.add(np.full(2, float(k)), np.ones(2))
    pairs.add(np.array([np.nan, 0.0]), np.ones(2))
    pairs.add(np.zeros(2), np.ones(2))
    assert [step[0] for step, _ in pairs.recent()] == [2.0, 3.0]


def test_the_guess_is_invariant_and_positive_definite():
    atoms = molecule("CH3CH2OH")
    eigenvalues = np.linalg.eigvalsh(pair_hessian(atoms).toarray())
    assert eigenvalues.min() > 0.99
    atoms.rotate(37, (1, 2, 3))
    np.testing.assert_allclose(np.linalg.eigvalsh(pair_hessian(atoms).toarray()), eigenvalues, atol=1e-8)


def test_the_guess_ignores_wrapping_and_takes_overlapping_atoms():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=0)
    wrapped = atoms.copy()
    wrapped.positions += atoms.cell[0]
    np.testing.assert_allclose(pair_hessian(wrapped).toarray(), pair_hessian(atoms).toarray(), atol=ROUNDING)
    overlapping = Atoms("Cu2", positions=np.zeros((2, 3)))
    assert np.isfinite(pair_hessian(overlapping).toarray()).all()


def test_the_guess_is_nearer_to_the_hessian_of_a_metal_than_a_multiple_of_the_identity():
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.calc = EMT()
    n = 3 * len(atoms)
    exact = np.empty((n, n))
    for k in range(n):
        forces = []
        for sign in (1, -1):
            atoms.positions.flat[k] += sign * 1e-3
            forces.append(atoms.get_forces().ravel())
            atoms.positions.flat[k] -= sign * 1e-3
        exact[k] = -(forces[0] - forces[1]) / 2e-3
    # Condition number of the guess against the exact Hessian, translations aside: what quasi-Newton's speed hangs on.
    translations = np.tile(np.eye(3), (len(atoms), 1)) / np.sqrt(len(atoms))
    rest = np.linalg.svd(translations.T)[2][3:].T

    def condition(guess):
        ratios = np.linalg.eigvals(np.linalg.solve(rest.T @ guess @ rest, rest.T @ exact @ rest)).real
        return ratios.max() / ratios.min()

    assert condition(pair_hessian(atoms).toarray()) < 0.5 * condition(np.eye(n))
