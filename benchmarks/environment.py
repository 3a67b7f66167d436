"""What a step of the environment costs beyond the bare call of its potential, and what a batch gains.

    python -m benchmarks.environment

Displaced copper crystals under EMT. Each step of the environment and the bare call of an equal potential at the
geometry it reached take turns; the neighbour list of the potential is included on both sides.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
import torch
from ase.calculators import emt
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from benchmarks.timing import CELLS, Times, copper, machine, milliseconds, ratio, seconds, table
from relaxrl.envs import EnvConfig, RelaxationEnv
from relaxrl.envs.gym_env import RelaxEnv
from relaxrl.envs.vector_env import RelaxVectorEnv
from relaxrl.graph import AtomGraph
from relaxrl.potentials import EMT, ASEPotential, Potential
from relaxrl.structures import Crystal

RATE = 0.02
"""Å²/eV; step along the forces of a relaxation."""

ROLLOUT_STEPS = 20
"""Length of the episodes of a rollout; a good policy needs 5, BFGS 20 to 60."""


class MakesEMT:
    """Makes ASE's EMT calculator."""

    name = "emt"

    def create(self) -> emt.EMT:
        """A new one."""
        return emt.EMT()


def endless(max_steps: int = 10**9, device: str = "cpu") -> EnvConfig:
    """Episodes that do not end before their last step, so that every step costs the same."""
    return EnvConfig(
        fmax=1e-12,
        max_steps=max_steps,
        device=device,
        explosion_energy=1e9,
        explosion_fmax=1e9,
        explosion_displacement=1e9,
    )


def environment(
    n_atoms: int, n_envs: int, potential: Potential, max_steps: int = 10**9, device: str = "cpu"
) -> RelaxationEnv:
    """Episodes of a copper crystal."""
    atoms = copper(n_atoms)
    crystal = Crystal(id=f"Cu{len(atoms)}", atoms=atoms, parent="Cu", kind="minimum")
    env = RelaxationEnv([crystal], potential, endless(max_steps, device), np.random.default_rng(0), n_envs)
    env.reset()
    return env


def step_and_bare(
    n_atoms: int, n_envs: int, potentials: tuple[Potential, Potential], random: float | None, turns: int
) -> tuple[Times, Times]:
    """Times of steps and of bare calls at the geometries they reach.

    Args:
        n_atoms: Of each structure.
        n_envs: Structures at once.
        potentials: Two equal ones.
        random: Å; standard deviation of the components of random displacements. None follows the forces.
        turns: Steps.
    """
    env, generator = environment(n_atoms, n_envs, potentials[0]), torch.Generator().manual_seed(0)
    bare = potentials[1]
    bare.evaluate(env.graph)
    times: list[tuple[float, float]] = []
    for _ in range(turns):
        graph = env.graph
        action = RATE * forces_of(graph)
        if random is not None:
            action = random * torch.randn(action.shape, generator=generator, dtype=action.dtype)
        times.append((seconds(lambda a=action: env.step(a)), seconds(lambda: bare.evaluate(env.graph))))
    steps, calls = np.array(times[3:]).T
    return steps, calls


def forces_of(graph: AtomGraph) -> torch.Tensor:
    """Forces of a graph of the environment."""
    assert graph.forces is not None
    return graph.forces


def rollout_and_singles(n_atoms: int, n_envs: int, turns: int) -> tuple[Times, Times, Times]:
    """Seconds per structure: of a batched rollout with its resets, of the bare batched calls, of ASE's EMT one by one.

    ASE's calculator goes through the geometries of the first structure of the rollout, with its own list and its skin.
    """
    env, bare, single = environment(n_atoms, n_envs, EMT(), ROLLOUT_STEPS), EMT(), emt.EMT()
    bare.evaluate(env.graph)
    atoms, times = copper(n_atoms), []
    atoms.calc = single

    def step() -> None:
        env.step(RATE * forces_of(env.graph))
        env.reset_finished()

    def one() -> None:
        atoms.positions[:] = env.graph.positions[:n_atoms].numpy()
        atoms.get_forces()

    for _ in range(turns):
        rolled = seconds(step) / n_envs
        times.append((rolled, seconds(lambda: bare.evaluate(env.graph)) / n_envs, seconds(one)))
    rollout, batch, singles = np.array(times[1:]).T
    return rollout, batch, singles


