"""Priorities and importance weights by hand."""

import numpy as np
import pytest

from relaxrl.agents import PrioritizedReplay, PriorityConfig, Schedule


def filled(make_transition, config: PriorityConfig, errors: list[float]) -> PrioritizedReplay:
    buffer = PrioritizedReplay(8, config)
    places = buffer.add(make_transition([1] * len(errors)))
    buffer.update_priorities(places, np.array(errors))
    return buffer


def test_proportional_frequencies_and_weights_by_hand(make_transition):
    config = PriorityConfig(alpha=0.5, beta=Schedule(start=0.5), epsilon=1e-12)
    buffer = filled(make_transition, config, [1.0, -4.0, 9.0])
    sample = buffer.sample(60_000, np.random.default_rng(0))
    frequencies = np.bincount(sample.indices, minlength=3) / 60_000
    np.testing.assert_allclose(frequencies, [1 / 6, 2 / 6, 3 / 6], atol=0.01)
    # (N P)^-0.5 over its largest: N P = 0.5, 1, 1.5.
    expected = np.array([1.0, 0.5**0.5, (1 / 3) ** 0.5])
    np.testing.assert_allclose(sample.weights, expected[sample.indices], rtol=1e-9)


def test_beta_is_annealed_and_full_correction_is_unbiased(make_transition):
    config = PriorityConfig(alpha=1.0, beta=Schedule(kind="linear", start=0.0, end=1.0, steps=10))
    buffer = filled(make_transition, config, [1.0, 3.0])
    early = buffer.sample(10, np.random.default_rng(0), t=0)
    assert np.array_equal(early.weights, np.ones(10))
    late = buffer.sample(40_000, np.random.default_rng(0), t=10)
    values = np.array([10.0, 20.0])[late.indices]
    assert np.average(values, weights=late.weights) == pytest.approx(15.0, abs=0.1)


def test_lap_clips_from_below_and_has_no_weights(make_transition):
    config = PriorityConfig(kind="lap", alpha=0.5, min_priority=1.0)
    buffer = filled(make_transition, config, [0.01, 0.5, 4.0])
    sample = buffer.sample(40_000, np.random.default_rng(0))
    frequencies = np.bincount(sample.indices, minlength=3) / 40_000
    np.testing.assert_allclose(frequencies, [0.25, 0.25, 0.5], atol=0.01)
    assert np.array_equal(sample.weights, np.ones(40_000))


def test_new_transitions_get_the_largest_priority_seen(make_transition):
    config = PriorityConfig(alpha=1.0, epsilon=1e-12)
    buffer = filled(make_transition, config, [1.0, 7.0])
    buffer.update_priorities(np.array([1]), np.array([1.0]))
    buffer.add(make_transition([1], first=2))
    frequencies = np.bincount(buffer.sample(40_000, np.random.default_rng(0)).indices, minlength=3) / 40_000
    np.testing.assert_allclose(frequencies, [1 / 9, 1 / 9, 7 / 9], atol=0.01)


def test_alpha_zero_is_uniform(make_transition):
    buffer = filled(make_transition, PriorityConfig(alpha=0.0), [1.0, 100.0])
    sample = buffer.sample(10_000, np.random.default_rng(0))
    assert abs(sample.indices.mean() - 0.5) < 0.03
    assert np.array_equal(sample.weights, np.ones(10_000))


def test_state_resumes_exactly(make_transition):
    buffer = filled(make_transition, PriorityConfig(), [1.0, 2.0, 3.0])
    resumed = PrioritizedReplay(8)
    resumed.load_state_dict(buffer.state_dict())
    for one in (buffer, resumed):
        one.add(make_transition([2], first=3))
    a, b = (one.sample(50, np.random.default_rng(3), t=100) for one in (buffer, resumed))
    assert np.array_equal(a.indices, b.indices)
    assert np.array_equal(a.weights, b.weights)


def test_errors_that_are_not_finite_are_refused(make_transition):
    buffer = filled(make_transition, PriorityConfig(), [1.0])
    with pytest.raises(ValueError, match="finite"):
        buffer.update_priorities(np.array([0]), np.array([np.nan]))


@pytest.mark.parametrize("wrong", [{"alpha": 1.5}, {"epsilon": 0.0}, {"min_priority": -1.0}])
def test_config_ranges(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PriorityConfig(**wrong)
