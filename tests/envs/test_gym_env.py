from __future__ import annotations

import pickle
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from gymnasium.utils.env_checker import check_env

from relaxrl.envs import EnvConfig
from relaxrl.envs.gym_env import RelaxEnv
from relaxrl.errors import CalculatorError, ConfigError, StructureError
from relaxrl.structures import shipped_names

from .conftest import cluster, crystal, rattled

ID = "relaxrl:relaxrl/Relax-v0"
FLOAT32 = 1e-5


@pytest.fixture
def crystals():
    return [
        crystal(bulk("Cu", cubic=True), "copper"),
        crystal(rattled(cluster(n=3)), "chain", "start"),
        crystal(bulk("Au", cubic=True).repeat((2, 1, 1)), "gold"),
    ]


@pytest.fixture
def env(crystals):
    return gymnasium.make(ID, structures=crystals)


def test_gymnasiums_checker_is_content(env):
    check_env(env.unwrapped, skip_render_check=True)


def test_spaces_are_flat_boxes_of_one_shape(env):
    assert env.action_space == gymnasium.spaces.Box(-1, 1, (24,), np.float32)
    shapes = {key: space.shape for key, space in env.observation_space.items()}
    assert shapes == {
        "numbers": (8,), "positions": (8, 3), "forces": (8, 3), "cell": (3, 3), "pbc": (3,), "mask": (8,)
    }  # fmt: skip
    assert all(space.dtype == np.float32 for space in env.observation_space.values())


