"""What learning costs: sampling from replay, actor and critic forward and backward, whole updates.

    python -m benchmarks.updates

Copper crystals under EMT, networks with their default configuration, neighbour lists included.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import torch
from torch import Tensor

from benchmarks.environment import environment, forces_of
from benchmarks.timing import CELLS, copper, in_turns, machine, milliseconds, table
from relaxrl.agents import TD3, ReplayBuffer, Transition
from relaxrl.graph import AtomGraph
from relaxrl.nn import CriticConfig, DirectActorConfig, HessianActorConfig, build_actor, build_critic
from relaxrl.potentials import EMT
from relaxrl.training import Cloner, RunFolder, load_run_config

BATCH = 16
"""Structures of a batch: with 108 atoms each, 64 as in training would take seconds."""

SAMPLED = 64
"""Transitions of a sample."""


def replay(n_atoms: int, steps: int = 8, n_envs: int = 32) -> ReplayBuffer:
    """A buffer with transitions of relaxations along the forces."""
    env, buffer = environment(n_atoms, n_envs, EMT()), ReplayBuffer(steps * n_envs)
    for _ in range(steps):
        graph = env.graph
        result = env.step(0.02 * forces_of(graph))
        terms = (result.proposed, result.applied, result.reward, result.atom_reward, result.graph, result.terminated)
        buffer.add(Transition.of_step(graph, *terms))
    return buffer


def learner(device: str = "cpu") -> TD3:
    """TD3 with the default networks."""
    actor = build_actor(DirectActorConfig(), torch.Generator().manual_seed(0)).to(device)
    critic = build_critic(CriticConfig(), torch.Generator().manual_seed(1)).to(device)
    return TD3(actor, critic)


def cloner(n_atoms: int, batch: int, folder: Path, device: str = "cpu") -> Cloner:
    """A run of cloning on one crystal, as it is before its first update."""
    file = folder / f"Cu{n_atoms}.extxyz"
    ase.io.write(file, copper(n_atoms))
    config = load_run_config(
        {
            "method": "cloning",
            "structures": str(file),
            "kind": "minimum",
            "batch_size": batch,
            "evaluation": {"structures": str(file), "count": 1},
            "run": {"dir": str(folder / f"run-{n_atoms}-{batch}-{device}"), "updates": 10**6, "device": device},
        }
    )
    return Cloner(config, RunFolder.create(config.run.dir, 0))


def network_calls(graph: AtomGraph) -> dict[str, Callable[[], object]]:
    """Forward alone, and forward and backward, of each network."""
    action = (0.02 * forces_of(graph)).requires_grad_()
    direct = build_actor(DirectActorConfig(), torch.Generator().manual_seed(0))
    hessian = build_actor(HessianActorConfig(), torch.Generator().manual_seed(0))
    critic = build_critic(CriticConfig(), torch.Generator().manual_seed(1))
    values: dict[str, Callable[[], Tensor]] = {
        "direct": lambda: direct(graph),
        "hessian": lambda: hessian(graph),
        "critic": lambda: torch.stack(list(critic(graph, action))),
    }

    def forward(make: Callable[[], Tensor]) -> None:
        with torch.no_grad():
            make()

    calls: dict[str, Callable[[], object]] = {}
    for name, make in values.items():
        calls[f"{name}, forward"] = lambda make=make: forward(make)
        calls[f"{name}, backward"] = lambda make=make: make().square().sum().backward()
    return calls


def network_rows(turns: int) -> list[list[str]]:
    """Rows of the table of networks."""
    rows = []
    for n_atoms in CELLS:
        env = environment(n_atoms, BATCH, EMT())
        times = in_turns(network_calls(env.graph), turns)
        rows.append([str(n_atoms), *(f"{milliseconds(value):.0f}" for value in times.values())])
    return rows


NETWORK_HEAD = [
    "atoms",
    *(
        f"{name}{what} / ms"
        for name in ("direct actor", "Hessian actor", "twin critic")
        for what in ("", " + backward")
    ),
]


def update_rows(turns: int) -> list[list[str]]:
    """Rows of the table of updates."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for n_atoms in CELLS:
            buffer, td3, draws = replay(n_atoms), learner(), np.random.default_rng(0)
            noise, cloning = torch.Generator().manual_seed(0), cloner(n_atoms, BATCH, Path(folder))

            def update() -> None:
                for _ in range(2):  # one of two moves the actor, too
                    td3.update(buffer.sample(BATCH, draws), None, noise)  # noqa: B023 -- called in this turn of the loop

            times = in_turns(
                {
                    "replay": lambda: buffer.sample(SAMPLED, draws),  # noqa: B023
                    "td3": update,
                    "cloning": cloning.update,
                },
                turns,
            )
            cells = [f"{milliseconds(times['replay']):.2f}", f"{2e3 / milliseconds(times['td3']):.2f}"]
            rows.append([str(n_atoms), *cells, f"{1e3 / milliseconds(times['cloning']):.2f}"])
    return rows


UPDATE_HEAD = [
    "atoms",
    f"sample of {SAMPLED} / ms",
    f"TD3, batches of {BATCH} / (updates/s)",
    f"cloning, batches of {BATCH} / (updates/s)",
]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=10)
    turns = parser.parse_args().turns
    torch.set_num_threads(1)
    print(machine())
    print(table(NETWORK_HEAD, network_rows(turns)))
    print(table(UPDATE_HEAD, update_rows(turns)))


if __name__ == "__main__":
    main()
