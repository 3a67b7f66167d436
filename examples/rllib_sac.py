"""Train with RLlib: SAC on its new API stack, in `relaxrl/RelaxFlat-v0` and one process.

Ray pins an older gymnasium: give it an environment of its own. RLlib ships no TD3.

    pip install 'ray[rllib]==2.60.0' && pip install --no-deps .
    python examples/rllib_sac.py --out runs/rllib
    relaxrl evaluate --agent policy:examples/rllib_sac.py:load,folder=runs/rllib --structures films.extxyz ...
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module import RLModule
from ray.tune.registry import register_env
from small_crystals import (
    GAMMA,
    N_ATOMS,
    Result,
    as_agent,
    evaluate,
    make_env,
    parser,
    report,
    statistics,
    with_statistics,
)

from relaxrl.integrations import ObservationPolicy


def train(steps: int, seed: int, out: Path) -> None:
    """Train until so many steps were sampled, and save network and statistics."""
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    register_env("relax", lambda _: make_env(flat=True, normalize=True))
    config = (
        SACConfig()
        .environment("relax")
        .env_runners(num_env_runners=0, rollout_fragment_length=1)
        .learners(num_learners=0)
        .training(
            gamma=GAMMA,
            tau=0.01,
            actor_lr=1e-3,
            critic_lr=1e-3,
            alpha_lr=1e-3,
            lr=None,
            initial_alpha=0.1,
            train_batch_size_per_learner=128,
            num_steps_sampled_before_learning_starts=200,
            training_intensity=128,  # one update for each step
            replay_buffer_config={"type": "EpisodeReplayBuffer", "capacity": 50_000},
        )
        .rl_module(model_config={"fcnet_hiddens": [64, 64], "head_fcnet_hiddens": [64]})
        .reporting(min_sample_timesteps_per_iteration=500)
        .debugging(seed=seed)
    )
    algorithm = config.build_algo()
    sampled = 0
    while sampled < steps:
        sampled = algorithm.train()["num_env_steps_sampled_lifetime"]
    out.mkdir(parents=True, exist_ok=True)
    algorithm.get_module(DEFAULT_MODULE_ID).save_to_path(str((out / "module").resolve()))
    np.savez(out / "statistics.npz", **statistics(algorithm.env_runner.env.unwrapped.envs[0]))
    algorithm.stop()
    ray.shutdown()


def load(folder: str) -> ObservationPolicy:
    """The saved network as an agent: the mean of its Gaussian, squashed."""
    module: Any = RLModule.from_checkpoint(str((Path(folder) / "module").resolve()))

    def act(seen: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            outputs = module.forward_inference({"obs": torch.from_numpy(seen)[None]})
        return np.tanh(outputs["action_dist_inputs"][0, : 3 * N_ATOMS].numpy())

    return as_agent(with_statistics(act, **np.load(Path(folder) / "statistics.npz")), name="RLlib SAC")


def main(arguments: Sequence[str] | None = None) -> dict[str, Result]:
    """Train, save, evaluate what was saved, and compare it with policies that learned nothing."""
    options = parser(__doc__, steps=4000).parse_args(arguments)
    train(options.steps, options.seed, options.out)
    result = evaluate(load(str(options.out)).function, options.episodes, flat=True)
    return report("RLlib SAC", result, options.out, options.episodes)


if __name__ == "__main__":
    main()