def test_observations_are_the_structure_and_ases_forces(env):
    for index, (n, periodic) in enumerate([(4, 1.0), (3, 0.0), (8, 1.0)]):
        observation, info = env.reset(seed=1, options={"structure": index})
        atoms = env.unwrapped.task.crystals[index].atoms.copy()
        atoms.positions = observation["positions"][:n]
        atoms.calc = EMT()
        np.testing.assert_array_equal(observation["numbers"][:n], atoms.numbers)
        np.testing.assert_allclose(observation["forces"][:n], atoms.get_forces(), atol=1e-4)
        np.testing.assert_allclose(observation["cell"], atoms.cell.array, atol=FLOAT32)
        np.testing.assert_array_equal(observation["pbc"], [periodic] * 3)
        np.testing.assert_array_equal(observation["mask"], [1.0] * n + [0.0] * (8 - n))
        for key in ("numbers", "positions", "forces"):
            assert not observation[key][n:].any()
        assert info["energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
        assert info["force_evaluations"] == 1


def test_actions_are_displacements_in_units_of_the_longest_step(env):
    before, _ = env.reset(seed=0, options={"structure": "copper#0"})
    action = np.zeros((8, 3), dtype=np.float32)
    action[0] = [0.1, 0.0, 0.0]
    action[1] = [1.0, 1.0, 0.0]  # too long: limited to 1, whatever its direction
    action[5] = [1.0, 1.0, 1.0]  # no such atom
    after, _, _, _, info = env.step(action.reshape(-1))
    expected = np.zeros((8, 3))
    expected[0, 0] = 0.05
    expected[1, :2] = 0.5 / np.sqrt(2)
    np.testing.assert_allclose(info["proposed"], expected, atol=FLOAT32)
    np.testing.assert_allclose(info["corrected"], (1 - info["a_back"]) * expected, atol=FLOAT32)
    np.testing.assert_allclose(after["positions"] - before["positions"], info["corrected"], atol=FLOAT32)


def kinds(info):
    return {
        key: (type(value), getattr(value, "shape", ()), getattr(value, "dtype", None)) for key, value in info.items()
    }


def test_info_has_the_same_keys_shapes_and_types_always(env):
    _, first = env.reset(seed=0)
    _, again = env.reset(options={"structure": 2})
    assert kinds(first) == kinds(again)
    for _ in range(5):
        _, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert kinds(info) == kinds(first)
        assert (type(reward), type(terminated), type(truncated)) == (float, bool, bool)
        assert reward == pytest.approx(sum(value for key, value in info.items() if key.startswith("reward_")))
        if terminated or truncated:
            env.reset()
    assert {"proposed", "corrected", "a_back", "force_evaluations", "reason", "is_success", "energy", "fmax"} < set(
        first
    )


def test_arrays_are_fresh_at_every_call(env):
    first, info = env.reset(seed=0, options={"structure": 0})
    kept = {key: value.copy() for key, value in first.items()}
    second, _, _, _, later = env.step(0.1 * np.ones(24, dtype=np.float32))
    for key in kept:
        assert not np.shares_memory(first[key], second[key])
        np.testing.assert_array_equal(first[key], kept[key])
    assert not np.shares_memory(info["proposed"], later["proposed"])


def test_following_the_forces_succeeds(env):
    observation, _ = env.reset(seed=3, options={"structure": 0})
    steps = 0
    while True:
        steps += 1
        action = np.clip(0.1 * observation["forces"], -1, 1).reshape(-1)
        observation, _, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            break
    assert terminated
    assert info["is_success"]
    assert info["reason"] == "converged"
    assert info["reward_done"] == 10.0
    assert info["fmax"] <= 0.05
    assert info["force_evaluations"] == steps + 1


def test_the_step_limit_is_truncation(crystals):
    env = gymnasium.make(ID, structures=crystals, config={"max_steps": 2})
    env.reset(seed=0, options={"structure": 0})
    still = np.zeros(24, dtype=np.float32)
    env.step(still)
    _, _, terminated, truncated, info = env.step(still)
    assert (terminated, truncated, info["reason"], info["is_success"]) == (False, True, "step_limit", False)


def rollout(env, seed):
    observation, info = env.reset(seed=seed)
    env.action_space.seed(seed)
    seen = [(observation["positions"], info["structure"])]
    for _ in range(4):
        observation, reward, *_, info = env.step(env.action_space.sample())
        seen.append((observation["positions"], reward))
    return seen


def test_a_seed_decides_all(env):
    for (a, x), (b, y) in zip(rollout(env, 7), rollout(env, 7), strict=True):
        np.testing.assert_array_equal(a, b)
        assert x == y
    assert any(not np.array_equal(a, b) for (a, _), (b, _) in zip(rollout(env, 7), rollout(env, 8), strict=True))


def test_a_pickled_environment_goes_on_where_it_was(env):
    env.reset(seed=5, options={"structure": 0})
    env.step(0.1 * np.ones(24, dtype=np.float32))
    twin = pickle.loads(pickle.dumps(env))
    push = np.linspace(-0.2, 0.2, 24, dtype=np.float32)
    a, b = env.step(push), twin.step(push)
    np.testing.assert_array_equal(a[0]["forces"], b[0]["forces"])
    assert a[1:4] == b[1:4]
    np.testing.assert_array_equal(env.reset()[0]["positions"], twin.reset()[0]["positions"])


def drive(vector):
    observation, info = vector.reset(seed=11)
    assert observation["positions"].shape == (2, 8, 3)
    assert info["fmax"].shape == (2,)
    vector.action_space.seed(0)
    seen = [observation["positions"].copy()]
    for _ in range(4):
        observation, reward, *_, info = vector.step(vector.action_space.sample())
        assert info["proposed"].shape == (2, 8, 3)
        seen.append(observation["positions"].copy())
        seen.append(reward)
    vector.close()
    return seen


def test_vector_environments_in_one_and_in_spawned_processes_agree(crystals):
    sync = gymnasium.make_vec(ID, num_envs=2, vectorization_mode="sync", structures=crystals)
    spawned = gymnasium.make_vec(
        ID, num_envs=2, vectorization_mode="async", vector_kwargs={"context": "spawn"}, structures=crystals
    )
    for a, b in zip(drive(sync), drive(spawned), strict=True):
        np.testing.assert_array_equal(a, b)


def test_structures_come_from_files_too(tmp_path):
    path = tmp_path / "two.xyz"
    bulk("Cu", cubic=True).write(path)
    env = gymnasium.make(ID, structures=str(path), calculator="emt", n_max=6)
    assert env.observation_space["mask"].shape == (6,)
    assert env.reset(seed=0)[1]["structure"] == f"{path}#0"


def test_atoms_will_do_as_they_are_or_as_minima():
    start, minimum = rattled(bulk("Cu", cubic=True)), bulk("Au", cubic=True)
    minimum.info["relaxrl_kind"] = "minimum"
    env = RelaxEnv([start, minimum])
    observation, info = env.reset(seed=0, options={"structure": 0})
    assert info["structure"] == "atoms#0"
    np.testing.assert_allclose(observation["positions"], start.positions, atol=FLOAT32)
    observation, _ = env.reset(options={"structure": "atoms#1"})
    assert np.abs(observation["positions"] - minimum.positions).max() > 0.02
    start.positions += 1.0
    np.testing.assert_allclose(
        env.reset(options={"structure": 0})[0]["forces"], RelaxEnv(start).reset()[0]["forces"], atol=1e-3
    )
    np.testing.assert_allclose(env.reset(options={"structure": 0})[0]["positions"], start.positions - 1.0, atol=FLOAT32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"structures": 3}, "must be a name, a path, Atoms or crystals, or several of them, got 3"),
        ({"structures": [3]}, "must be names, paths, Atoms or crystals, got 3"),
        ({"structures": [bulk("Cu")], "n_max": "8"}, "`n_max` must be a whole number of atoms or None, got '8'"),
        ({"structures": [bulk("Cu")], "n_max": 8.0}, "`n_max` must be a whole number of atoms or None, got 8.0"),
        ({"structures": [bulk("Cu")], "n_max": 0}, "has 1 atoms, more than n_max = 0"),
    ],
)
def test_wrong_structures_and_sizes_are_told_from_right_ones(arguments, message):
    with pytest.raises(StructureError, match=message):
        RelaxEnv(**arguments)


