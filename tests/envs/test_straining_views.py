"""Cells that strain behind the interfaces of other libraries."""

from __future__ import annotations

import copy
import pickle
import warnings

import gymnasium
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from gymnasium.utils.env_checker import check_env

from relaxrl.errors import ConfigError
from relaxrl.strain import tensor_from_vector

from .conftest import crystal, rattled

CRYSTALS = [
    crystal(bulk("Cu", cubic=True), "copper"),
    crystal(rattled(bulk("Au", a=4.2, cubic=True).repeat((2, 1, 1)), 0.05), "gold", "start"),
    crystal(fcc111("Pt", (1, 1, 3), vacuum=6.0, periodic=True), "slab"),
]
CONFIG = {"max_steps": 6, "cell": {"max_strain": 0.05}}
FLOAT32 = 1e-5


def make(name="Relax", config=None, **arguments):
    return gymnasium.make(f"relaxrl:relaxrl/{name}-v0", structures=CRYSTALS, config=config or CONFIG, **arguments)


@pytest.mark.parametrize("name", ["Relax", "RelaxFlat", "RelaxRagged"])
def test_gymnasiums_checker_is_content(name):
    check_env(make(name).unwrapped, skip_render_check=True)


@pytest.mark.filterwarnings("ignore:.*unconventional shape:UserWarning")
@pytest.mark.parametrize("name", ["Relax", "RelaxFlat"])
def test_stable_baselines_checker_is_content(name):
    pytest.importorskip("stable_baselines3.common.env_checker").check_env(make(name).unwrapped)


def test_spaces_have_stress_and_six_more_numbers():
    env = make()
    assert env.action_space == gymnasium.spaces.Box(-1, 1, (3 * 8 + 6,), np.float32)
    assert env.observation_space["stress"].shape == (6,)
    flat = make("RelaxFlat")
    assert flat.observation_space.shape == (8 * 8 + 12 + 6,)
    observation, _ = env.reset(seed=3)
    np.testing.assert_array_equal(flat.reset(seed=3)[0], gymnasium.spaces.flatten(env.observation_space, observation))


def test_without_cell_all_is_as_before():
    env = make(config={"max_steps": 6})
    assert env.action_space.shape == (24,)
    assert list(env.observation_space) == ["cell", "forces", "mask", "numbers", "pbc", "positions"]
    _, info = env.reset(seed=0)
    assert not {"stress", "smax", "proposed_strain", "corrected_strain", "reward_stress"} & info.keys()


def test_actions_strain_in_units_of_the_largest_and_ase_agrees_about_the_stress():
    env = make()
    before, first = env.reset(seed=0, options={"structure": "gold#0"})
    action = np.zeros(30, dtype=np.float32)
    action[0], action[-6], action[-1] = 0.1, -0.3, 0.4
    after, _, _, _, info = env.step(action)
    strain = np.array([-0.015, 0, 0, 0, 0, 0.02])
    np.testing.assert_allclose(info["proposed_strain"], strain, atol=FLOAT32)
    np.testing.assert_allclose(info["corrected_strain"], strain, atol=FLOAT32)
    deformation = np.eye(3) + tensor_from_vector(strain)
    np.testing.assert_allclose(after["cell"], before["cell"] @ deformation, atol=FLOAT32)
    moved = before["positions"] @ deformation
    moved[0, 0] += 0.05
    np.testing.assert_allclose(after["positions"], moved, atol=FLOAT32)
    atoms = Atoms(after["numbers"].astype(int), after["positions"], cell=after["cell"], pbc=True, calculator=EMT())
    np.testing.assert_allclose(after["stress"], atoms.get_stress(), atol=FLOAT32)
    np.testing.assert_allclose(info["stress"], atoms.get_stress(), atol=FLOAT32)
    assert info["smax"] == pytest.approx(np.abs(np.linalg.eigvalsh(atoms.get_stress(voigt=False))).max(), abs=1e-4)
    assert info["force_evaluations"] == 2
    assert first.keys() == info.keys()
    long = env.step(np.ones(30, dtype=np.float32))[4]
    assert np.linalg.norm(long["proposed_strain"]) == pytest.approx(0.05, abs=FLOAT32)


@pytest.mark.parametrize("name", ["Relax", "RelaxFlat", "RelaxRagged"])
def test_random_actions_stay_in_the_spaces_and_info_keeps_its_form(name):
    env = make(name)
    env.action_space.seed(0)
    for structure in range(3):
        observation, first = env.reset(seed=structure, options={"structure": structure})
        done = False
        while not done:
            observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
            done = terminated or truncated
            assert env.observation_space.contains(observation)
            form = [{key: (type(value), np.shape(value)) for key, value in each.items()} for each in (first, info)]
            assert form[0] == form[1]
            assert reward == pytest.approx(sum(value for key, value in info.items() if key.startswith("reward_")))
            assert info["is_success"] is terminated


