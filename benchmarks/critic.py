"""What a critic adds to a trained agent: gate and trust radius by TD3, and candidates ranked by it, with controls.

`python benchmarks/critic.py --out FOLDER` trains and judges what FOLDER does not hold yet, one variant of
`configs/critic.yaml` after the other, a minute of one core each, and prints the tables. Every policy relaxes the same
starts as `RLOptimizer`, safeguard and fallback included: each crystal of `metals:dev` displaced three times. Force
evaluations are compared start by start with those of the agent that the training began with.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from relaxrl import RLOptimizer, load_agent
from relaxrl.agents import Agent
from relaxrl.errors import CalculatorError
from relaxrl.graph import AtomGraph, max_force
from relaxrl.nn import CandidatesConfig, CriticConfig, RankedActor, RankedActorConfig, build_critic
from relaxrl.optimize.policy import Policy
from relaxrl.potentials import CountedCalculator, EvaluationCounter, TorchCalculator, parse_calculator
from relaxrl.structures import Crystal, read_structures
from relaxrl.training import load_run_config, train
from relaxrl.training.development import development_starts

RECIPE = "configs/critic.yaml"
BASE = "metals"
SEEDS = (0, 1, 2)
FMAX = 0.01
POTENTIAL = parse_calculator("emt").potential()

RANKING = (
    "trained=actor",
    "actor={kind: hessian}",
    "candidates={gates: [0.7, 1.3], secant: true}",
    "exploration.random_candidates=0.5",
    "replay.expert_share={start: 0.0}",
    "expert.probability={start: 0.0}",
    "warm_up={expert_steps: 0, agent_steps: 960}",
)
VARIANTS: dict[str, tuple[str, ...]] = {
    "TD3": (),
    "weight of Q 0": ("td3.q_weight.end=0",),
    "Q leads (weight 1, cloning 0.1)": ("td3.q_weight.end=1", "td3.bc_weight={start: 0.1}"),
    "reward: fall of the energy, -1 per step": ("env.reward={kind: step, w_energy: 10}",),
    "returns over 3 steps": ("replay.n_step=3",),
    "critic without history and features": ("critic.trunk.history=false", "critic.env_input_dim=0"),
    "candidates ranked": RANKING,
    "candidates ranked, reward -log10 F_max": (*RANKING, "env.reward={kind: log_force}"),
}


class Variation:
    """A policy that steps otherwise than the agent, and shows its Hessian, by which the safeguard corrects it."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.hessian = agent.hessian


