"""What a step of the environment costs beyond the bare call of its potential.

Run `python benchmarks/environment.py`. Rattled copper cells, torch EMT, one core; means over random steps
of 0.05 Å per component, neighbour lists included on both sides.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from ase.build import bulk

from relaxrl.envs import EnvConfig, RelaxationEnv
from relaxrl.envs.gym_env import RelaxEnv
from relaxrl.graph import AtomGraph
from relaxrl.potentials import EMT, Evaluation, Potential
from relaxrl.structures import Crystal


class TimedPotential(Potential):
    """A potential that keeps the time of each call, s."""

    def __init__(self, potential: Potential) -> None:
        self.potential = potential
        self.seconds: list[float] = []

    def evaluate(self, graph: AtomGraph, stress: bool = False) -> Evaluation:
        """Evaluate, and note how long it took."""
        start = time.perf_counter()
        evaluation = self.potential.evaluate(graph, stress)
        self.seconds.append(time.perf_counter() - start)
        return evaluation


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
            timed = TimedPotential(env.potential)
            env.potential = timed
            generator = torch.Generator().manual_seed(0)
            times = []
            for _ in range(repeats):
                action = 0.05 * torch.randn(env.graph.positions.shape, generator=generator, dtype=torch.float64)
                start = time.perf_counter()
                env.step(action)
                times.append(time.perf_counter() - start)
            bare, whole = 1e3 * float(np.mean(timed.seconds)), 1e3 * float(np.mean(times))
            print(f"{n_envs:10} {len(crystal.atoms):10} {bare:13.2f} {whole:8.2f} {whole / bare:6.2f}")
    view = RelaxEnv([copper((2, 2, 2))], config=endless())
    view.reset(seed=0)
    view.action_space.seed(0)
    start = time.perf_counter()
    for _ in range(repeats):
        view.step(0.1 * view.action_space.sample())
    print(f"relaxrl/Relax-v0, 32 atoms: {1e3 * (time.perf_counter() - start) / repeats:.2f} ms a step")


if __name__ == "__main__":
    main()