def test_descent_succeeds_with_small_stress():
    env = make(config={"cell": {"smax": 0.002}, "max_steps": 100})
    observation, info = env.reset(seed=0, options={"structure": "gold#0"})
    while not info["reason"]:
        xx, yy, zz, yz, xz, xy = observation["stress"]
        mandel = np.array([xx, yy, zz, *(2**0.5 * np.array([yz, xz, xy]))])
        forces = 0.1 * observation["forces"].reshape(-1)
        action = np.concatenate([forces, -2.0 * mandel]).clip(-1, 1).astype(np.float32)
        observation, _, _, _, info = env.step(action)
    assert info["is_success"]
    assert info["smax"] <= 0.002
    assert info["fmax"] <= 0.05
    atoms = Atoms("Au8", observation["positions"], cell=observation["cell"], pbc=True, calculator=EMT())
    assert np.abs(atoms.get_stress()).max() <= 0.002 + FLOAT32


def test_many_structures_at_once():
    envs = gymnasium.make_vec("relaxrl:relaxrl/Relax-v0", num_envs=3, structures=CRYSTALS, config=CONFIG)
    observations, infos = envs.reset(seed=0, options={"structure": [0, 1, 2]})
    assert observations["stress"].shape == (3, 6)
    assert envs.action_space.shape == (3, 30)
    rng, ends = np.random.default_rng(0), 0
    for _ in range(8):
        actions = rng.uniform(-0.3, 0.3, (3, 30)).astype(np.float32)
        observations, rewards, terminated, truncated, infos = envs.step(actions)
        assert envs.observation_space.contains(observations)
        assert np.isfinite(rewards).all()
        ends += int((terminated | truncated).sum())
        if "final_info" in infos:
            assert infos["final_info"]["stress"].shape == (3, 6)
    assert ends >= 3
    assert infos["corrected_strain"].shape == (3, 6)
    ragged = gymnasium.make_vec("relaxrl:relaxrl/RelaxRagged-v0", num_envs=2, structures=CRYSTALS, config=CONFIG)
    ragged.reset(seed=0)
    ragged.step(ragged.action_space.sample())


def test_one_of_a_batch_is_as_alone():
    envs = gymnasium.make_vec("relaxrl:relaxrl/Relax-v0", num_envs=2, structures=CRYSTALS, config=CONFIG)
    envs.reset(seed=0, options={"structure": [1, 1]})
    single = make()
    single.reset(seed=0, options={"structure": 1})
    rng = np.random.default_rng(0)
    for _ in range(3):
        action = rng.uniform(-0.2, 0.2, 30).astype(np.float32)
        observations, rewards, *_ = envs.step(np.stack([0 * action, action]))
        observation, reward, *_ = single.step(action)
        np.testing.assert_allclose(observations["cell"][1], observation["cell"], atol=FLOAT32)
        np.testing.assert_allclose(observations["stress"][1], observation["stress"], atol=FLOAT32)
        assert rewards[1] == pytest.approx(reward, abs=1e-6)


def test_wrong_actions_say_what_is_expected():
    env, ragged = make().unwrapped, make("RelaxRagged").unwrapped
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"shape \(30,\) \(3 \* n_max \+ 6\), got \(24,\)"):
        env.step(np.zeros(24))
    with pytest.raises(ValueError, match="finite"):
        env.step(np.full(30, np.nan))
    ragged.reset(seed=0, options={"structure": 0})
    with pytest.raises(ValueError, match="`action` must be a mapping of `displacements`"):
        ragged.step(np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"`strain` of the action must have shape \(6,\), got \(3, 3\)"):
        ragged.step({"displacements": np.zeros((4, 3)), "strain": np.zeros((3, 3))})


def test_episodes_can_be_pickled_in_their_middle():
    env = make().unwrapped
    env.reset(seed=0)
    env.step(env.action_space.sample())
    other = pickle.loads(pickle.dumps(env))
    action = env.action_space.sample()
    for a, b in zip(env.step(action)[0].values(), other.step(action)[0].values(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert copy.deepcopy(env.view.action_space) == other.view.action_space


def test_agents_per_atom_say_that_they_have_no_strain():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("pettingzoo")
    from relaxrl.envs.pettingzoo_env import parallel_env

    with pytest.raises(ConfigError, match="`cell` is for one agent that moves all"):
        parallel_env(structures=CRYSTALS, config=CONFIG)
    env = parallel_env(structures=CRYSTALS)
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        env.step({"atom_0": np.zeros(3)})
