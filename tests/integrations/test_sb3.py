"""Stable-Baselines3 with our networks, and its agents at work."""

import json
import pickle
import shutil

import gymnasium
import numpy as np
import pytest
import torch
from ase.calculators.emt import EMT
from scipy.spatial.transform import Rotation
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from relaxrl.agents import Agent, load_agent
from relaxrl.errors import CheckpointError, ConfigError, StructureError
from relaxrl.graph import AtomGraph
from relaxrl.integrations import load_foreign
from relaxrl.integrations.padded import graph_from_padded
from relaxrl.integrations.sb3 import GraphExtractor, GraphSACPolicy, GraphTD3Policy, SaveAgent, load_sb3, save_sb3
from relaxrl.integrations.sb3.policies import ACTOR
from relaxrl.io import graph_from_atoms
from relaxrl.nn import DirectActorConfig, TrunkConfig
from relaxrl.optimize import RLOptimizer
from relaxrl.optimize.policy import load_policy

from .conftest import MAX_STEP

FLOAT32 = 1e-5
SMALL = {"learning_starts": 20, "batch_size": 8, "buffer_size": 200, "seed": 0}
GRAPH_ACTOR = DirectActorConfig(trunk=ACTOR.trunk, max_step=MAX_STEP)


def with_forces(atoms):
    atoms = atoms.copy()
    atoms.calc = EMT()
    return graph_from_atoms(atoms).replace(forces=torch.from_numpy(atoms.get_forces()))


def graph_model(kind, env):
    policy = GraphTD3Policy if kind is TD3 else GraphSACPolicy
    return kind(policy, env, policy_kwargs={"actor_config": GRAPH_ACTOR}, **SMALL)


def shown(env, graph):
    """A graph as the environment's observation, as tensors of a batch."""
    observations = env.unwrapped.view.observations(graph)
    return {key: torch.from_numpy(value) for key, value in observations.items()}


@pytest.fixture(scope="module")
def normalized(make, tmp_path_factory):
    """A folder with a short TD3 run under VecNormalize, its model and its environment."""
    folder = tmp_path_factory.mktemp("td3")
    env = VecNormalize(DummyVecEnv([lambda: Monitor(make())]), norm_obs_keys=["positions", "forces"])
    model = TD3("MultiInputPolicy", env, policy_kwargs={"net_arch": [16]}, **SMALL)
    model.learn(60)
    save_sb3(model, folder)
    return folder, model, env


@pytest.mark.parametrize("kind", [TD3, SAC])
def test_graph_policies_learn_and_come_back_the_same(kind, make, atoms, tmp_path):
    env = make()
    model = graph_model(kind, env)
    before = [parameter.clone() for parameter in model.policy.actor.parameters()]
    model.learn(40)
    after = list(model.policy.actor.parameters())
    assert any(not torch.equal(one, other) for one, other in zip(before, after, strict=True))
    observation, _ = env.reset(seed=3)
    action, _ = model.predict(observation, deterministic=True)
    model.save(tmp_path / "model.zip")
    again = kind.load(tmp_path / "model.zip", env=env)
    np.testing.assert_array_equal(again.predict(observation, deterministic=True)[0], action)
    save_sb3(model, tmp_path / "agent")
    agent = load_sb3(tmp_path / "agent")
    assert isinstance(agent, Agent)
    atoms.numbers[:] = 29
    atoms.positions = observation["positions"][:4]
    displacement = agent.act(with_forces(atoms)).numpy()
    np.testing.assert_allclose(displacement, MAX_STEP * action.reshape(5, 3)[:4], atol=1e-4)
    # A graph policy needs neither SB3 nor `n_max` any more.
    agent.save(tmp_path / "ours")
    large = with_forces(atoms.repeat((2, 1, 1)))
    np.testing.assert_allclose(load_agent(tmp_path / "ours").act(large).numpy()[:4], displacement, atol=1e-4)


@pytest.mark.parametrize("policy", [GraphTD3Policy, GraphSACPolicy])
def test_graph_policies_rotate_permute_and_ignore_padding(policy, make, atoms):
    env = make()
    torch.manual_seed(0)
    made = policy(env.observation_space, env.action_space, lambda _: 1e-3)
    for parameter in made.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    rotation = Rotation.random(rng=np.random.default_rng(1)).as_matrix()
    graph = with_forces(atoms)
    turn = torch.from_numpy(rotation)
    rotated = graph.replace(positions=graph.positions @ turn.T, cell=graph.cell @ turn.T, forces=graph.forces @ turn.T)
    order = torch.tensor([2, 0, 3, 1])
    permuted = graph.replace(
        positions=graph.positions[order], forces=graph.forces[order], atomic_numbers=graph.atomic_numbers[order]
    )
    observations = shown(env, AtomGraph.batch([graph, rotated, permuted]))
    with torch.no_grad():
        plain, turned, mixed = made._predict(observations, deterministic=True).reshape(3, 5, 3)
        values = made.critic(observations, made._predict(observations, deterministic=True))[1]
    assert plain[:4].abs().max() > 0.01
    assert not plain[4].any()
    assert plain.norm(dim=1).max() < 1
    torch.testing.assert_close(turned[:4], plain[:4] @ turn.float().T, atol=FLOAT32, rtol=0)
    torch.testing.assert_close(mixed[:4], plain[order], atol=FLOAT32, rtol=0)
    torch.testing.assert_close(values, values[:1].expand(3, 1), atol=1e-4, rtol=0)


