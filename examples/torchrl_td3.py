"""Train with TorchRL: TD3 with its collector and replay buffer, in `relaxrl/Relax-v0` with its Dict of observations.

pip install torchrl==0.14.1
python examples/torchrl_td3.py --out runs/torchrl
relaxrl evaluate --agent policy:examples/torchrl_td3.py:load,folder=runs/torchrl --structures films.extxyz ...
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from small_crystals import GAMMA, MAX_STEP, N_ATOMS, Result, evaluate, make_env, parser, report
from tensordict import TensorDict
from tensordict.nn import TensorDictSequential
from torch import Tensor, nn
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import GymWrapper
from torchrl.modules import Actor, AdditiveGaussianModule, TanhModule, ValueOperator
from torchrl.objectives import SoftUpdate, TD3Loss

from relaxrl.integrations import ObservationPolicy

KEYS = ["positions", "forces"]
FRAMES_PER_BATCH, RANDOM_FRAMES, BATCH_SIZE, LEARNING_RATE, TAU = 20, 200, 128, 1e-3, 0.01


class Scaled(nn.Module):
    """A network of positions and forces, shifted and scaled to what was seen at the start, and maybe an action."""

    def __init__(self, n_extra: int, n_out: int) -> None:
        super().__init__()
        n_in = 6 * N_ATOMS
        self.register_buffer("mean", torch.zeros(n_in))
        self.register_buffer("scale", torch.ones(n_in))
        self.network = nn.Sequential(
            nn.Linear(n_in + n_extra, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, n_out)
        )

    def calibrate(self, seen: TensorDict) -> None:
        """Take mean and deviation of observations; what never changes becomes 0."""
        values = torch.cat([seen[key].flatten(-2) for key in KEYS], -1)
        self.mean.copy_(values.mean(0))
        self.scale.copy_(values.std(0).clamp(min=0.01))

    def forward(self, positions: Tensor, forces: Tensor, *extra: Tensor) -> Tensor:
        """One row of numbers for each structure."""
        values = torch.cat([positions.flatten(-2), forces.flatten(-2)], -1)
        return self.network(torch.cat([(values - self.mean) / self.scale, *extra], -1))


def make_actor(spec: Any) -> TensorDictSequential:
    """Observation to action in [-1, 1]."""
    return TensorDictSequential(
        Actor(Scaled(0, 3 * N_ATOMS), in_keys=KEYS, out_keys=["raw"]),
        TanhModule(in_keys=["raw"], out_keys=["action"], spec=spec),
    )


def train(steps: int, seed: int) -> TensorDictSequential:
    """Collect, store, update; returns the actor."""
    torch.manual_seed(seed)
    env = GymWrapper(make_env())
    env.set_seed(seed)
    actor = make_actor(env.action_spec)
    value = ValueOperator(Scaled(3 * N_ATOMS, 1), in_keys=[*KEYS, "action"])
    noise = AdditiveGaussianModule(spec=env.action_spec, sigma_init=0.1, sigma_end=0.1)
    collector = Collector(
        env,
        TensorDictSequential(actor, noise),
        frames_per_batch=FRAMES_PER_BATCH,
        total_frames=steps,
        init_random_frames=RANDOM_FRAMES,
    )
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(50_000), batch_size=BATCH_SIZE)
    loss, updater, optimizers = None, None, {}
    for batch in collector:
        buffer.extend(batch.reshape(-1).select(*KEYS, "action", "next"))
        if len(buffer) < RANDOM_FRAMES:
            continue
        if loss is None:  # targets are copies: made once the scales are known
            actor[0].module.calibrate(buffer[:])
            value.module.calibrate(buffer[:])
            loss = TD3Loss(
                actor, value, action_spec=env.action_spec, policy_noise=0.05, noise_clip=0.1, loss_function="l2"
            )
            loss.make_value_estimator(gamma=GAMMA)
            updater = SoftUpdate(loss, tau=TAU)
            optimizers = {
                name: torch.optim.Adam(list(parameters.flatten_keys().values()), lr=LEARNING_RATE)
                for name, parameters in (
                    ("loss_qvalue", loss.qvalue_network_params),
                    ("loss_actor", loss.actor_network_params),
                )
            }
        for update in range(FRAMES_PER_BATCH):
            losses = loss(buffer.sample())
            wanted = ["loss_qvalue", "loss_actor"] if update % 2 == 0 else ["loss_qvalue"]
            for name in wanted:
                optimizers[name].zero_grad()
            sum(losses[name] for name in wanted).backward()
            for name in wanted:
                optimizers[name].step()
            if update % 2 == 0:
                updater.step()
    collector.shutdown()
    return actor


def load(folder: str) -> ObservationPolicy:
    """The saved actor as an agent."""
    actor = make_actor(GymWrapper(make_env()).action_spec)
    actor.load_state_dict(torch.load(Path(folder) / "actor.pt", weights_only=True))
    network = actor[0].module

    def act(seen: dict[str, Any]) -> Any:
        with torch.no_grad():
            return torch.tanh(network(*(torch.from_numpy(seen[key]) for key in KEYS))).numpy()

    return ObservationPolicy(act, n_max=N_ATOMS, max_step=MAX_STEP, name="TorchRL TD3")


def main(arguments: Sequence[str] | None = None) -> dict[str, Result]:
    """Train, save, evaluate what was saved, and compare it with policies that learned nothing."""
    options = parser(__doc__, steps=4000).parse_args(arguments)
    actor = train(options.steps, options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.save(actor.state_dict(), options.out / "actor.pt")
    result = evaluate(load(str(options.out)).function, options.episodes)
    return report("TorchRL TD3", result, options.out, options.episodes)


if __name__ == "__main__":
    main()
