"""Stages open when they should, and resume where they were; weights favour hard structures."""

import numpy as np
import pytest

from relaxrl.agents import CurriculumConfig, SizeCurriculum, difficulty_weights

SIZES = [4, 9, 10, 29, 30, 60]


def test_default_stages_open_by_episodes():
    curriculum = SizeCurriculum(CurriculumConfig(), SIZES)
    expected = {0: 2, 1499: 2, 1500: 4, 2999: 4, 3000: 5, 4499: 5, 4500: 6, 9000: 6}
    episodes = 0
    for at, unlocked in expected.items():
        curriculum.record([False] * (at - episodes))
        episodes = at
        assert curriculum.unlocked().tolist() == [k < unlocked for k in range(6)], at


def test_many_episodes_at_once_count_one_by_one():
    curriculum = SizeCurriculum(CurriculumConfig(limits=(10, 30), episodes=(2, 3)), SIZES)
    curriculum.record([True] * 4)
    assert curriculum.stage == 1
    curriculum.record([True])
    assert curriculum.stage == 2


def test_success_rate_needs_a_full_window_of_the_present_stage():
    config = CurriculumConfig(advance="success_rate", limits=(10, 30), success_rate=0.75, window=4)
    curriculum = SizeCurriculum(config, SIZES)
    curriculum.record([True, True, True])
    assert curriculum.stage == 0
    curriculum.record([False])
    assert curriculum.stage == 1  # 3 of 4, window full
    curriculum.record([True, True, False])
    assert curriculum.stage == 1  # the window began anew
    curriculum.record([False, True, True])
    assert curriculum.stage == 1  # 2 of the last 4
    curriculum.record([True])
    assert curriculum.stage == 2


def test_stages_that_unlock_nothing_new_are_passed_over():
    assert SizeCurriculum(CurriculumConfig(), [4, 8]).stage == 3
    only_large = SizeCurriculum(CurriculumConfig(), [64, 108])
    assert only_large.unlocked().all()
    gap = SizeCurriculum(CurriculumConfig(episodes=(1, 1, 1)), [4, 40, 80])
    gap.record([True])
    assert gap.unlocked().tolist() == [True, True, False]
    assert gap.stage == 2


def test_off_unlocks_everything():
    assert SizeCurriculum(CurriculumConfig(advance="off"), SIZES).unlocked().all()


def test_state_resumes():
    config = CurriculumConfig(advance="success_rate", limits=(10,), success_rate=1.0, window=3)
    curriculum = SizeCurriculum(config, SIZES)
    curriculum.record([True, True])
    resumed = SizeCurriculum(config, SIZES)
    resumed.load_state_dict(curriculum.state_dict())
    resumed.record([True])
    assert resumed.stage == 1


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"limits": (30, 10)}, "limits"),
        ({"episodes": (5,)}, "episodes"),
        ({"success_rate": 1.5}, "success_rate"),
        ({"window": 0}, "window"),
    ],
)
def test_config_ranges(wrong, match):
    with pytest.raises(ValueError, match=match):
        CurriculumConfig(**wrong)


def test_no_structures():
    with pytest.raises(ValueError, match="at least one"):
        SizeCurriculum(CurriculumConfig(), [])


def test_weights_grow_with_the_remaining_force_within_bounds():
    weights = difficulty_weights([0.001, 0.01, 0.04, 100.0, np.nan], fmax=0.01, power=0.5, largest_ratio=10.0)
    assert weights.mean() == pytest.approx(1.0)
    np.testing.assert_allclose(weights / weights[0], [1.0, 1.0, 2.0, 10.0, 10.0])
    np.testing.assert_array_equal(difficulty_weights([1.0, np.inf], fmax=0.01, power=0.0), [1.0, 1.0])
    for wrong in ({"fmax": 0.0}, {"fmax": 0.1, "power": -1.0}, {"fmax": 0.1, "largest_ratio": 0.5}):
        with pytest.raises(ValueError, match=list(wrong)[-1]):
            difficulty_weights([1.0], **wrong)
