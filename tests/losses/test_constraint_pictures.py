"""Pictures show the numbers that the losses give."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from relaxrl.losses import CurriculumState, pictures


def lines_of(figure, panel=0):
    return {line.get_label(): line for line in figure.axes[panel].get_lines()}


def test_data_term_lies_on_the_parabola_and_shows_the_mean():
    pred, true = torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.zeros(2, 2)
    lines = lines_of(pictures.plot_data_term(pred, true))
    points = lines["2 points"]
    np.testing.assert_allclose(points.get_xdata(), [5.0, 1.0])
    np.testing.assert_allclose(points.get_ydata(), [25.0, 1.0])
    assert lines["mean: L_data of one structure"].get_ydata()[0] == pytest.approx(13.0)


def test_improvement_curve_saturates_at_the_clip_and_passes_ln2_squared_at_the_aim():
    (curve,) = [
        line for label, line in lines_of(pictures.plot_improvement_curve(0.2, clip=2.0)).items() if "softplus" in label
    ]
    ratio, penalty = curve.get_xdata(), curve.get_ydata()
    assert np.interp(np.log(0.2), np.log(ratio), penalty) == pytest.approx(np.log(2) ** 2, rel=1e-3)
    outside = ratio > 0.2 * np.exp(2.0)
    assert outside.sum() > 5
    np.testing.assert_allclose(penalty[outside], np.log1p(np.exp(2.0)) ** 2)
    with pytest.raises(ValueError, match="`alpha`"):
        pictures.plot_improvement_curve(0.0)


def test_violations_show_both_medians_and_leave_zeros_out():
    vector = torch.tensor([[3.0, 4.0], [0.0, 0.0], [30.0, 40.0]])
    figure = pictures.plot_violations(torch.tensor([-0.1, 0.001, 0.01]), torch.ones(3), vector, vector)
    labels = [set(lines_of(figure, panel)) for panel in (0, 1)]
    assert labels[0] == {"median -2.00", "median 0.00"}
    assert labels[1] == {f"median {np.log10(50 * 5) / 2:.2f}"}
    counted = sum(patch.get_height() for patch in figure.axes[1].patches)
    assert counted == 4


def test_point_loss_is_colour_and_arrows_go_down():
    position, loss = np.eye(3), np.array([0.01, 1.0, 0.0])
    gradient = np.array([[0.0, 0.0, 2.0], [0.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    dots, arrows = pictures.plot_point_loss(position, loss, gradient).axes[0].collections
    np.testing.assert_allclose(dots.get_array(), [-2.0, 0.0, -2.0])
    # Each arrow is a shaft and two strokes; shafts come first, the longest at 0.15 of the extent.
    shafts = np.asarray(arrows._segments3d)[:2]
    np.testing.assert_allclose(sorted(shafts[0].tolist()), [[1.0, 0.0, -0.15], [1.0, 0.0, 0.0]])
    np.testing.assert_allclose(sorted(shafts[1].tolist()), [[0.0, 0.0, 1.0], [0.0, 0.0, 1.075]])


def test_pictures_of_nothing_to_point_at_and_of_one_point(tmp_path):
    pictures.plot_point_loss(np.zeros((1, 3)), np.zeros(1), np.zeros((1, 3))).savefig(tmp_path / "one.png")
    pictures.plot_violations(np.zeros(2), np.zeros(2), np.zeros((2, 3)), np.zeros((2, 3))).savefig(tmp_path / "two.png")
    assert (tmp_path / "one.png").stat().st_size > 1000


def test_history_is_relative_to_the_target():
    figure = pictures.plot_history([0, 10], {"L_abs": [4.0, 1.0]}, {"L_abs": 2.0})
    np.testing.assert_allclose(lines_of(figure)["L_abs"].get_ydata(), [2.0, 0.5])


def test_curriculum_shows_deltas_and_progress():
    states = [CurriculumState(1.0, 0.0, 3.0, 1.0, 3.0, 0.0), CurriculumState(-2.0, -1.0, 0.0, 0.0, 0.0, 1.0)]
    figure = pictures.plot_curriculum([0, 5], states)
    np.testing.assert_allclose(lines_of(figure)["Δ_h"].get_ydata(), [1.0, -2.0])
    np.testing.assert_allclose(figure.axes[1].get_lines()[0].get_ydata(), [0.0, 1.0])


def test_bad_arrays_are_named():
    with pytest.raises(ValueError, match="`output_true` must have the shape of `output_pred`"):
        pictures.plot_data_term(np.zeros((2, 3)), np.zeros((3, 3)))
    with pytest.raises(ValueError, match="`gradient` must be finite"):
        pictures.plot_point_loss(np.zeros((2, 3)), np.zeros(2), np.full((2, 3), np.nan))
    with pytest.raises(ValueError, match="`positions` must have shape"):
        pictures.plot_point_loss(np.zeros((2, 2)), np.zeros(2), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="`point_loss` must not be negative"):
        pictures.plot_point_loss(np.zeros((2, 3)), -np.ones(2), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="`target` must have a positive value for 'L_rel'"):
        pictures.plot_history([0], {"L_rel": [1.0]}, {})
    with pytest.raises(ValueError, match="`history` of 'L_rel' must be as long as `steps`"):
        pictures.plot_history([0, 1], {"L_rel": [1.0]}, {"L_rel": 1.0})
    with pytest.raises(ValueError, match="`states` must be as long as `steps`"):
        pictures.plot_curriculum([0, 1], [])


def test_losses_do_not_import_matplotlib_until_something_is_drawn():
    code = "import sys, relaxrl.losses, relaxrl.losses.pictures; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
