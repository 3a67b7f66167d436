"""What the terms of the constraint loss are worth, and whether they lead to saddle points.

Run `python benchmarks/constraints.py --out FOLDER`; it takes some minutes of one core per run. Runs that FOLDER already
holds are not repeated, and interrupted ones go on. `--report` only writes the page from what there is.

Each run is judged after its last update, on starts displaced from the minima of `metals:dev`:

- as `RLOptimizer`: force evaluations against ASE's BFGS, and where the relaxations end;
- the policy alone, from far starts, without safeguard or fallback: what its steps leave, and whether it comes to rest
  at points that are no minima.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablation_report import BEGIN, END
from ase import Atoms
from ase.optimize import BFGS

from relaxrl import load_agent
from relaxrl.agents import Agent
from relaxrl.config import configclass, load_config
from relaxrl.graph import max_force
from relaxrl.io import atoms_from_graph, graph_from_atoms
from relaxrl.nn import build_actor
from relaxrl.optimize import RLOptimizer
from relaxrl.potentials import CountedCalculator, EvaluationCounter, TorchCalculator, TorchPotential, parse_calculator
from relaxrl.seeding import Generators
from relaxrl.structures import perturb, read_structures
from relaxrl.structures.curvature import softest_modes
from relaxrl.training import ConstraintsConfig, load_run_config, resume, train

MINIMA = "metals:dev-minima"
DRAWS = 2
"""Starts from each minimum."""
RATTLE = (0.05, 0.3)
"""Å, of the starts of the comparison with BFGS; as in the shipped sets."""
FAR = 0.3
"""Å, of the starts of the policy alone; the largest in training."""
FMAX = 0.01
STEPS = 15
"""Of the policy alone."""
MAX_STEPS = 500
SAME_ENERGY = 0.01
"""eV; structures that end closer than this have the same energy: a soft mode hides as much below `FMAX`."""
REST = 0.05
"""eV/Å; below this largest force a policy has come to rest."""
SADDLE = -0.01
"""eV/Å²; a Hessian with an eigenvalue below it belongs to no minimum."""


@configclass
class Variant:
    """What a variant changes."""

    changes: str
    """In words, for the table."""
    overrides: tuple[str, ...] = ()
    """`key=value`, as on the command line."""


@configclass
class Study:
    """A reference and its variants."""

    seeds: tuple[int, ...]
    """Each variant runs once with each."""
    reference: dict[str, Any]
    """Configuration of the reference, see `ConstraintsConfig`."""
    variants: dict[str, Variant] = field(default_factory=dict)
    """By name; the reference is none of them."""


@dataclass(frozen=True)
class Pool:
    """Starts, the energies of the minima they come from, and what BFGS makes of them."""

    starts: list[Atoms]
    lowest: list[float]
    far: list[Atoms]
    far_lowest: list[float]
    evaluations: list[int]
    ends: list[float]


def make_pool(potential: TorchPotential, cache: Path) -> Pool:
    """The starts of all runs; BFGS is run once and remembered."""
    minima = [crystal.atoms for crystal in read_structures(MINIMA)]
    lowest = potential.evaluate(graph_from_atoms(minima)).energy.tolist()
    generators = [np.random.default_rng(seed) for seed in range(DRAWS)]
    starts = [perturb(atoms, RATTLE, generator) for generator in generators for atoms in minima]
    generators = [np.random.default_rng(100 + seed) for seed in range(DRAWS)]
    far = [perturb(atoms, FAR, generator) for generator in generators for atoms in minima]
    if not cache.exists():
        counts, ends = [], []
        for start in starts:
            counter = EvaluationCounter()
            atoms = start.copy()
            atoms.calc = CountedCalculator(TorchCalculator(potential), counter)
            BFGS(atoms, logfile=None).run(fmax=FMAX, steps=MAX_STEPS)
            counts.append(counter.count)
            ends.append(float(atoms.get_potential_energy()))
        cache.write_text(json.dumps({"evaluations": counts, "ends": ends}) + "\n", encoding="utf-8")
    known = json.loads(cache.read_text(encoding="utf-8"))
    return Pool(starts, lowest * DRAWS, far, lowest * DRAWS, known["evaluations"], known["ends"])


def judge_optimizer(agent: Agent | None, pool: Pool, potential: TorchPotential) -> dict[str, float]:
    """Force evaluations of `RLOptimizer` with the agent, and where it ends."""
    counts, gone, ends = [], [], []
    for start in pool.starts:
        counter = EvaluationCounter()
        atoms = start.copy()
        atoms.calc = CountedCalculator(TorchCalculator(potential), counter)
        optimizer = RLOptimizer(atoms, agent=agent, logfile=None)
        converged = optimizer.run(fmax=FMAX, steps=MAX_STEPS)
        counts.append(counter.count if converged else MAX_STEPS)
        gone.append(not optimizer.agent_in_charge)
        ends.append(atoms)
    return {
        "ratio": float(np.exp(np.log(np.array(counts) / np.array(pool.evaluations)).mean())),
        "median": float(np.median(counts)),
        "p95": float(np.percentile(counts, 95)),
        "handed_over": float(np.mean(gone)),
    } | destinations(ends, pool.lowest, potential)


def judge_alone(agent: Agent, pool: Pool, potential: TorchPotential) -> dict[str, float]:
    """What the policy's own steps leave from far starts, and where it comes to rest."""
    graph = graph_from_atoms(pool.far)
    lowest = torch.tensor(pool.far_lowest, dtype=torch.float64)
    evaluated = potential.evaluate(graph)
    graph = graph.replace(forces=evaluated.forces, energy=evaluated.energy)
    first_force, first_energy = max_force(graph), evaluated.energy - lowest
    measured = {}
    for step in range(1, STEPS + 1):
        running = max_force(graph) > FMAX
        action = torch.where(running[graph.graph_index, None], agent.act(graph), 0.0)
        moved = graph.replace(positions=graph.positions + action)
        evaluated = potential.evaluate(moved)
        # Where atoms end on top of each other there is nothing to go on from: it stays there, not converged.
        fine = ~evaluated.failed
        rows = fine[graph.graph_index, None]
        graph = moved.replace(
            positions=torch.where(rows, moved.positions, graph.positions),
            forces=torch.where(rows, evaluated.forces, graph.forces),
            energy=torch.where(fine, evaluated.energy, graph.energy),
        )
        if step in (1, 3):
            force = max_force(graph) / first_force
            energy = (graph.energy - lowest).clamp(min=1e-9) / first_energy
            measured[f"force_after_{step}"] = float(force.clamp(min=1e-9).log().mean().exp())
            measured[f"energy_after_{step}"] = float(energy.log().mean().exp())
            # Small forces high above the minimum: what attraction to saddle points looks like.
            measured[f"deceived_after_{step}"] = float(((force < 0.2) & (energy > 0.2)).double().mean())
    fmax = max_force(graph)
    resting = torch.nonzero(fmax < REST).flatten().tolist()
    ends = atoms_from_graph(graph)
    where = destinations([ends[k] for k in resting], [pool.far_lowest[k] for k in resting], potential)
    share = len(resting) / len(ends)
    return (
        measured
        | {"converged": float((fmax < FMAX).double().mean()), "at_rest": share}
        | {name: value * share for name, value in where.items()}
    )