def step_rows(turns: int) -> list[list[str]]:
    """Rows of the table of steps."""
    rows = []
    ase = ("ASE's EMT, one by one", lambda: ASEPotential(MakesEMT()), 1)
    batched = [("torch EMT, batched", EMT, n) for n in (1, 16, 64)]
    for n_atoms, (name, make, n_envs) in itertools.product(CELLS, [ase, *batched]):
        steps, calls = step_and_bare(n_atoms, n_envs, (make(), make()), None, turns)
        jolted, bare = step_and_bare(n_atoms, n_envs, (make(), make()), 0.02, turns)
        cells = [f"{milliseconds(calls):.2f}", f"{milliseconds(steps):.2f}", f"{ratio(steps, calls):.2f}"]
        rows.append([name, str(n_atoms), str(n_envs), *cells, f"{ratio(jolted, bare):.2f}"])
    return rows


STEP_HEAD = [
    "potential",
    "atoms",
    "structures",
    "bare call / ms",
    "step / ms",
    "ratio",
    "ratio, random steps of 0.02 Å",
]


def rollout_rows(turns: int) -> list[list[str]]:
    """Rows of the table of rollouts; means, since lists are made in few of the steps."""
    rows = []
    for n_atoms, threads in itertools.product(CELLS, (1, 2)):
        torch.set_num_threads(threads)
        rollout, batch, singles = (float(np.mean(times)) for times in rollout_and_singles(n_atoms, 128, turns))
        cells = [f"{1 / singles:.0f}", f"{1 / batch:.0f}", f"{1 / rollout:.0f}", f"{singles / rollout:.1f}"]
        rows.append([str(n_atoms), str(threads), *cells])
    torch.set_num_threads(1)
    return rows


ROLLOUT_HEAD = [
    "atoms",
    "threads",
    "ASE's EMT one by one / (structures/s)",
    "torch EMT, 128 at once / (structures/s)",
    "rollout of 128 / (structures/s)",
    "rollout over ASE",
]


def vector_rates(n_atoms: int, n_envs: int, turns: int) -> tuple[Times, Times]:
    """Seconds of a step of both vector environments of Gymnasium's interface, resets of ended episodes included.

    Args:
        n_atoms: Of each structure.
        n_envs: Structures at once.
        turns: Steps.

    Returns:
        Of ours, which calls the potential once for all, and of Gymnasium's `SyncVectorEnv` of single ones.
    """
    atoms = copper(n_atoms)
    crystal = Crystal(id="Cu", atoms=atoms, parent="Cu", kind="minimum")
    config, rng = endless(ROLLOUT_STEPS), np.random.default_rng(0)
    batched = RelaxVectorEnv(n_envs, structures=[crystal], config=config)
    single = SyncVectorEnv(
        [lambda: RelaxEnv([crystal], config=config) for _ in range(n_envs)], autoreset_mode=AutoresetMode.SAME_STEP
    )
    for env in (batched, single):
        env.reset(seed=0)
    actions = rng.uniform(-0.02, 0.02, (turns, *batched.action_space.shape)).astype(np.float32)
    times = [[seconds(lambda e=env, a=action: e.step(a)) for env in (batched, single)] for action in actions]
    ours, gymnasiums = np.array(times[1:]).T
    return ours, gymnasiums


def vector_rows(turns: int) -> list[list[str]]:
    """Rows of the table of vector environments; means, since lists and episodes are made in few of the steps."""
    rows = []
    for n_atoms, n_envs in itertools.product((8, 32), (1, 8, 64)):
        ours, gymnasiums = (n_envs / float(np.mean(times)) for times in vector_rates(n_atoms, n_envs, turns))
        rows.append([str(n_atoms), str(n_envs), f"{gymnasiums:.0f}", f"{ours:.0f}", f"{ours / gymnasiums:.1f}"])
    return rows


VECTOR_HEAD = ["atoms", "structures", "SyncVectorEnv / (steps/s)", "RelaxVectorEnv / (steps/s)", "ratio"]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=60)
    turns = parser.parse_args().turns
    torch.set_num_threads(1)
    print(machine())
    print(table(STEP_HEAD, step_rows(turns)))
    print(table(ROLLOUT_HEAD, rollout_rows(turns)))
    print(table(VECTOR_HEAD, vector_rows(turns)))


if __name__ == "__main__":
    main()
