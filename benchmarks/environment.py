"""What a step of the environment costs beyond the bare call of its potential.

Run `python benchmarks/environment.py`. Rattled copper cells, torch EMT, one core; medians over steps.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from ase.build import bulk

from relaxrl.envs import EnvConfig, RelaxationEnv
from relaxrl.envs.gym_env import RelaxEnv
from relaxrl.potentials import EMT
from relaxrl.structures import Crystal


def median_ms(call: Callable[[], object], repeats: int) -> float:
    """Median time of a call, ms."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))


def copper(repeat: tuple[int, int, int]) -> Crystal:
    """A copper cell of 4 atoms times `repeat`."""
    atoms = bulk("Cu", cubic=True).repeat(repeat)
    return Crystal(id=f"Cu{len(atoms)}", atoms=atoms, parent="Cu", kind="minimum")


def endless() -> EnvConfig:
    """Episodes that never end, so that every step costs the same."""
    return EnvConfig(fmax=1e-12, max_steps=10**9, explosion_energy=1e9, explosion_fmax=1e9, explosion_displacement=1e9)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=50)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    print(f"{'structures':>10} {'atoms each':>10} {'potential/ms':>13} {'step/ms':>8} {'ratio':>6}")
    for n_envs in (1, 16, 128):
        for cells in ((1, 1, 1), (2, 2, 2)):
            crystal = copper(cells)
            env = RelaxationEnv([crystal], EMT(), endless(), np.random.default_rng(0), n_envs)
            env.reset()
            generator = torch.Generator().manual_seed(0)

            def act(env: RelaxationEnv = env, generator: torch.Generator = generator) -> torch.Tensor:
                return 0.05 * torch.randn(env.graph.positions.shape, generator=generator, dtype=torch.float64)

            def evaluate(env: RelaxationEnv = env, act: Callable[[], torch.Tensor] = act) -> None:
                # What any environment has to pay: moved atoms, new neighbour lists where the skin is used up.
                env.potential.evaluate(env.graph.replace(positions=env.graph.positions + act()))

            bare = median_ms(evaluate, repeats)
            whole = median_ms(lambda env=env, act=act: env.step(act()), repeats)
            print(f"{n_envs:10} {len(crystal.atoms):10} {bare:13.2f} {whole:8.2f} {whole / bare:6.2f}")
    view = RelaxEnv([copper((2, 2, 2))], config=endless())
    view.reset(seed=0)
    action = 0.05 * np.ones(view.action_space.shape, dtype=np.float32)
    print(f"relaxrl/Relax-v0, 32 atoms: {median_ms(lambda: view.step(action), repeats):.2f} ms a step")


if __name__ == "__main__":
    main()
