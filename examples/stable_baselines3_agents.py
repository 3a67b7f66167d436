"""Train with Stable-Baselines3: TD3 or SAC, with its own networks or with our equivariant ones.

pip install 'relaxrl[sb3]'
python examples/stable_baselines3_agents.py --algorithm SAC --out runs/sac
python examples/stable_baselines3_agents.py --algorithm TD3 --graph --out runs/graph
relaxrl evaluate --agent sb3:runs/sac/best --structures runs/sac/films.extxyz --calculator emt --out runs/sac/report
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from small_crystals import GAMMA, MAX_STEP, N_ATOMS, Result, evaluate, make_env, parser, report, write_starts
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from relaxrl.integrations.sb3 import GraphSACPolicy, GraphTD3Policy, SaveAgent
from relaxrl.nn import DirectActorConfig, TrunkConfig


def make_vec_env(graph: bool, training: bool) -> VecNormalize:
    """One environment; rewards scaled, and observations as well unless our networks read them: these know units."""
    env = DummyVecEnv([lambda: Monitor(make_env())])
    return VecNormalize(env, norm_obs=not graph, norm_reward=training, training=training, gamma=GAMMA)


def make_model(algorithm: str, graph: bool, env: VecNormalize, seed: int) -> TD3 | SAC:
    """The algorithm with its networks; values differ from SB3's defaults where these are for millions of steps."""
    common: dict[str, Any] = {"gamma": GAMMA, "seed": seed, "buffer_size": 50_000, "tau": 0.01, "learning_starts": 200}
    if graph:
        trunk = TrunkConfig(layers=2, channels=8, message_channels=8, history=False)
        actor = DirectActorConfig(trunk=trunk, max_step=MAX_STEP, stiffness=10.0)
        common |= {"policy_kwargs": {"actor_config": actor}, "learning_rate": 2e-3, "batch_size": 32}
    else:
        common |= {"policy_kwargs": {"net_arch": [64, 64]}, "learning_rate": 1e-3, "batch_size": 128}
    if algorithm == "SAC":
        return SAC(GraphSACPolicy if graph else "MultiInputPolicy", env, ent_coef="auto_0.1", **common)
    noise = NormalActionNoise(np.zeros(3 * N_ATOMS), 0.1 * np.ones(3 * N_ATOMS))
    smoothing = {"target_policy_noise": 0.05, "target_noise_clip": 0.1}
    return TD3(GraphTD3Policy if graph else "MultiInputPolicy", env, action_noise=noise, **smoothing, **common)


def main(arguments: Sequence[str] | None = None) -> dict[str, Result]:
    """Train, evaluate the best agent, and compare it with policies that learned nothing."""
    made = parser(__doc__, steps=4000)
    made.add_argument("--algorithm", choices=["TD3", "SAC"], default="SAC")
    made.add_argument("--graph", action="store_true", help="equivariant networks of relaxrl instead of SB3's")
    options = made.parse_args(arguments)
    env = make_vec_env(options.graph, training=True)
    model = make_model(options.algorithm, options.graph, env, options.seed)
    every = max(options.steps // 8, 1)
    judge = EvalCallback(
        make_vec_env(options.graph, training=False),
        callback_on_new_best=SaveAgent(options.out / "best"),
        log_path=str(options.out),
        eval_freq=every,
        n_eval_episodes=20,
        verbose=0,
    )
    keep = CheckpointCallback(4 * every, str(options.out / "checkpoints"), save_vecnormalize=True)
    model.learn(options.steps, callback=[judge, keep])

    # From disk, as anybody else would use it.
    best = type(model).load(options.out / "best" / "model.zip", device="cpu", custom_objects={"buffer_size": 1})
    scale = env.load(str(options.out / "best" / "vecnormalize.pkl"), DummyVecEnv([make_env])).normalize_obs
    result = evaluate(lambda seen: best.predict(scale(seen), deterministic=True)[0], options.episodes)
    write_starts(options.out / "films.extxyz")
    name = f"SB3 {options.algorithm}{', graph policy' if options.graph else ''}"
    return report(name, result, options.out, options.episodes)


if __name__ == "__main__":
    main()