def test_density_of_the_sac_policy_integrates_to_the_gaussian_it_came_from(make, atoms):
    # The change of variables by automatic differentiation, for one atom: log pi(a) = log N(u) - log |da/du|.
    env = make()
    actor = GraphSACPolicy(env.observation_space, env.action_space, lambda _: 1e-3, initial_std=0.6).actor
    observations = shown(env, with_forces(atoms))
    torch.manual_seed(5)
    action, log_prob = actor.action_log_prob(observations)
    torch.manual_seed(5)
    graph, _ = graph_from_padded(observations)
    _, _, step = actor.network.proposal(graph)
    mean = step / actor.max_step
    drawn = mean + 0.6 * torch.randn_like(mean)

    def squash(u):
        return u * (1 + u.square().sum(-1, keepdim=True).square()).pow(-0.25)

    torch.testing.assert_close(action.reshape(5, 3)[:4], squash(drawn))
    jacobians = [torch.autograd.functional.jacobian(squash, row[None])[0, :, 0] for row in drawn.detach()]
    gaussian = torch.distributions.Normal(mean, 0.6).log_prob(drawn).sum()
    expected = gaussian - sum(torch.linalg.slogdet(jacobian)[1] for jacobian in jacobians)
    torch.testing.assert_close(log_prob[0], expected, atol=1e-3, rtol=1e-4)


def test_trunk_as_extractor_serves_any_algorithm(make, atoms):
    env = make()
    kwargs = {"features_extractor_class": GraphExtractor, "net_arch": [16]}
    model = PPO("MultiInputPolicy", env, n_steps=16, batch_size=8, n_epochs=1, policy_kwargs=kwargs, seed=0)
    extractor = model.policy.features_extractor
    before = extractor.read.weight.clone()
    model.learn(16)
    assert not torch.equal(extractor.read.weight, before)
    graph = with_forces(atoms)
    turn = torch.from_numpy(Rotation.random(rng=np.random.default_rng(2)).as_matrix())
    turned = graph.replace(positions=graph.positions @ turn.T, cell=graph.cell @ turn.T, forces=graph.forces @ turn.T)
    with torch.no_grad():
        plain, rotated = extractor(shown(env, AtomGraph.batch([graph, turned]))).reshape(2, 5, 8 + 3 * 4)
    torch.testing.assert_close(rotated[:, :8], plain[:, :8], atol=1e-4, rtol=0)
    vectors = plain[:, 8:].reshape(5, 4, 3)
    torch.testing.assert_close(rotated[:, 8:].reshape(5, 4, 3), vectors @ turn.float().T, atol=1e-4, rtol=0)
    assert vectors[:4].norm() > 0
    assert not plain[4].any()


def test_saved_agents_give_the_actions_of_the_model(normalized, make):
    folder, model, env = normalized
    policy = load_policy(f"sb3:{folder}")
    assert policy.max_step == MAX_STEP
    core = make().unwrapped
    observation, _ = core.reset(seed=7)
    expected, _ = model.predict(env.normalize_obs(observation), deterministic=True)
    vectors = MAX_STEP * expected.reshape(5, 3)[:4]
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True) / MAX_STEP, 1)
    two = AtomGraph.batch([core.core.graph, core.core.graph])
    np.testing.assert_allclose(policy.act(two).numpy(), np.tile(vectors / lengths, (2, 1)), atol=FLOAT32)


def test_missing_statistics_are_an_error_that_says_what_to_do(normalized, tmp_path):
    folder, model, env = normalized
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "vecnormalize.pkl").unlink()
    with pytest.raises(CheckpointError, match=r"VecNormalize statistics are missing.*vecnormalize\.pkl"):
        load_sb3(tmp_path / "copy")
    model.save(tmp_path / "bare.zip")
    with pytest.raises(CheckpointError, match="normalize=false"):
        load_sb3(tmp_path / "bare.zip")
    assert load_foreign(f"sb3:{tmp_path / 'bare.zip'},normalize=false,max_step=0.1").max_step == 0.1
    env.save(str(tmp_path / "vecnormalize.pkl"))
    with pytest.warns(UserWarning, match=r"bare\.zip: nothing says which max_step .*, 0\.5 Å is assumed"):
        assert load_sb3(tmp_path / "bare.zip").max_atoms == 5
    (tmp_path / "vecnormalize.pkl").write_bytes(pickle.dumps([1]))
    with pytest.raises(CheckpointError, match="expected a VecNormalize, got list"):
        load_sb3(tmp_path / "bare.zip")


