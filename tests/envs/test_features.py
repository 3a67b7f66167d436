from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk
from scipy.spatial.transform import Rotation

from relaxrl.envs import FEATURES, EnvConfig, environment_features
from relaxrl.graph import AtomGraph
from relaxrl.io import graph_from_atoms

from .conftest import cluster

INVARIANT = 1e-12


def graph() -> AtomGraph:
    batch = graph_from_atoms([bulk("Cu", cubic=True, a=4.0), cluster(n=2)])
    forces = torch.zeros_like(batch.positions)
    forces[:, 0] = torch.tensor([3.0, 0.0, 1.0, 0.0, 0.01, 0.03])
    forces[0, 1] = 4.0
    # In both structures the last step went along x, and the forces before it were ten times as large.
    step = torch.zeros_like(forces)
    step[0, 0], step[5, 0] = 0.1, -0.002
    return batch.replace(forces=forces, previous_forces=10 * forces, previous_displacement=step)


def test_each_feature_is_the_number_computed_by_hand():
    expected = {
        "step": (np.log10(10), np.log10(1)),
        "fmax": (np.log10(5.0), np.log10(0.03)),
        "fmax_first": (2.0, -3.0),
        "fmax_ratio": (np.log10(0.05), np.log10(30.0)),
        "fmax_previous": (np.log10(50.0), np.log10(0.3)),
        "gain": (-1.0, -1.0),
        "slope": (1 / 11, -1 / 11),
        "last_step": (-1.0, np.log10(0.002)),
        "fmean": (np.log10(1.5), np.log10(0.02)),
        "density": (np.log10(4 / 64), 0.0),
        "n_atoms": (np.log10(4), np.log10(2)),
    }
    assert expected.keys() == FEATURES.keys()
    got = environment_features(list(expected), graph(), torch.tensor([9, 0]), torch.tensor([100.0, 0.001]))
    np.testing.assert_allclose(got.numpy(), np.array(list(expected.values())).T, atol=INVARIANT)


def test_order_follows_the_names():
    one, two = (environment_features(names, graph(), 3, 1.0) for names in (["fmax", "step"], ["step", "fmax"]))
    assert torch.equal(one, two.flip(-1))
    assert environment_features([], graph(), 0, 1.0).shape == (2, 0)


def test_features_are_invariant():
    seen = graph()
    rotation = torch.from_numpy(Rotation.random(rng=np.random.default_rng(0)).as_matrix())
    order = torch.tensor([2, 0, 3, 1, 5, 4])
    turned = seen.replace(
        positions=(seen.positions @ rotation.T + 1.0)[order],
        cell=seen.cell @ rotation.T,
        forces=(seen.forces @ rotation.T)[order],
        previous_forces=(seen.previous_forces @ rotation.T)[order],
        previous_displacement=(seen.previous_displacement @ rotation.T)[order],
    )
    names = list(FEATURES)
    torch.testing.assert_close(
        environment_features(names, turned, 2, 1.0), environment_features(names, seen, 2, 1.0), rtol=0, atol=INVARIANT
    )


def test_vanishing_forces_stay_finite():
    still = graph().replace(forces=torch.zeros(6, 3).double(), previous_forces=torch.zeros(6, 3).double())
    assert torch.isfinite(environment_features(list(FEATURES), still, 0, 0.0)).all()


def test_without_history_nothing_was_gained():
    fresh = graph().replace(previous_forces=None, previous_displacement=None)
    got = environment_features(["gain", "slope", "last_step"], fresh, 0, 1.0)
    assert got.tolist() == [[0.0, 0.0, -4.0]] * 2


def test_the_slope_tells_a_step_that_was_too_short_from_one_too_long():
    """A spring: full steps leave nothing, half of one leaves half of the slope, one and a half overshoots as much."""
    atom = graph_from_atoms(bulk("Cu", a=4.0))
    pull = torch.tensor([[2.0, 0.0, 0.0]]).double()
    slopes = []
    for part in (0.5, 1.0, 1.5):
        seen = atom.replace(forces=(1 - part) * pull, previous_forces=pull, previous_displacement=0.1 * part * pull)
        slopes.append(environment_features(["slope"], seen, 1, 2.0).item())
    assert slopes == pytest.approx([1 / 3, 0.0, -1 / 3])


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="there is no `pressure`; there are step, fmax"):
        environment_features(["pressure"], graph(), 0, 1.0)
    with pytest.raises(ValueError, match="pressure"):
        EnvConfig(features=("pressure",))
