"""The batched environment against Gymnasium's own, which steps single ones in turn."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from ase.build import bulk
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from relaxrl.envs.vector_env import RelaxVectorEnv

from .conftest import cluster, crystal, rattled

PADDED, FLAT = "relaxrl:relaxrl/Relax-v0", "relaxrl:relaxrl/RelaxFlat-v0"
ROUNDING = 1e-6


@pytest.fixture
def starts():
    return [
        crystal(rattled(bulk("Cu", cubic=True)), "copper", "start"),
        crystal(rattled(cluster(n=3), seed=1), "chain", "start"),
    ]


def equal(ours, theirs):
    """Whether nested dicts, arrays and objects have the same keys, types and values."""
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            equal(ours[key], theirs[key])
    elif isinstance(ours, tuple) or (isinstance(ours, np.ndarray) and ours.dtype == object):
        for a, b in zip(ours, theirs, strict=True):
            equal(a, b)
    elif isinstance(ours, np.ndarray):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        np.testing.assert_allclose(ours, theirs, rtol=ROUNDING, atol=ROUNDING)
    else:
        assert ours == theirs


@pytest.mark.parametrize("name", [PADDED, FLAT])
def test_steps_and_resets_are_those_of_gymnasiums_vector_environment(starts, name):
    # Starts are taken as they are, and there is one: episodes are equal without any draw.
    arguments = {"structures": starts[:1], "n_max": 5, "config": {"max_steps": 3}}
    ours = gymnasium.make_vec(name, num_envs=3, **arguments)
    theirs = gymnasium.make_vec(
        name, num_envs=3, vectorization_mode="sync", vector_kwargs={"autoreset_mode": "SameStep"}, **arguments
    )
    assert isinstance(ours, RelaxVectorEnv)
    assert isinstance(theirs, SyncVectorEnv)
    for attribute in ("observation_space", "action_space", "single_observation_space", "single_action_space"):
        assert getattr(ours, attribute) == getattr(theirs, attribute)
    assert ours.metadata == theirs.metadata
    equal(ours.reset(seed=0), theirs.reset(seed=0))
    rng = np.random.default_rng(0)
    ended = 0
    for _ in range(8):
        action = rng.uniform(-0.4, 0.4, ours.action_space.shape).astype(np.float32)
        mine, yours = ours.step(action), theirs.step(action)
        equal(mine, yours)
        ended += int((mine[2] | mine[3]).sum())
        assert ("final_obs" in mine[4]) == bool((mine[2] | mine[3]).any())
    assert ended == 6


def test_one_slot_may_begin_anew_while_others_go_on(starts):
    env = gymnasium.make_vec(PADDED, num_envs=2, structures=starts, config={"max_steps": 1000, "fmax": 0.5})
    observation, _ = env.reset(seed=0, options={"structure": ["copper#0", 1]})
    np.testing.assert_array_equal(observation["mask"].sum(axis=1), [4, 3])
    for _ in range(60):  # along the forces, until one of them has come to rest
        action = np.clip(0.1 * observation["forces"], -1, 1).reshape(2, -1)
        observation, _, terminated, truncated, info = env.step(action)
        if (terminated | truncated).any():
            break
    assert (terminated | truncated).sum() == 1
    slot = int(np.flatnonzero(terminated | truncated)[0])
    assert info["final_info"]["fmax"][slot] <= 0.5
    assert info["final_info"]["is_success"][slot]
    assert info["force_evaluations"][slot] == 1
    assert info["force_evaluations"][1 - slot] > 1
    assert info["reward_done"][slot] == 0.0
    assert info["final_obs"][1 - slot] is None
    forces = info["final_obs"][slot]["forces"]
    assert np.linalg.norm(forces, axis=1).max() == pytest.approx(info["final_info"]["fmax"][slot], rel=1e-5)


def test_without_autoreset_ended_episodes_rest_until_the_mask_names_them(starts):
    env = gymnasium.make_vec(
        PADDED, num_envs=2, structures=starts[:1], config={"max_steps": 2}, autoreset_mode="Disabled"
    )
    assert env.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    first, _ = env.reset(seed=0)
    push = np.full((2, 12), 0.1, dtype=np.float32) * np.arange(12)
    for _ in range(2):
        last = env.step(push)
    assert last[3].all()
    again = env.step(push)
    np.testing.assert_array_equal(again[0]["positions"], last[0]["positions"])
    np.testing.assert_array_equal(again[1], [0.0, 0.0])
    observation, info = env.reset(options={"reset_mask": np.array([False, True])})
    np.testing.assert_array_equal(observation["positions"][0], last[0]["positions"][0])
    np.testing.assert_array_equal(observation["positions"][1], first["positions"][1])
    np.testing.assert_array_equal(info["_fmax"], [False, True])
    assert info["fmax"][0] == 0.0
    *_, truncated, info = env.step(push)
    np.testing.assert_array_equal(truncated, [True, False])


def rollout(env, seed):
    seen = [env.reset(seed=seed)[0]]
    env.action_space.seed(seed)
    for _ in range(6):
        observation, reward, *_ = env.step(env.action_space.sample())
        seen += [observation, reward]
    return seen


def test_a_seed_decides_the_whole_batch():
    minima = [crystal(bulk(symbol, cubic=True), symbol) for symbol in ("Cu", "Au", "Pt")]
    env = gymnasium.make_vec(FLAT, num_envs=4, structures=minima, config={"max_steps": 2})
    for a, b in zip(rollout(env, 5), rollout(env, 5), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(rollout(env, 5)[0], rollout(env, 6)[0])


def test_arrays_are_fresh_at_every_call(starts):
    env = gymnasium.make_vec(PADDED, num_envs=2, structures=starts[:1], config={"max_steps": 2})
    first, _ = env.reset(seed=0)
    kept = {key: value.copy() for key, value in first.items()}
    one = env.step(np.full((2, 12), 0.2))
    two = env.step(np.full((2, 12), -0.1))
    for key in kept:
        np.testing.assert_array_equal(first[key], kept[key])
        assert not np.shares_memory(one[0][key], two[0][key])
    for k in (1, 2, 3):
        assert not np.shares_memory(one[k], two[k])


def test_bad_arguments_are_refused(starts):
    for mode in ("NextStep", AutoresetMode.NEXT_STEP, "never"):
        with pytest.raises(ValueError, match='must be "SameStep" or "Disabled"'):
            gymnasium.make_vec(PADDED, num_envs=2, structures=starts, autoreset_mode=mode)
    with pytest.raises(ValueError, match="`render_mode` must be None or one of rgb_array, ansi, got 'human'"):
        RelaxVectorEnv(2, structures=starts, render_mode="human")
    with pytest.raises(ValueError, match="n_envs"):
        RelaxVectorEnv(0, structures=starts)
    env = RelaxVectorEnv(2, structures=starts)
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(np.zeros((2, 12)))
    with pytest.raises(RuntimeError, match="call reset"):
        env.reset(options={"reset_mask": np.array([True, False])})
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"shape \(2, 12\) \(num_envs, 3 \* n_max\), got \(12,\)"):
        env.step(np.zeros(12))
    with pytest.raises(ValueError, match="must be finite"):
        env.step(np.full((2, 12), np.nan))
    with pytest.raises(ValueError, match="there is no structure `silver`"):
        env.reset(options={"structure": "silver"})
    with pytest.raises(ValueError, match="`structure` must be one for each of the 2 slots that begin anew, got 3"):
        env.reset(options={"structure": [0, 1, 0]})
    for mask in (np.array([1, 0]), np.array([True]), np.array([False, False])):
        with pytest.raises(ValueError, match="`reset_mask` must be bool"):
            env.reset(options={"reset_mask": mask})