def destinations(ends: Sequence[Atoms], lowest: Sequence[float], potential: TorchPotential) -> dict[str, float]:
    """Shares that end in the minimum they come from, in a lower one, in a higher one, at a saddle point."""
    counts = dict.fromkeys(("same", "lower", "higher", "saddle"), 0)
    for atoms, bottom in zip(ends, lowest, strict=True):
        graph = graph_from_atoms(atoms)
        above = float(potential.evaluate(graph).energy[0]) - bottom
        if abs(above) < SAME_ENERGY:
            counts["same"] += 1
        elif softest_modes(potential.hessian(graph)[0].numpy())[0] < SADDLE:
            counts["saddle"] += 1
        else:
            counts["lower" if above < 0 else "higher"] += 1
    return {name: count / max(len(ends), 1) for name, count in counts.items()}


def run_variant(study: Study, name: str, seed: int, pool: Pool, potential: TorchPotential, out: Path) -> None:
    """Train one variant with one seed, judge it, and store what came of it."""
    result = out / f"{name}-{seed}.json"
    if result.exists():
        return
    began = time.monotonic()
    folder = out / "runs" / f"{name}-{seed}"
    overrides = study.variants[name].overrides if name in study.variants else ()
    config = load_run_config(study.reference, [*overrides, f"run.seed={seed}", f"run.dir={folder}"])
    assert isinstance(config, ConstraintsConfig)
    if name == "untrained":
        agent = Agent(build_actor(config.actor, Generators(seed).torch("actor")), config.actor.max_step)
    else:
        if folder.exists() and not list(folder.glob("checkpoints/*.pt")):
            shutil.rmtree(folder)  # ended before its first evaluation
        trained = resume(folder, verbose=False) if folder.exists() else train(config, verbose=False)
        if trained.interrupted:
            raise KeyboardInterrupt  # what was asked for is the end of the study, not of this run alone
        agent = load_agent(str(folder / "last"))
    content = {"optimizer": judge_optimizer(agent, pool, potential), "alone": judge_alone(agent, pool, potential)}
    result.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    seconds, ratio = time.monotonic() - began, content["optimizer"]["ratio"]
    print(f"{name} seed {seed}, {seconds:.0f} s: {ratio:.3f} of BFGS's evaluations", flush=True)


