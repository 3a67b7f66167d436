"""The task that the examples of other libraries share, and how they measure what was learned.

A gold film of two layers, the lower one held: stiff upwards, eight times as soft sideways, so that following the forces
takes many steps. Run this file to see what policies without learning reach:

    python examples/small_crystals.py --episodes 50
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ase.io
import gymnasium
import numpy as np
from ase.build import fcc111
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.optimize import BFGS
from gymnasium.wrappers import NormalizeObservation

from relaxrl.integrations import ObservationPolicy
from relaxrl.structures import Crystal

MAX_STEP, N_ATOMS = 0.1, 2
CONFIG: dict[str, Any] = {
    "fmax": 0.03,
    "max_steps": 20,
    "rattle": 0.1,
    "max_step": MAX_STEP,
    "stuck_limit": 20,
    # Every step costs: -log10(F) stays below 1.6 until F is below fmax, so that lingering never pays.
    "reward": {"kind": "step", "w_step": 2.0, "w_log": 1.0},
}
GAMMA = 0.7
"""A relaxation of a few steps needs no long view, and values that reach less far are learned sooner."""
SOFTNESS = (0.1, 0.15, 0.2, 0.25, 0.3)
"""Å²/eV; what steepest descent multiplies the forces by. The best of them is what a policy has to beat."""
EVALUATION_SEED = 10_000

Policy = Callable[[Any], Any]
"""From an observation, as the environment gives it, to an action."""


def film() -> Crystal:
    """The structure that episodes begin from, at its minimum."""
    atoms = fcc111("Au", (1, 1, N_ATOMS), a=4.06, vacuum=6.0, periodic=True)
    atoms.calc = EMT()
    BFGS(atoms, logfile=None).run(fmax=1e-4)
    atoms.calc = None
    atoms.info.clear()  # how ASE built it
    atoms.set_constraint(FixAtoms([0]))
    return Crystal("gold-film", atoms, parent="gold-film", kind="minimum")


def make_env(flat: bool = False, normalize: bool = False) -> gymnasium.Env[Any, Any]:
    """The task.

    Args:
        flat: Whether observations are one flat array instead of a Dict.
        normalize: Whether to shift and scale a flat one to mean 0 and deviation 1. Networks of other libraries need it:
            atomic numbers and cells are large, never change here, and would saturate them.
    """
    name = "relaxrl:relaxrl/RelaxFlat-v0" if flat else "relaxrl:relaxrl/Relax-v0"
    env = gymnasium.make(name, structures=[film()], calculator="emt", config=CONFIG)
    return NormalizeObservation(env) if normalize else env


def statistics(env: gymnasium.Env[Any, Any]) -> dict[str, np.ndarray]:
    """Mean and variance of the observations so far, of an environment made with `normalize`."""
    while not isinstance(env, NormalizeObservation):
        assert isinstance(env, gymnasium.Wrapper), "made with `normalize`"
        env = env.env
    return {"mean": env.obs_rms.mean.copy(), "variance": env.obs_rms.var.copy()}


def with_statistics(policy: Policy, mean: np.ndarray, variance: np.ndarray) -> Policy:
    """A policy of normalised flat observations as one of plain flat ones."""
    return lambda seen: policy(((seen - mean) / np.sqrt(variance + 1e-8)).astype(np.float32))


def as_agent(policy: Policy, name: str) -> ObservationPolicy:
    """A policy of flat observations as `relaxrl evaluate` and `RLOptimizer` take it."""
    return ObservationPolicy(policy, n_max=N_ATOMS, max_step=MAX_STEP, flat=True, name=name)


@dataclass(frozen=True)
class Result:
    """What a policy reached.

    Attributes:
        episode_return: Mean sum of rewards.
        success: Fraction of episodes that converged.
        steps: Mean steps of those that did; None if none did.
    """

    episode_return: float
    success: float
    steps: float | None

    def __str__(self) -> str:
        steps = "-" if self.steps is None else f"{self.steps:.1f}"
        return f"return {self.episode_return:7.2f}   success {self.success:4.0%}   steps to success {steps:>5}"


def evaluate(policy: Policy, episodes: int = 50, flat: bool = False) -> Result:
    """Run a policy without exploration, from the same starts for all policies."""
    env = make_env(flat)
    returns, lengths = [], []
    for episode in range(episodes):
        observation, _ = env.reset(seed=EVALUATION_SEED + episode)
        total, steps, ended = 0.0, 0, False
        while not ended:
            observation, reward, terminated, truncated, _ = env.step(policy(observation))
            total, steps, ended = total + float(reward), steps + 1, terminated or truncated
        returns.append(total)
        if terminated:
            lengths.append(steps)
    mean_steps = float(np.mean(lengths)) if lengths else None
    return Result(float(np.mean(returns)), len(lengths) / episodes, mean_steps)


def random_policy(seed: int) -> Policy:
    """Actions drawn uniformly."""
    generator = np.random.default_rng(seed)
    return lambda _: generator.uniform(-1, 1, 3 * N_ATOMS).astype(np.float32)


def steepest_descent(softness: float) -> Policy:
    """Displacements of `softness` times the forces."""
    return lambda seen: np.clip(softness / MAX_STEP * seen["forces"], -1, 1).ravel()


def baselines(episodes: int = 50, seed: int = 0) -> dict[str, Result]:
    """What there is to beat: random actions, and the best steepest descent."""
    descents = {k: evaluate(steepest_descent(k), episodes) for k in SOFTNESS}
    best = max(descents, key=lambda k: descents[k].episode_return)
    return {"random": evaluate(random_policy(seed), episodes), f"steepest descent ({best} Å²/eV)": descents[best]}


def write_starts(path: Path | str, n: int = 10) -> None:
    """Films displaced as in training, for `relaxrl evaluate`."""
    generator = np.random.default_rng(1)
    starts = []
    for _ in range(n):
        atoms = film().atoms
        atoms.positions[1:] += generator.normal(0, CONFIG["rattle"], (N_ATOMS - 1, 3))
        starts.append(atoms)
    ase.io.write(path, starts)


def parser(description: str | None, steps: int) -> argparse.ArgumentParser:
    """The arguments that all examples take."""
    made = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    made.add_argument("--steps", type=int, default=steps, help=f"environment steps of training (default: {steps})")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--episodes", type=int, default=50, help="of the evaluation at the end (default: 50)")
    made.add_argument("--out", type=Path, required=True, help="folder for the trained agent")
    return made


def report(name: str, result: Result, out: Path, episodes: int) -> dict[str, Result]:
    """Print the result beside the baselines, keep all as `result.json`, and return them."""
    rows = {**baselines(episodes), name: result}
    for label, row in rows.items():
        print(f"{label:32s} {row}")
    out.mkdir(parents=True, exist_ok=True)
    (out / "result.json").write_text(json.dumps({label: asdict(row) for label, row in rows.items()}, indent=2) + "\n")
    return rows


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--episodes", type=int, default=50)
    for label, row in baselines(arguments.parse_args().episodes).items():
        print(f"{label:32s} {row}")
