import numpy as np
import pytest

from relaxrl.optimize.surprises import CONCAVE, SOFTEST, Surprise, Surprises, floored, floored_step

ROUNDING = 1e-9


def symmetric(n=6, seed=0):
    generator = np.random.default_rng(seed)
    matrix = generator.normal(size=(n, n))
    return matrix + matrix.T, generator


def surprised(*steps, exact, predicted, rival=None):
    surprises = Surprises()
    for step in steps:
        seen = Surprise(step, exact @ step, predicted @ step)
        surprises.add(seen, (predicted if rival is None else rival) @ step)
    return surprises


def test_the_corrected_hessian_is_symmetric_and_knows_the_last_step():
    exact, generator = symmetric(seed=1)
    predicted, _ = symmetric(seed=2)
    step = generator.normal(size=6)
    corrected = surprised(generator.normal(size=6), step, exact=exact, predicted=predicted).correct(predicted, 0.5)
    np.testing.assert_allclose(corrected, corrected.T, atol=ROUNDING)
    np.testing.assert_allclose(corrected @ step, exact @ step, atol=ROUNDING)


def test_the_update_by_hand():
    # B = 1, s = (1, 0), y = (1, 2): j = (0, 2), u ∝ 1 (1, 2) + 1 (1, 0) = (2, 2), u = (1, 1); B + j uᵀ + u jᵀ.
    surprises = Surprises()
    surprises.add(Surprise(np.array([1.0, 0.0]), np.array([1.0, 2.0]), np.array([1.0, 0.0])), np.ones(2))
    np.testing.assert_allclose(surprises.correct(np.eye(2), 0.0), [[1, 2], [2, 5]], atol=ROUNDING)


def test_negative_curvature_stays_where_it_was_seen():
    predicted, exact = np.diag([4.0, 3.0, 0.5]), np.diag([4.0, 3.0, -0.7])
    soft = np.array([0.0, 0.0, 0.2])
    corrected = surprised(soft, exact=exact, predicted=predicted).correct(predicted, 0.0)
    np.testing.assert_allclose(corrected, exact, atol=ROUNDING)


def test_what_the_agent_knows_of_anharmonicity_is_not_an_error():
    before, now = np.diag([4.0, 2.0]), np.diag([6.0, 2.0])
    step = np.array([0.3, 0.0])
    surprises = surprised(step, exact=before + np.diag([1.0, 0.0]), predicted=before)
    # It was too soft by 1 there: so it is here, too.
    np.testing.assert_allclose(surprises.correct(now, 0.0), np.diag([7.0, 2.0]), atol=ROUNDING)


def test_calibration_scales_the_whole_hessian():
    predicted = np.diag([1.0, 2.0, 3.0])
    surprises = surprised(np.array([0.1, 0.0, 0.0]), exact=4 * predicted, predicted=predicted)
    np.testing.assert_allclose(np.diag(surprises.correct(predicted, 1.0)), [4, 8, 12], atol=ROUNDING)
    np.testing.assert_allclose(np.diag(surprises.correct(predicted, 0.5)), [4, 4, 6], atol=ROUNDING)
    np.testing.assert_allclose(np.diag(surprises.correct(predicted, 0.0)), [4, 2, 3], atol=ROUNDING)


def test_who_foresees_better():
    exact, generator = symmetric(seed=3)
    wrong, _ = symmetric(seed=4)
    steps = generator.normal(size=(3, 6))
    assert surprised(*steps, exact=exact, predicted=wrong, rival=exact).disadvantage(3) > 100
    assert surprised(*steps, exact=exact, predicted=exact, rival=wrong).disadvantage(3) < 0.01
    # A Hessian that is wrong by a factor alone is no worse: it will be scaled.
    near = exact @ exact + 0.1 * wrong
    scaled = surprised(*steps, exact=exact @ exact, predicted=2 * near, rival=near)
    assert scaled.disadvantage(3) == pytest.approx(1.0)
    assert Surprises().disadvantage(3) == 1.0


def test_the_floored_step_goes_downhill_and_is_newtons_where_that_is_defined():
    hessian, generator = symmetric(n=9)
    gradient = generator.normal(size=9)
    gradient -= np.tile(gradient.reshape(3, 3).mean(axis=0), 3)  # forces have no sum
    assert floored_step(gradient, hessian) @ gradient < 0
    relative = np.eye(9) - np.kron(np.full((3, 3), 1 / 3), np.eye(3))
    convex = relative @ (hessian @ hessian + np.eye(9)) @ relative
    np.testing.assert_allclose(floored_step(gradient, convex), -np.linalg.pinv(convex) @ gradient, atol=1e-7)


def test_eigenvalues_are_floored():
    hessian, _ = symmetric(n=5)
    rotation = np.linalg.eigh(hessian)[1]
    matrix = (rotation * np.array([-3.0, -0.01, 0.0, 0.02, 5.0])) @ rotation.T
    np.testing.assert_allclose(np.linalg.eigvalsh(floored(matrix)), sorted([3, CONCAVE, SOFTEST, SOFTEST, 5]))


def test_a_net_force_does_not_become_a_drift():
    step = floored_step(np.tile([0.01, 0.0, 0.0], 3), np.zeros((9, 9)))
    assert np.abs(step).max() < 0.02  # the floor alone would allow 0.1 Å


def test_fixed_coordinates_are_not_solved_for():
    hessian, generator = symmetric()
    convex, gradient = hessian @ hessian + np.eye(6), generator.normal(size=6)
    free = np.array([True, False, True, True, False, True])
    step = floored_step(gradient, convex, free)
    assert not step[~free].any()
    np.testing.assert_allclose(step[free], -np.linalg.solve(convex[np.ix_(free, free)], gradient[free]), atol=ROUNDING)
    assert not floored_step(gradient, convex, np.zeros(6, dtype=bool)).any()


def test_nonsense_is_not_kept_and_the_oldest_goes_first():
    surprises = Surprises(memory=2)
    nan, one = np.full(2, np.nan), np.ones(2)
    surprises.add(Surprise(one, nan, one), one)
    surprises.add(Surprise(np.zeros(2), one, one), one)
    assert len(surprises) == 0
    for k in range(3):
        surprises.add(Surprise(one * (k + 1), one, one), one)
    assert [step[0] for step in surprises.state_dict()["steps"]] == [2.0, 3.0]
    surprises.clear()
    assert len(surprises) == 0