def test_callbacks_of_sb3_leave_agents_that_load(make, tmp_path):
    env = VecNormalize(DummyVecEnv([lambda: Monitor(make())]), norm_obs_keys=["forces"])
    judge = VecNormalize(DummyVecEnv([lambda: Monitor(make())]), norm_obs_keys=["forces"], training=False)
    model = SAC("MultiInputPolicy", env, policy_kwargs={"net_arch": [16]}, **SMALL)
    best = EvalCallback(judge, callback_on_new_best=SaveAgent(tmp_path / "best"), eval_freq=30, n_eval_episodes=1)
    model.learn(60, callback=[best, CheckpointCallback(30, str(tmp_path), save_vecnormalize=True)])
    graph = make().unwrapped
    graph.reset(seed=0)
    for name in ("best", "rl_model_60_steps.zip"):
        assert load_sb3(tmp_path / name, max_step=MAX_STEP).act(graph.core.graph).shape == (4, 3)
    assert json.loads((tmp_path / "best" / "sb3.json").read_text())["algorithm"].endswith(":SAC")


def test_flat_observations_and_the_algorithm_are_told_from_the_file(make, tmp_path):
    env = make(flat=True)
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=8, policy_kwargs={"net_arch": [8]}, seed=0)
    model.save(tmp_path / "ppo")
    policy = load_sb3(tmp_path / "ppo", max_step=MAX_STEP, normalize=False)
    observation, _ = env.reset(seed=0)
    expected = MAX_STEP * model.predict(observation, deterministic=True)[0].reshape(5, 3)[:4]
    np.testing.assert_allclose(policy.act(env.unwrapped.core.graph).numpy(), expected, atol=FLOAT32)


def test_agents_relax_and_refuse_what_they_have_no_room_for(normalized, atoms):
    folder, _, _ = normalized
    atoms.calc = EMT()
    assert RLOptimizer(atoms, agent=f"sb3:{folder}", logfile=None).run(fmax=0.05)
    large = atoms.repeat((2, 1, 1))
    large.calc = EMT()
    with pytest.raises(StructureError, match=r"8 atoms.*n_max = 5"):
        RLOptimizer(large, agent=f"sb3:{folder}", logfile=None)


def test_what_can_not_work_is_refused(normalized, make, tmp_path):
    env = normalized[2]
    with pytest.raises(CheckpointError, match="no model"):
        load_sb3(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"expected one model \(model\.zip\), found none"):
        load_sb3(tmp_path / "empty")
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(CheckpointError, match="no model of Stable-Baselines3"):
        load_sb3(tmp_path / "text.zip")
    with pytest.raises(ConfigError, match="history"):
        GraphTD3Policy(
            env.observation_space, env.action_space, lambda _: 1e-3, DirectActorConfig(trunk=TrunkConfig(channels=4))
        )
    with pytest.raises(ConfigError, match="Dict observations"):
        GraphExtractor(make(flat=True).observation_space)
    with pytest.raises(ConfigError, match="max_step"):
        save_sb3(TD3(GraphTD3Policy, make(), **SMALL), tmp_path / "mismatch")
    policy = GraphTD3Policy(env.observation_space, env.action_space, lambda _: 1e-3)
    with pytest.raises(ValueError, match="norm_obs=False"):
        policy.predict(make().reset(seed=0)[0] | {"mask": np.full(5, 0.3, dtype=np.float32)})


def test_the_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "stable_baselines3", None)
    with pytest.raises(ConfigError, match=r"pip install 'relaxrl\[sb3\]'"):
        load_foreign("sb3:anything")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sb3:runs/td3,foo=1", "no argument 'foo'; those after the name may be: max_step, normalize, algorithm"),
        ("sb3:runs/td3,max_stp=0.3", "no argument 'max_stp' .did you mean 'max_step'"),
    ],
)
def test_unknown_arguments_are_told_beside_the_known_ones(name, said):
    with pytest.raises(ConfigError, match=said):
        load_foreign(name)


def test_policies_that_move_atoms_alone_refuse_environments_whose_cells_strain(atoms, tmp_path):
    env = gymnasium.make("relaxrl:relaxrl/Relax-v0", structures=[atoms], config={"cell": True})
    with pytest.raises(ConfigError, match="these policies move atoms alone: leave `cell` out"):
        TD3(GraphTD3Policy, env, **SMALL)
    model = PPO("MultiInputPolicy", env, n_steps=8, batch_size=8, policy_kwargs={"net_arch": [8]}, seed=0)
    model.learn(8)
    model.save(tmp_path / "strains")
    with pytest.raises(CheckpointError, match="trained with cells that strain"):
        load_sb3(tmp_path / "strains", max_step=MAX_STEP, normalize=False)
