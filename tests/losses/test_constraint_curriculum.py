"""Curriculum: medians in dex, and the weights at and between the bounds."""

import pytest
import torch

from relaxrl.losses import (
    ConstraintLossConfig,
    CurriculumConfig,
    curriculum_progress,
    curriculum_state,
    median_log10,
    scheduled_weights,
)


def state_at(delta_h: float, delta_m: float, config: CurriculumConfig | None = None, dtype=torch.float64):
    """Fields whose violations lie these many dex above the targets', with spread that medians don't see."""
    spread = 10.0 ** torch.tensor([-3.0, -0.1, 0.0, 0.1, 5.0], dtype=dtype)
    direction = torch.tensor([2.0, -1.0, 2.0], dtype=dtype) / 3
    return curriculum_state(
        config or CurriculumConfig(),
        scalar_pred=-spread * 10**delta_h,
        scalar_true=spread,
        vector_pred=spread[:, None] * direction * 10**delta_m,
        vector_true=spread[:, None] * direction,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("delta_h", "delta_m", "worst_ratio", "progress"),
    [
        (2.0, 0.0, 4.0, 0.0),  # beyond hi
        (1.0, -1.0, 3.0, 0.0),  # at hi
        (-0.5, -1.0, 1.5, 0.5),  # between, H leads
        (-2.0, 0.5, 1.5, 0.5),  # between, M leads
        (-1.25, -0.75, 0.75, 0.75),
        (-2.0, -1.0, 0.0, 1.0),  # at lo
        (-5.0, -3.0, 0.0, 1.0),  # better than both targets
    ],
)
def test_state_at_and_between_the_bounds(delta_h, delta_m, worst_ratio, progress, dtype):
    state = state_at(delta_h, delta_m, dtype=dtype)
    assert state.delta_h == pytest.approx(delta_h, abs=1e-5)
    assert state.delta_m == pytest.approx(delta_m, abs=1e-5)
    assert state.gap_h == pytest.approx(max(delta_h + 2, 0), abs=1e-5)
    assert state.gap_m == pytest.approx(max(delta_m + 1, 0), abs=1e-5)
    assert state.worst_ratio == pytest.approx(worst_ratio, abs=1e-5)
    assert state.progress == pytest.approx(progress, abs=1e-5)


def test_targets_and_bounds_are_settings():
    config = CurriculumConfig(delta_h_target=-1.0, delta_m_target=-0.5, lo=0.5, hi=1.5)
    assert state_at(0.0, -0.5, config).progress == pytest.approx(0.5)
    assert state_at(-0.5, -0.5, config).progress == pytest.approx(1.0)
    assert state_at(-2.0, 1.0, config).progress == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("progress", "data", "constraint"), [(0.0, 1.0, 1.0), (0.25, 0.775, 1.5), (0.5, 0.55, 2.0), (1.0, 0.1, 3.0)]
)
def test_weights_by_hand(progress, data, constraint):
    config = ConstraintLossConfig(data_weight=2.0, rel_weight=3.0, abs_weight=0.5)
    weights = scheduled_weights(config, progress)
    assert weights.data == pytest.approx(2.0 * data)
    assert weights.rel == pytest.approx(3.0 * constraint)
    assert weights.abs == pytest.approx(0.5 * constraint)
    assert scheduled_weights(config, 0.0) == config.weights


def test_progress_by_hand():
    assert [curriculum_progress(x, lo=1.0, hi=2.0) for x in (0.0, 1.0, 1.25, 2.0, 9.0)] == [1.0, 1.0, 0.75, 0.0, 0.0]


def test_median_of_even_and_odd_numbers_of_points_and_under_a_mask():
    values = torch.tensor([1e-2, -1e1, 1e3, 1e5])
    assert median_log10(values) == pytest.approx(2.0)
    assert median_log10(values[:3]) == pytest.approx(1.0)
    assert median_log10(values, torch.tensor([True, False, False, True])) == pytest.approx(1.5)


def test_mask_leaves_points_out_of_the_medians():
    scalar_true, vector_true = torch.tensor([1.0, 1.0, 1.0]), torch.ones(3, 2)
    scalar_pred = torch.tensor([0.01, float("nan"), 0.01])
    state = curriculum_state(
        CurriculumConfig(),
        scalar_pred=scalar_pred,
        scalar_true=scalar_true,
        vector_pred=0.1 * vector_true,
        vector_true=vector_true,
        mask=torch.tensor([True, False, True]),
    )
    assert (state.delta_h, state.progress) == (pytest.approx(-2.0), pytest.approx(1.0))


@pytest.mark.parametrize(("pred", "true", "progress"), [(0.0, 1.0, 1.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1 / 3)])
def test_exact_zeros_give_finite_states(pred, true, progress):
    ones = torch.ones(3)
    state = curriculum_state(
        CurriculumConfig(),
        scalar_pred=pred * ones,
        scalar_true=true * ones,
        vector_pred=pred * ones[:, None],
        vector_true=true * ones[:, None],
    )
    # Equal zeros count as no better and no worse: 2 dex are still missing.
    assert state.progress == pytest.approx(progress)
    assert abs(state.delta_h) < 400
