from dataclasses import replace
from pathlib import Path

import pytest

from relaxrl.training.diagnostics import DiagnosisConfig, Figures, diagnose
from relaxrl.training.plots import plot_figures

HEALTHY = Figures(
    t_total=0,
    actual_move=0.05,
    proposed_move=0.05,
    q_estimate=5.0,
    realised_return=5.2,
    gate=1.0,
    correction_share=0.02,
    a_back=0.01,
    fmax=0.008,
    fmax_target=0.01,
)


def names(history: list[Figures]) -> list[str]:
    return [diagnosis.figure for diagnosis in diagnose(history)]


def test_a_healthy_run_is_left_in_peace():
    assert diagnose([]) == []
    assert names([replace(HEALTHY, t_total=k) for k in range(20)]) == []


def test_no_move_under_large_forces_is_a_wall_or_timidity():
    walls = diagnose([replace(HEALTHY, actual_move=1e-4, fmax=2.0)])
    assert "runs into walls" in walls[0].message
    timid = diagnose([replace(HEALTHY, actual_move=1e-4, proposed_move=1e-4, fmax=2.0)])
    assert "hardly proposes" in timid[0].message


def test_small_moves_near_convergence_are_normal():
    assert names([replace(HEALTHY, actual_move=1e-4, proposed_move=1e-4, fmax=0.009)]) == []


def test_rising_q_without_falling_forces_is_overestimation():
    rising = [replace(HEALTHY, t_total=k, q_estimate=5.0 + 3 * k, fmax=0.5) for k in range(6)]
    assert names(rising) == ["Q against return"]
    assert "overestimation" in diagnose(rising)[0].message


def test_rising_q_is_fine_where_the_return_or_the_forces_follow():
    earned = [replace(HEALTHY, q_estimate=5.0 + 3 * k, realised_return=5.0 + 3 * k, fmax=0.5) for k in range(6)]
    assert names(earned) == []
    falling = [replace(HEALTHY, q_estimate=5.0 + 3 * k, fmax=0.5 / (k + 1)) for k in range(6)]
    assert names(falling) == []
    short = [replace(HEALTHY, q_estimate=5.0 + 3 * k, fmax=0.5) for k in range(4)]
    assert names(short) == []


def test_a_closing_gate_and_illegal_proposals_are_named():
    assert names([replace(HEALTHY, gate=0.05)]) == ["action scale"]
    assert names([replace(HEALTHY, correction_share=0.5)]) == ["correction share"]
    assert names([replace(HEALTHY, a_back=0.9)]) == ["correction share"]


def test_thresholds_are_the_configured_ones():
    config = DiagnosisConfig(small_gate=0.01)
    assert diagnose([replace(HEALTHY, gate=0.05)], config) == []
    with pytest.raises(ValueError, match="window"):
        DiagnosisConfig(window=1)


def test_figures_are_drawn_against_the_step(tmp_path: Path):
    files = plot_figures([replace(HEALTHY, t_total=100 * k) for k in range(3)], tmp_path / "plots")
    assert sorted(file.name for file in files) == [
        "action_scale.png",
        "actual_move.png",
        "correction_share.png",
        "q_against_return.png",
    ]
    assert all(file.stat().st_size > 5000 for file in files)
