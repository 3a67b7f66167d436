"""What must hold in all views, whatever the actions."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from ase.build import bulk, fcc111
from ase.data import covalent_radii
from ase.geometry import get_distances
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import cluster, crystal, rattled

CRYSTALS = [
    crystal(bulk("Cu", cubic=True), "copper"),
    crystal(rattled(cluster(2.4, 3), 0.05), "chain", "start"),
    crystal(fcc111("Pt", (1, 1, 3), vacuum=6.0), "slab"),
]
R_MIN, MAX_STEP = 0.6, 0.5
FLOAT32 = 1e-4
VIEWS = {name: gymnasium.make(f"relaxrl:relaxrl/{name}-v0", structures=CRYSTALS, config={"max_steps": 6}) for name in
         ("Relax", "RelaxFlat", "RelaxRagged")}  # fmt: skip


def kinds(info):
    return {key: (type(value), np.shape(value), getattr(value, "dtype", None)) for key, value in info.items()}


def check(env, observation, info, first):
    assert env.observation_space.contains(observation)
    assert kinds(info) == kinds(first)
    assert all(np.isfinite(value).all() for value in info.values() if not isinstance(value, str))
    atoms = CRYSTALS[[c.id for c in CRYSTALS].index(info["structure"])].atoms
    graph = env.unwrapped.core.graph
    _, distances = get_distances(graph.positions.numpy(), cell=atoms.cell, pbc=atoms.pbc)
    radii = covalent_radii[atoms.numbers]
    apart = distances / (radii[:, None] + radii)
    np.fill_diagonal(apart, np.inf)
    assert apart.min() >= R_MIN - FLOAT32


@pytest.mark.parametrize("name", VIEWS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**31 - 1),
    structure=st.sampled_from([0, 1, 2]),
    size=st.sampled_from([0.0, 0.05, 0.5, 1.0, 20.0]),  # the last is far outside of the space
)
def test_random_actions_lead_to_nothing_but_members_of_the_spaces_and_legal_structures(name, seed, structure, size):
    env = VIEWS[name]
    env.action_space.seed(seed)
    observation, first = env.reset(seed=seed, options={"structure": structure})
    assert env.observation_space.contains(observation)
    before, start = env.unwrapped.core.graph.positions, first["energy"]
    while True:
        action = size * env.action_space.sample()
        kept = action.copy()
        observation, reward, terminated, truncated, info = env.unwrapped.step(action)
        np.testing.assert_array_equal(action, kept)
        check(env, observation, info, first)
        assert (type(reward), type(terminated), type(truncated)) == (float, bool, bool)
        assert reward == pytest.approx(sum(value for key, value in info.items() if key.startswith("reward_")))
        assert not (terminated and truncated)
        assert (info["reason"] != "") == (terminated or truncated)
        assert info["is_success"] is terminated
        assert 0.0 <= info["a_back"] <= 1.0
        after = env.unwrapped.core.graph.positions
        assert float((after - before).norm(dim=1).max()) <= MAX_STEP + FLOAT32
        np.testing.assert_allclose(info["corrected"], (1 - info["a_back"]) * info["proposed"], atol=FLOAT32)
        before = after
        if terminated:
            assert info["fmax"] <= 0.05
            assert info["energy"] <= start + 1e-5 * len(after)
        if terminated or truncated:
            break


# Advice to write a policy of one's own: its default one flattens each array of a Dict.
@pytest.mark.filterwarnings("ignore:.*unconventional shape:UserWarning")
@pytest.mark.parametrize("name", ["Relax", "RelaxFlat"])
def test_stable_baselines_checker_is_content(name):
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    env = gymnasium.make(f"relaxrl:relaxrl/{name}-v0", structures=CRYSTALS, config={"max_steps": 3}).unwrapped
    checker.check_env(env)


def test_the_checker_of_stable_baselines_can_render():
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    env = gymnasium.make("relaxrl:relaxrl/RelaxFlat-v0", structures=CRYSTALS, render_mode="rgb_array").unwrapped
    checker.check_env(env, skip_render_check=False)