@pytest.mark.parametrize("asked", [99, -1, 1.5, None])
def test_options_that_make_no_sense_are_refused(env, asked):
    with pytest.raises(ValueError, match=r"`options` of reset may have structure, got 'structur'"):
        env.reset(options={"structur": 0})
    if asked is not None:
        with pytest.raises(ValueError, match=f"an id or a number from 0 to 2, got {asked}"):
            env.reset(options={"structure": asked})


def test_a_configuration_object_or_a_mapping_will_do(crystals):
    assert RelaxEnv(crystals, config=EnvConfig(fmax=0.2)).task == RelaxEnv(crystals, config={"fmax": 0.2}).task
    with pytest.raises(ConfigError, match="fmx"):
        RelaxEnv(crystals, config={"fmx": 0.2})


def test_bad_arguments_are_refused(crystals):
    with pytest.raises(StructureError, match="gold#0 has 8 atoms, more than n_max = 6"):
        RelaxEnv(crystals, n_max=6)
    with pytest.raises(StructureError, match="empty"):
        RelaxEnv([])
    env = RelaxEnv(crystals)
    with pytest.raises(ValueError, match="there is no structure `silver`"):
        env.reset(options={"structure": "silver"})
    env.reset()
    with pytest.raises(ValueError, match=r"shape \(24,\)"):
        env.step(np.zeros((8, 3), dtype=np.float32))


def test_importing_relaxrl_registers_the_name_without_torch():
    code = "import relaxrl, gymnasium, sys; gymnasium.spec('relaxrl/Relax-v0'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_any_ase_calculator_will_do_if_it_can_be_made_anew(crystals):
    by_name = RelaxEnv(crystals[:1], calculator="ase.calculators.emt:EMT", config={"rattle": 0.1})
    by_class = RelaxEnv(crystals[:1], calculator=EMT, config={"rattle": 0.1})
    built_in = RelaxEnv(crystals[:1], config={"rattle": 0.1})
    forces = [env.reset(seed=2)[0]["forces"] for env in (by_name, by_class, built_in)]
    np.testing.assert_allclose(forces[0], forces[1])
    np.testing.assert_allclose(forces[0], forces[2], atol=FLOAT32)
    with pytest.raises(CalculatorError, match="pass its class"):
        RelaxEnv(crystals, calculator=EMT())


def test_elements_that_the_calculator_does_not_know_are_found_at_once():
    with pytest.raises(CalculatorError, match=r"no parameters for W.*tungsten#0"):
        RelaxEnv([crystal(bulk("W"), "tungsten")])


@pytest.mark.skipif(not shipped_names(), reason="the shipped sets have not been built")
def test_no_arguments_are_needed():
    env = gymnasium.make(ID)
    _, info = env.reset(seed=0)
    assert info["structure"].startswith("metals:train#")
    assert info["fmax"] > 0.05


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_action_that_is_no_number_is_refused(env, bad):
    env.reset(seed=0)
    action = np.zeros(24)
    action[4] = bad
    with pytest.raises(ValueError, match="`action` must be finite"):
        env.unwrapped.step(action)


def test_an_unknown_set_is_refused_by_name():
    with pytest.raises(StructureError, match="metls"):
        RelaxEnv("metls")
