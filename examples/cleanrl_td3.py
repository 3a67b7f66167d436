"""CleanRL's TD3 in `relaxrl/RelaxFlat-v0`: one file, adapted by three lines.

The loop and the networks are those of `cleanrl/td3_continuous_action.py` (Huang et al., JMLR 23 (274), 2022; MIT
licence, Copyright (c) 2019 CleanRL developers; https://github.com/vwxyzjn/cleanrl), without its logging. CleanRL pins
gymnasium 0.29; what later versions need is marked:

1. autoreset in the same step, so that `final_obs` exists (gymnasium 1.x resets in the next step unless told),
2. `infos["final_obs"]` instead of `infos["final_observation"]`,
3. `terminated` alone ends a value, also when an episode is cut off in the same step.

    python examples/cleanrl_td3.py --out runs/cleanrl
    relaxrl evaluate --agent policy:examples/cleanrl_td3.py:load,folder=runs/cleanrl --structures films.extxyz ...
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium.vector import AutoresetMode
from small_crystals import GAMMA, Result, as_agent, evaluate, make_env, parser, report, statistics, with_statistics
from torch import Tensor, nn

from relaxrl.integrations import ObservationPolicy

LEARNING_STARTS, BATCH_SIZE, LEARNING_RATE, TAU = 200, 128, 1e-3, 0.01
EXPLORATION, POLICY_NOISE, NOISE_CLIP, POLICY_FREQUENCY = 0.1, 0.05, 0.1, 2


class QNetwork(nn.Module):
    """Observation and action to a value."""

    def __init__(self, observation_size: int, action_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(observation_size + action_size, 64)
        self.fc2 = nn.Linear(64, 64)
        self.fc3 = nn.Linear(64, 1)

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        """Values (n, 1)."""
        x = torch.cat([x, a], 1)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


class Actor(nn.Module):
    """Observation to an action in [-1, 1]."""

    def __init__(self, observation_size: int, action_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(observation_size, 64)
        self.fc2 = nn.Linear(64, 64)
        self.fc_mu = nn.Linear(64, action_size)

    def forward(self, x: Tensor) -> Tensor:
        """Actions (n, action_size)."""
        return torch.tanh(self.fc_mu(F.relu(self.fc2(F.relu(self.fc1(x))))))


def train(steps: int, seed: int) -> tuple[Actor, dict[str, np.ndarray]]:
    """The loop; returns the actor and the statistics of its observations."""
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    envs = gymnasium.vector.SyncVectorEnv(
        [lambda: make_env(flat=True, normalize=True)],
        autoreset_mode=AutoresetMode.SAME_STEP,  # 1.
    )
    n_obs, n_act = envs.single_observation_space.shape[0], envs.single_action_space.shape[0]
    actor, target_actor = Actor(n_obs, n_act), Actor(n_obs, n_act)
    qf1, qf2, qf1_target, qf2_target = (QNetwork(n_obs, n_act) for _ in range(4))
    for target, online in ((target_actor, actor), (qf1_target, qf1), (qf2_target, qf2)):
        target.load_state_dict(online.state_dict())
    q_optimizer = torch.optim.Adam([*qf1.parameters(), *qf2.parameters()], lr=LEARNING_RATE)
    actor_optimizer = torch.optim.Adam(actor.parameters(), lr=LEARNING_RATE)
    stored: list[tuple[Any, ...]] = []

    obs, _ = envs.reset(seed=seed)
    for global_step in range(steps):
        if global_step < LEARNING_STARTS:
            actions = generator.uniform(-1, 1, (1, n_act)).astype(np.float32)
        else:
            with torch.no_grad():
                actions = actor(torch.from_numpy(obs).float()).numpy()
            actions = (actions + generator.normal(0, EXPLORATION, actions.shape)).clip(-1, 1).astype(np.float32)
        next_obs, rewards, terminations, truncations, infos = envs.step(actions)
        real_next_obs = next_obs.copy()
        for idx in np.flatnonzero(terminations | truncations):
            real_next_obs[idx] = infos["final_obs"][idx]  # 2.
        stored.append((obs[0], real_next_obs[0], actions[0], rewards[0], terminations[0]))  # 3.
        obs = next_obs
        if global_step <= LEARNING_STARTS:
            continue
        chosen = generator.integers(len(stored), size=BATCH_SIZE)
        x, x_next, a, r, done = (
            torch.as_tensor(np.array([stored[k][column] for k in chosen]), dtype=torch.float32) for column in range(5)
        )
        with torch.no_grad():
            noise = (torch.randn_like(a) * POLICY_NOISE).clamp(-NOISE_CLIP, NOISE_CLIP)
            next_actions = (target_actor(x_next) + noise).clamp(-1, 1)
            smaller = torch.min(qf1_target(x_next, next_actions), qf2_target(x_next, next_actions))
            next_q_value = r + (1 - done) * GAMMA * smaller.view(-1)
        qf_loss = F.mse_loss(qf1(x, a).view(-1), next_q_value) + F.mse_loss(qf2(x, a).view(-1), next_q_value)
        q_optimizer.zero_grad()
        qf_loss.backward()
        q_optimizer.step()
        if global_step % POLICY_FREQUENCY == 0:
            actor_loss = -qf1(x, actor(x)).mean()
            actor_optimizer.zero_grad()
            actor_loss.backward()
            actor_optimizer.step()
            for target, online in ((target_actor, actor), (qf1_target, qf1), (qf2_target, qf2)):
                for target_param, param in zip(target.parameters(), online.parameters(), strict=True):
                    target_param.data.lerp_(param.data, TAU)
    return actor, statistics(envs.envs[0])


def load(folder: str) -> ObservationPolicy:
    """The saved actor as an agent."""
    saved = torch.load(Path(folder) / "actor.pt", weights_only=True)
    actor = Actor(saved["fc1.weight"].shape[1], saved["fc_mu.bias"].shape[0])
    mean, variance = saved.pop("mean").numpy(), saved.pop("variance").numpy()
    actor.load_state_dict(saved)

    def act(observation: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return actor(torch.from_numpy(observation)).numpy()

    return as_agent(with_statistics(act, mean, variance), name="CleanRL TD3")


def main(arguments: Sequence[str] | None = None) -> dict[str, Result]:
    """Train, save, evaluate what was saved, and compare it with policies that learned nothing."""
    options = parser(__doc__, steps=4000).parse_args(arguments)
    actor, seen = train(options.steps, options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    extra = {name: torch.from_numpy(values) for name, values in seen.items()}
    torch.save({**actor.state_dict(), **extra}, options.out / "actor.pt")
    result = evaluate(load(str(options.out)).function, options.episodes, flat=True)
    return report("CleanRL TD3", result, options.out, options.episodes)


if __name__ == "__main__":
    main()
