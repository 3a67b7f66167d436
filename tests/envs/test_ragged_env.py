from __future__ import annotations

import pickle

import gymnasium
import numpy as np
import pytest
from ase.build import bulk
from gymnasium.utils.env_checker import check_env

from relaxrl.envs.gym_env import RelaxEnv
from relaxrl.envs.ragged_env import AtomArray, RelaxRaggedEnv

from .conftest import cluster, crystal, rattled

ID = "relaxrl:relaxrl/RelaxRagged-v0"


@pytest.fixture
def crystals():
    return [
        crystal(bulk("Cu", cubic=True), "copper"),
        crystal(rattled(cluster(n=3)), "chain", "start"),
        crystal(bulk("Au", cubic=True).repeat((2, 1, 1)), "gold"),
    ]


def test_gymnasiums_checker_is_content(crystals):
    check_env(gymnasium.make(ID, structures=crystals).unwrapped, skip_render_check=True)


def test_it_is_the_padded_view_without_the_padding(crystals):
    ragged, padded = RelaxRaggedEnv(crystals), RelaxEnv(crystals)
    rng = np.random.default_rng(0)
    for structure, n in enumerate((4, 3, 8)):
        ours, theirs = (env.reset(seed=1, options={"structure": structure})[0] for env in (ragged, padded))
        assert ours["positions"].shape == ours["forces"].shape == (n, 3)
        assert ours["numbers"].shape == (n,)
        action = rng.uniform(-0.2, 0.2, (8, 3)).astype(np.float32)
        results = [(ours, theirs), (ragged.step(action[:n])[0], padded.step(action.reshape(-1))[0])]
        for a, b in results:
            assert ragged.observation_space.contains(a)
            for key in ("numbers", "positions", "forces"):
                np.testing.assert_array_equal(a[key], b[key][:n])
            for key in ("cell", "pbc"):
                np.testing.assert_array_equal(a[key], b[key])


def test_surplus_rows_have_no_effect_and_missing_ones_are_refused(crystals):
    env = RelaxRaggedEnv(crystals)
    long = env.action_space.sample()
    assert long.shape == (8, 3)
    env.reset(seed=0, options={"structure": 0})
    a = env.step(0.1 * long)
    env.reset(seed=0, options={"structure": 0})
    b = env.step(0.1 * long[:4])
    np.testing.assert_array_equal(a[0]["positions"], b[0]["positions"])
    for shape in ((3, 3), (9, 3), (4, 2), (12,)):
        with pytest.raises(ValueError, match=r"shape \(n_atoms=4, 3\), or more rows up to n_max=8, got"):
            env.step(np.zeros(shape))
    with pytest.raises(ValueError, match="finite"):
        env.step(np.full((4, 3), np.inf))


def test_spaces_are_equal_whatever_structure_is_there(crystals):
    small, large = RelaxRaggedEnv(crystals), RelaxRaggedEnv(crystals)
    small.reset(options={"structure": 1})
    large.reset(options={"structure": 2})
    assert small.observation_space == large.observation_space
    assert small.action_space == large.action_space == pickle.loads(pickle.dumps(small.action_space))
    assert small.action_space != AtomArray(9, (3,), -1.0, 1.0)
    assert small.action_space != small.observation_space["forces"]


def test_the_space_contains_arrays_of_all_lengths_and_nothing_else():
    space = AtomArray(4, (3,), -1.0, 1.0, seed=0)
    for n in (1, 3, 4):
        assert np.ones((n, 3), np.float32) in space
    wrong = [(0, 3), (5, 3), (4, 2), (4,), ()]
    assert not any(np.zeros(shape, np.float32) in space for shape in wrong)
    assert np.zeros((2, 3)) not in space  # float64
    assert np.full((2, 3), np.nan, np.float32) not in space
    assert np.full((2, 3), 1.5, np.float32) not in space
    assert [[0.0, 0.0, 0.0]] not in space
    samples = [space.sample() for _ in range(3)]
    assert all(sample in space for sample in samples)
    back = space.from_jsonable(space.to_jsonable(samples))
    np.testing.assert_array_equal(back, samples)
    space.seed(0)
    np.testing.assert_array_equal(space.sample(), samples[0])


@pytest.mark.parametrize(("mode", "options"), [("sync", {}), ("async", {"shared_memory": False, "context": "spawn"})])
def test_vector_environments_take_different_structures_at_once(crystals, mode, options):
    env = gymnasium.make_vec(ID, num_envs=2, vectorization_mode=mode, vector_kwargs=options, structures=crystals)
    sizes = set()
    env.action_space.seed(0)
    for seed in range(4):
        observation, _ = env.reset(seed=seed)
        sizes.add(tuple(len(positions) for positions in observation["positions"]))
        observation, reward, *_, info = env.step(env.action_space.sample())
        assert reward.shape == (2,)
        assert info["proposed"].shape == (2, 8, 3)
        assert all(a in s for a, s in zip(observation["forces"], env.observation_space["forces"], strict=True))
    env.close()
    assert len(sizes) > 1