COLUMNS = (
    ("optimizer", "ratio", "evaluations / BFGS", "{:.3f}"),
    ("optimizer", "median", "median", "{:.1f}"),
    ("optimizer", "p95", "p95", "{:.1f}"),
    ("optimizer", "same", "ends in its minimum", "{:.1%}"),
    ("optimizer", "higher", "higher", "{:.1%}"),
    ("optimizer", "saddle", "saddle", "{:.1%}"),
    ("alone", "force_after_1", "F_max after 1 step", "{:.3f}"),
    ("alone", "energy_after_1", "energy after 1", "{:.4f}"),
    ("alone", "force_after_3", "F_max after 3", "{:.4f}"),
    ("alone", "deceived_after_1", "small forces, high energy", "{:.1%}"),
    ("alone", "at_rest", "at rest", "{:.1%}"),
    ("alone", "saddle", "... at a saddle", "{:.1%}"),
)


def table(study: Study, out: Path) -> str:
    """All results in Markdown: mean (lowest - highest) over the seeds."""
    rows = {"untrained": "before training", "reference": "cloning only"}
    rows |= {name: variant.changes for name, variant in study.variants.items()}
    lines = ["| variant | runs | " + " | ".join(title for *_, title, _ in COLUMNS) + " |"]
    lines.append("| --- " * (len(COLUMNS) + 2) + "|")
    for name, title in rows.items():
        files = [out / f"{name}-{seed}.json" for seed in study.seeds]
        results = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]
        if not results:
            continue
        cells = [title, str(len(results))]
        for part, key, _, form in COLUMNS:
            values = [result[part][key] for result in results]
            spread = f" ({form.format(min(values))} - {form.format(max(values))})" if len(set(values)) > 1 else ""
            cells.append(form.format(float(np.mean(values))) + spread)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/constraint_ablations.yaml"))
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and results")
    parser.add_argument(
        "--page", type=Path, default=Path("docs/constraints.md"), help="the page's table is written here"
    )
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help="run these variants alone")
    parser.add_argument("--seeds", nargs="+", type=int, help="run these seeds alone")
    parser.add_argument("--minutes", type=float, help="start no further run after this time")
    parser.add_argument("--report", action="store_true", help="run nothing, only write the page")
    arguments = parser.parse_args()
    study = load_config(Study, arguments.config)
    names = arguments.only or ["untrained", "reference", *study.variants]
    unknown = set(names) - {"untrained", "reference", *study.variants}
    if unknown:
        parser.error(f"no variant is called {', '.join(sorted(unknown))}; there are {', '.join(study.variants)}")
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    if not arguments.report:
        potential = parse_calculator(study.reference["calculator"]).potential()
        assert isinstance(potential, TorchPotential)
        pool = make_pool(potential, out / "bfgs.json")
        began, limit = time.monotonic(), 60 * (arguments.minutes or float("inf"))
        for seed in arguments.seeds or study.seeds:  # one seed of all before the next of any
            for name in names:
                if time.monotonic() - began < limit:
                    run_variant(study, name, seed, pool, potential, out)
    text = arguments.page.read_text(encoding="utf-8") if arguments.page.exists() else f"{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    arguments.page.write_text(f"{before}{BEGIN}\n{table(study, out)}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