class Modified(Variation):
    """The agent's step, changed by a fixed rule."""

    def __init__(self, agent: Agent, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__(agent)
        self.change = change

    def act(self, graph: AtomGraph) -> Tensor:
        """Displacements, (n_atoms, 3), Å."""
        return self.change(self.agent.act(graph))


class Foresight(Variation):
    """What a perfect critic of the next step could do: several lengths of the step are tried, at no cost."""

    def __init__(self, agent: Agent, gates: Sequence[float], by_energy: bool) -> None:
        super().__init__(agent)
        self.gates = gates
        self.by_energy = by_energy

    def act(self, graph: AtomGraph) -> Tensor:
        """Displacements, (n_atoms, 3), Å."""
        step = self.agent.act(graph)
        here = graph.replace(features=None).without_edges()
        tried = AtomGraph.batch([here.replace(positions=here.positions + gate * step) for gate in self.gates])
        evaluated = POTENTIAL.evaluate(tried)
        left = evaluated.energy if self.by_energy else max_force(tried.replace(forces=evaluated.forces))
        return step * self.gates[int(torch.nan_to_num(left, nan=torch.inf).argmin())]


class QuasiNewton(Variation):
    """Always the candidate that corrects the predicted Hessian by the last step."""

    def __init__(self, agent: Agent) -> None:
        super().__init__(agent)
        sizes = RankedActorConfig(
            actor=agent.actor.config, critic=CriticConfig(), candidates=CandidatesConfig(gates=(), secant=True)
        )
        self.ranked = RankedActor(sizes, agent.actor, build_critic(sizes.critic))

    @torch.no_grad()
    def act(self, graph: AtomGraph) -> Tensor:
        """Displacements, (n_atoms, 3), Å."""
        return self.ranked.candidates(graph)[-1]


def gated(gate: float) -> Callable[[Tensor], Tensor]:
    """A constant gate."""
    return lambda step: gate * step


def trusted(radius: float) -> Callable[[Tensor], Tensor]:
    """A constant trust radius, Å."""
    return lambda step: step * min(1.0, radius / float(step.norm(dim=-1).max()))


def randomly(gates: Sequence[float], seed: int) -> Callable[[Tensor], Tensor]:
    """A random one of several gates."""
    generator = np.random.default_rng(seed)
    return lambda step: step * float(generator.choice(np.asarray(gates)))


FEW, MANY = (0.5, 0.7, 1.0, 1.3), (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.5, 1.8)
RULES: dict[str, Callable[[Agent], Policy]] = {
    **{f"constant gate {g}": lambda agent, g=g: Modified(agent, gated(g)) for g in (0.8, 0.9, 1.05, 1.1, 1.2)},
    **{f"constant trust radius {r} Å": lambda agent, r=r: Modified(agent, trusted(r)) for r in (0.1, 0.2, 0.3)},
    "random gate of 0.7, 1, 1.3": lambda agent: Modified(agent, randomly((0.7, 1.0, 1.3), 0)),
    "always the quasi-Newton candidate": QuasiNewton,
    "best of 4 gates by the energy after": lambda agent: Foresight(agent, FEW, by_energy=True),
    "best of 4 gates by F_max after": lambda agent: Foresight(agent, FEW, by_energy=False),
    "best of 13 gates by the energy after": lambda agent: Foresight(agent, MANY, by_energy=True),
    "best of 13 gates by F_max after": lambda agent: Foresight(agent, MANY, by_energy=False),
}


def pool() -> list[Crystal]:
    """Three displacements of each development crystal from its minimum."""
    crystals = read_structures("metals:dev-minima")
    return [
        start
        for seed in range(3)
        for start in development_starts(crystals, None, (0.05, 0.3), np.random.default_rng(seed))
    ]


def judged(policy: Policy | None, starts: Sequence[Crystal]) -> dict[str, list[int]]:
    """Force evaluations of each relaxation, and whether the policy ended it by itself."""
    counts, handed_over = [], []
    for start in starts:
        counter = EvaluationCounter()
        atoms = start.atoms.copy()
        atoms.calc = CountedCalculator(TorchCalculator(POTENTIAL, stress=False), counter)
        optimizer = RLOptimizer(atoms, agent=policy, logfile=None)
        try:
            converged = optimizer.run(fmax=FMAX, steps=500)
        except CalculatorError:
            converged = False
        counts.append(counter.count if converged else 500)
        handed_over.append(int(not optimizer.agent_in_charge))
    return {"evaluations": counts, "handed_over": handed_over}


def stored(path: Path, make: Callable[[], dict[str, list[int]]]) -> dict[str, list[int]]:
    """What a file holds; made and written if there is none."""
    if not path.exists():
        path.write_text(json.dumps(make()) + "\n", encoding="utf-8")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def trained(name: str, seed: int, out: Path) -> Agent:
    """The agent of a variant after its last update."""
    folder = out / "runs" / f"{_slug(name)}-{seed}"
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        config = load_run_config(RECIPE, [*VARIANTS[name], f"run.seed={seed}", f"run.dir={folder}"])
        if train(config, verbose=False).interrupted:
            raise KeyboardInterrupt
        (folder / "done").touch()
    return load_agent(str(folder / "last"))


def row(name: str, runs: Sequence[dict[str, list[int]]], base: dict[str, list[int]]) -> str:
    """One row: ratio to the agent itself with a bootstrap interval over starts, by seed, and the tail."""
    reference = np.log(np.asarray(base["evaluations"]))
    logs = np.array([np.log(np.asarray(run["evaluations"])) - reference for run in runs])
    generator = np.random.default_rng(0)
    means = [logs[:, generator.integers(logs.shape[1], size=logs.shape[1])].mean() for _ in range(4000)]
    low, high = np.exp(np.percentile(means, [2.5, 97.5]))
    counts = np.concatenate([run["evaluations"] for run in runs])
    seeds = ", ".join(f"{np.exp(one.mean()):.3f}" for one in logs) if len(runs) > 1 else ""
    handed = np.mean([run["handed_over"] for run in runs])
    return (
        f"| {name} | {np.exp(logs.mean()):.3f} [{low:.3f}, {high:.3f}] | {seeds} | {counts.mean():.2f} | "
        f"{np.percentile(counts, 95):.0f} | {counts.max()} | {100 * handed:.0f} % |"
    )


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and results")
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help="these variants and rules alone")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--report", action="store_true", help="run nothing, only print what there is")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    starts, agent = pool(), load_agent(BASE)
    base = stored(out / "base.json", lambda: judged(agent, starts))
    names = arguments.only or [*RULES, *VARIANTS]
    if not arguments.report:
        for name in [name for name in names if name in RULES]:
            stored(out / f"{_slug(name)}.json", lambda name=name: judged(RULES[name](agent), starts))
        for seed in arguments.seeds:  # one seed of all before the next of any: an interrupted study is still balanced
            for name in [name for name in names if name in VARIANTS]:
                stored(
                    out / f"{_slug(name)}-{seed}.json",
                    lambda name=name, seed=seed: judged(trained(name, seed, out), starts),
                )
    print("| policy | evaluations / agent itself | by seed | mean | p95 | worst | handed over |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    print(row("the agent itself", [base], base))
    for name in names:
        files = [out / f"{_slug(name)}.json"] if name in RULES else sorted(out.glob(f"{_slug(name)}-[0-9].json"))
        runs = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]
        if runs:
            print(row(name, runs, base))


if __name__ == "__main__":
    main()
