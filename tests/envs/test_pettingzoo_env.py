"""One agent per atom: PettingZoo's own tests, and what atoms see and earn."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.neighborlist import neighbor_list

from relaxrl.envs.gym_env import RelaxEnv

from .conftest import cluster, crystal, rattled

pytest.importorskip("pettingzoo")
from pettingzoo.test import parallel_api_test, parallel_seed_test

from relaxrl.envs.pettingzoo_env import RelaxParallelEnv, parallel_env


@pytest.fixture
def crystals():
    alloy = bulk("Cu", cubic=True)
    alloy.numbers[:1] = 79
    return [crystal(alloy, "alloy"), crystal(rattled(cluster(n=3)), "chain", "start")]


@pytest.fixture
def env(crystals):
    return RelaxParallelEnv(crystals, n_max=5)


def pushes(env, rng, size=0.2):
    return {agent: rng.uniform(-size, size, 3).astype(np.float32) for agent in env.agents}


def test_pettingzoos_own_tests_are_content(crystals):
    parallel_api_test(RelaxParallelEnv(crystals, config={"max_steps": 4}), num_cycles=60)
    parallel_seed_test(lambda: parallel_env(structures=crystals, config={"max_steps": 4}), num_cycles=20)


def test_there_is_an_agent_for_each_atom_of_the_structure_at_hand(env):
    assert env.possible_agents == ["atom_0", "atom_1", "atom_2", "atom_3", "atom_4"]
    for structure, n in (("alloy#0", 4), ("chain#0", 3)):
        observations, infos = env.reset(seed=0, options={"structure": structure})
        assert env.agents == [f"atom_{k}" for k in range(n)]
        assert list(observations) == list(infos) == env.agents


def test_atoms_see_their_nearest_neighbours_with_their_forces(crystals):
    for asked in (6, 12):  # farther out are its own images, all equally far
        env = RelaxParallelEnv(crystals, n_neighbors=asked)
        observations, _ = env.reset(seed=0, options={"structure": 0})
        graph = env.core.graph
        atoms = crystals[0].atoms.copy()
        atoms.positions = graph.positions.numpy()
        i, j, d, vectors = neighbor_list("ijdD", atoms, 5.0)
        forces = graph.forces.numpy()
        for place, agent in enumerate(env.agents):
            row = observations[agent]
            assert row.shape == (4 + 7 * asked,)
            assert env.observation_space(agent).contains(row)
            assert row[0] == atoms.numbers[place]
            np.testing.assert_allclose(row[1:4], forces[place], rtol=1e-5, atol=1e-6)
            mine = np.flatnonzero(i == place)
            mine = mine[np.argsort(d[mine])][:asked]
            expected = np.column_stack([atoms.numbers[j[mine]], vectors[mine], forces[j[mine]]])
            np.testing.assert_allclose(row[4:].reshape(-1, 7)[: len(mine)], expected, rtol=1e-4, atol=1e-5)


def test_neighbours_that_are_not_there_are_zeros(env):
    observations, _ = env.reset(options={"structure": "chain#0"})
    rows = observations["atom_0"][4:].reshape(-1, 7)
    assert (rows[0, 0], rows[1, 0]) == (29.0, 0.0)  # the third atom is 5.0 Å away, or a little more or less
    assert not rows[2:].any()


def test_moves_are_those_of_the_single_agent_and_rewards_add_up_to_its_reward(crystals, env):
    single = RelaxEnv(crystals, n_max=5)
    single.reset(seed=4, options={"structure": 0})
    env.reset(seed=4, options={"structure": 0})
    rng = np.random.default_rng(1)
    for _ in range(5):
        before = env.core.graph.forces.norm(dim=1)
        actions = pushes(env, rng)
        joint = np.zeros((5, 3))
        joint[: len(actions)] = list(actions.values())
        observation, reward, terminated, truncated, info = single.step(joint.reshape(-1))
        agents = list(env.agents)
        _, rewards, terminations, truncations, infos = env.step(actions)
        assert sum(rewards.values()) == pytest.approx(reward, abs=1e-9)
        assert set(terminations.values()) == {terminated}
        assert set(truncations.values()) == {truncated}
        assert all(type(value) is float for value in rewards.values())
        np.testing.assert_array_equal([infos[a]["corrected"] for a in agents], info["corrected"][: len(agents)])
        np.testing.assert_allclose(env.state()[-15:].reshape(5, 3), observation["positions"], atol=1e-5)
        # Between two atoms, what the force of each has become makes the difference.
        after = env.core.graph.forces.norm(dim=1)
        own = -after - 0.1 * after.log10() + (before - after)
        expected = float(own[0] - own[1]) / len(agents)
        assert rewards["atom_0"] - rewards["atom_1"] == pytest.approx(expected, abs=1e-9)


def test_the_end_is_the_end_for_all(crystals):
    env = RelaxParallelEnv(crystals, config={"max_steps": 1})
    _, first = env.reset(seed=0, options={"structure": 0})
    *_, truncations, infos = env.step(pushes(env, np.random.default_rng(0)))
    assert truncations == dict.fromkeys(first, True)
    assert infos["atom_2"]["reason"] == "step_limit"
    assert infos["atom_2"].keys() == first["atom_2"].keys()
    assert env.agents == []
    assert env.step({}) == ({}, {}, {}, {}, {})


def test_bad_actions_are_refused_by_the_name_of_the_agent(env):
    env.reset(seed=0, options={"structure": 1})
    actions = pushes(env, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"missing or unknown: \['atom_1'\]"):
        env.step({agent: action for agent, action in actions.items() if agent != "atom_1"})
    with pytest.raises(ValueError, match=r"missing or unknown: \['atom_4'\]"):
        env.step(actions | {"atom_4": np.zeros(3)})
    with pytest.raises(ValueError, match=r"the action of `atom_0` must have shape \(3,\), got \(4,\)"):
        env.step(actions | {"atom_0": np.zeros(4)})
    with pytest.raises(ValueError, match="finite"):
        env.step(actions | {"atom_0": np.full(3, np.nan)})
    with pytest.raises(ValueError, match="`n_neighbors` must be at least 1, got 0"):
        RelaxParallelEnv("metals:train", n_neighbors=0)


def test_it_can_be_drawn(crystals):
    env = parallel_env(structures=crystals, render_mode="ansi")
    env.reset(options={"structure": 1})
    assert env.render().startswith("chain#0")
