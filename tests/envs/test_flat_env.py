from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from ase.build import bulk
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import FlattenObservation

from .conftest import cluster, crystal, rattled

PADDED, FLAT = "relaxrl:relaxrl/Relax-v0", "relaxrl:relaxrl/RelaxFlat-v0"


@pytest.fixture
def crystals():
    return [crystal(bulk("Cu", cubic=True), "copper"), crystal(rattled(cluster(n=3)), "chain", "start")]


def test_gymnasiums_checker_is_content(crystals):
    check_env(gymnasium.make(FLAT, structures=crystals).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("n_max", [None, 7])
def test_the_flat_view_is_what_gymnasiums_wrapper_makes_of_the_padded_one(crystals, n_max):
    flat = gymnasium.make(FLAT, structures=crystals, n_max=n_max)
    wrapped = FlattenObservation(gymnasium.make(PADDED, structures=crystals, n_max=n_max))
    assert flat.observation_space == wrapped.observation_space
    assert flat.observation_space.shape == (8 * (n_max or 4) + 12,)
    assert flat.action_space == wrapped.action_space
    rng = np.random.default_rng(0)
    for structure in (0, 1):
        ours, theirs = (env.reset(seed=3, options={"structure": structure})[0] for env in (flat, wrapped))
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == np.float32
        for _ in range(3):
            action = rng.uniform(-0.3, 0.3, flat.action_space.shape).astype(np.float32)
            ours, theirs = flat.step(action), wrapped.step(action)
            np.testing.assert_array_equal(ours[0], theirs[0])
            assert ours[1:4] == theirs[1:4]
