"""The example: known initial data on a grid, learned from noisy targets under the constraint losses."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

EXAMPLE = Path(__file__).parents[2] / "examples" / "constraint_losses.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("constraint_losses_example", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def violations(example, points):
    """Largest |H|, and |M| at the middle of the box."""
    axis = example.axis_points(points)
    scalar, vector = example.constraints(example.exact_fields(axis), float(axis[1] - axis[0]))
    return float(scalar.abs().max()), float(vector.norm(dim=1)[len(vector) // 2])


def test_exact_data_satisfy_both_constraints(example):
    coarse, fine = violations(example, 7), violations(example, 13)
    # H is solved on the grid; W is a closed form, so that M shows the differences' error, of second order.
    assert max(coarse[0], fine[0]) < 1e-11
    assert coarse[1] < 2e-3
    assert coarse[1] / fine[1] == pytest.approx(4.0, rel=0.1)


def test_extrinsic_curvature_is_that_of_bowen_and_york(example):
    axis = example.axis_points(13)
    first, _ = example.differences(example.exact_fields(axis), float(axis[1] - axis[0]))
    gradient = first[1:].flatten(2)
    eye = torch.eye(3, dtype=torch.float64)
    found = gradient + gradient.transpose(0, 1) - 2 / 3 * eye[:, :, None] * torch.einsum("iip->p", gradient)
    position = example.interior(example.grid_positions(axis).T.reshape(3, 13, 13, 13))
    r = position.norm(dim=1)
    n, p = position / r[:, None], torch.tensor(example.MOMENTUM, dtype=torch.float64)
    pn = torch.einsum("i,xj->xij", p, n)
    projector = eye - torch.einsum("xi,xj->xij", n, n)
    exact = 3 / (2 * r**2)[:, None, None] * (pn + pn.transpose(1, 2) - projector * (n @ p)[:, None, None])
    torch.testing.assert_close(found.permute(2, 0, 1), exact, atol=1e-3, rtol=0)


def test_constraints_fall_by_decades_and_data_fades(example, tmp_path, capsys):
    arguments = ["--points", "7", "--steps", "400", "--width", "32", "--frequency", "10", "--seed", "0"]
    result, control = example.main([*arguments, "--out", str(tmp_path)])
    first, last = result.records[0], result.records[-1]
    # It starts worse than its targets and ends clearly better, where a fit without constraint terms does not come.
    assert first.state.delta_h > 0
    assert first.state.delta_m > 0
    assert last.state.delta_h < -0.7
    assert last.state.delta_m < -0.3
    assert last.state.delta_h < control.records[-1].state.delta_h - 0.3
    assert last.state.delta_m < control.records[-1].state.delta_m - 0.3
    assert last.error < control.records[-1].error
    for record in result.records:
        assert record.data_weight == pytest.approx(1 - 0.9 * record.state.progress)
        assert record.rel_weight == pytest.approx(1 + 2 * record.state.progress)
    assert last.state.progress > first.state.progress + 0.2
    assert "worst" in capsys.readouterr().out
    pictures = {path.stem for path in tmp_path.glob("*.png")}
    assert pictures == {"data_term", "improvement_curve", "violations", "point_loss", "history", "curriculum"}
