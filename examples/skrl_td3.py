"""Train with skrl: its TD3, replay memory and preprocessor, in `relaxrl/RelaxFlat-v0`.

pip install skrl==2.1.1
python examples/skrl_td3.py --out runs/skrl
relaxrl evaluate --agent policy:examples/skrl_td3.py:load,folder=runs/skrl --structures films.extxyz ...
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from skrl.agents.torch.td3 import TD3
from skrl.envs.wrappers.torch import wrap_env
from skrl.memories.torch import RandomMemory
from skrl.models.torch import DeterministicMixin, Model
from skrl.resources.noises.torch import GaussianNoise
from skrl.resources.preprocessors.torch import RunningStandardScaler
from skrl.trainers.torch import SequentialTrainer
from skrl.utils import set_seed
from small_crystals import GAMMA, Result, as_agent, evaluate, make_env, parser, report
from torch import Tensor, nn

from relaxrl.integrations import ObservationPolicy


class Network(DeterministicMixin, Model):
    """An actor, or a critic that sees the action as well."""

    def __init__(self, observation_space: spaces.Box, action_space: spaces.Box, critic: bool) -> None:
        Model.__init__(self, observation_space=observation_space, action_space=action_space, device="cpu")
        DeterministicMixin.__init__(self)
        self.critic = critic
        n_in = self.num_observations + self.num_actions * critic
        layers = [nn.Linear(n_in, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()]
        last = [nn.Linear(64, 1)] if critic else [nn.Linear(64, self.num_actions), nn.Tanh()]
        self.network = nn.Sequential(*layers, *last)

    def compute(self, inputs: dict[str, Any], role: str) -> tuple[Tensor, dict[str, Any]]:  # noqa: ARG002
        """Actions in [-1, 1], or values (n, 1)."""
        seen = inputs["observations"]
        return self.network(torch.cat([seen, inputs["taken_actions"]], 1) if self.critic else seen), {}


def make_agent(observation_space: spaces.Box, action_space: spaces.Box, folder: Path) -> TD3:
    """TD3 with the same numbers as the other examples."""
    names = ("policy", "target_policy", "critic_1", "critic_2", "target_critic_1", "target_critic_2")
    models = {name: Network(observation_space, action_space, "critic" in name) for name in names}
    noise = {"mean": 0.0, "device": "cpu"}
    config = {
        "batch_size": 128,
        "discount_factor": GAMMA,
        "polyak": 0.01,
        "learning_rate": 1e-3,
        "random_timesteps": 200,
        "learning_starts": 200,
        "observation_preprocessor": RunningStandardScaler,
        "observation_preprocessor_kwargs": {"size": observation_space, "device": "cpu"},
        "exploration_noise": GaussianNoise,
        "exploration_noise_kwargs": {**noise, "std": 0.1},
        "smooth_regularization_noise": GaussianNoise,
        "smooth_regularization_noise_kwargs": {**noise, "std": 0.05},
        "smooth_regularization_clip": 0.1,
        "experiment": {"directory": str(folder), "write_interval": 0, "checkpoint_interval": 0},
    }
    return TD3(
        models=models,
        memory=RandomMemory(memory_size=50_000, num_envs=1, device="cpu"),
        observation_space=observation_space,
        action_space=action_space,
        device="cpu",
        cfg=config,
    )


def load(folder: str) -> ObservationPolicy:
    """The saved actor as an agent."""
    env = make_env(flat=True)
    agent = make_agent(env.observation_space, env.action_space, Path(folder))
    agent.init()
    agent.load(str(Path(folder) / "agent.pt"))
    scale, policy = agent.checkpoint_modules["observation_preprocessor"], agent.policy

    def act(seen: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return policy.network(scale(torch.from_numpy(seen)[None]))[0].numpy()

    return as_agent(act, name="skrl TD3")


def main(arguments: Sequence[str] | None = None) -> dict[str, Result]:
    """Train, save, evaluate what was saved, and compare it with policies that learned nothing."""
    options = parser(__doc__, steps=4000).parse_args(arguments)
    set_seed(options.seed)
    made = make_env(flat=True)
    made.reset(seed=options.seed)  # skrl seeds no environment; later resets go on from here
    env = wrap_env(made)
    agent = make_agent(env.observation_space, env.action_space, options.out)
    settings = {"timesteps": options.steps, "headless": True, "disable_progressbar": True}
    SequentialTrainer(cfg=settings, env=env, agents=agent).train()
    options.out.mkdir(parents=True, exist_ok=True)
    agent.save(str(options.out / "agent.pt"))
    result = evaluate(load(str(options.out)).function, options.episodes, flat=True)
    return report("skrl TD3", result, options.out, options.episodes)


if __name__ == "__main__":
    main()
