"""What each addition to TD3 is worth: trains a reference and variants of it that differ by one switch each.

Run `python benchmarks/ablations.py --out FOLDER`; it takes about a minute of one core per run. Runs that FOLDER already
holds are not repeated, so that it can be interrupted. `--report` only writes the page from what there is.

Each run is judged on the development crystals in two ways, as it is after its last update: the policy alone, without a
fallback; and `RLOptimizer` with the agent, which is what users run. Force evaluations are divided by those of ASE's
BFGS from the same start, and averaged geometrically.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ablation_report import write_report

from relaxrl import load_agent
from relaxrl.agents import Agent
from relaxrl.config import configclass, from_dict, load_config
from relaxrl.errors import ConfigError
from relaxrl.potentials import Potential, parse_calculator
from relaxrl.structures import Crystal, read_structures
from relaxrl.training import RunFolder, TrainConfig, Trainer, load_run_config, train
from relaxrl.training.development import bfgs_evaluations, development_starts
from relaxrl.training.relaxations import judge_as_optimizer

DEVELOPMENT = "metals:dev"
MAX_STEPS = 500
"""Of a relaxation with the fallback; none has come near it."""


@configclass
class Variant:
    """What a variant changes."""

    changes: str
    """In words, for the table."""
    overrides: tuple[str, ...] = ()
    """`key=value`, as on the command line."""
    note: str = ""
    """What a reader should know about it."""


@configclass
class Study:
    """A reference and its variants."""

    seeds: tuple[int, ...]
    """Each variant runs once with each."""
    reference: dict[str, Any]
    """Configuration of the reference, see `TrainConfig`."""
    variants: dict[str, Variant] = field(default_factory=dict)
    """By name; the reference is none of them."""


@dataclass(frozen=True)
class Judge:
    """Judges agents as optimizers on all development crystals."""

    starts: list[Crystal]
    potential: Potential
    fmax: float
    bfgs: list[int]

    def __call__(self, agent: Agent | None) -> dict[str, float]:
        """Ratio to BFGS, share converged, and so on; None is the quasi-Newton fallback alone."""
        return judge_as_optimizer(agent, self.starts, self.potential, self.fmax, MAX_STEPS, self.bfgs)


def make_judge(study: Study, out: Path) -> Judge:
    """The judge of all runs of a study; BFGS is run once and remembered."""
    config = load_run_config(study.reference)
    starts = development_starts(read_structures(DEVELOPMENT), None, 0.1, np.random.default_rng(0))
    potential = parse_calculator(config.calculator).potential()
    fmax = float(study.reference["env"]["fmax"])
    bfgs = bfgs_evaluations(starts, potential, fmax, MAX_STEPS, out / "bfgs.json")
    return Judge(starts, potential, fmax, bfgs)


def run_variant(study: Study, name: str, seed: int, judge: Judge, out: Path) -> None:
    """Train one variant with one seed, judge it, and store what came of it."""
    result = out / f"{name}-{seed}.json"
    if result.exists():
        return
    folder = out / "runs" / f"{name}-{seed}"
    if folder.exists():  # interrupted before its end
        shutil.rmtree(folder)
    overrides = study.variants[name].overrides if name in study.variants else ()
    here = (f"run.seed={seed}", f"run.dir={folder}")
    config = load_run_config(study.reference, [*overrides, *here])
    if overrides and config == load_run_config(study.reference, here):
        # Given parts of a schedule are merged with the reference's, so that an override can come to nothing.
        raise ConfigError(f"variants.{name}: `{'`, `'.join(overrides)}` change nothing in the reference")
    trained = train(config, verbose=False)
    if trained.interrupted:
        raise KeyboardInterrupt  # what was asked for is the end of the study, not of this run alone
    alone = evaluations(folder / "metrics.csv")
    content: dict[str, Any] = {
        "alone": alone[-1],
        "alone_best": min(alone, key=lambda row: row["eval/ratio_to_bfgs"]),
        "optimizer": judge(load_agent(str(folder / "last"))),
        "updates": trained.updates,
    }
    result.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    ratio, with_fallback = content["alone"]["eval/ratio_to_bfgs"], content["optimizer"]["eval/ratio_to_bfgs"]
    print(
        f"{name} seed {seed}: policy alone {ratio:.3f} of BFGS's evaluations, as optimizer {with_fallback:.3f}",
        flush=True,
    )


def run_untrained(study: Study, seed: int, judge: Judge, out: Path) -> None:
    """Judge the reference's actor before any training: what training has to improve upon."""
    result = out / f"untrained-{seed}.json"
    if result.exists():
        return
    path = out / "runs" / f"untrained-{seed}"
    shutil.rmtree(path, ignore_errors=True)
    config = from_dict(TrainConfig, study.reference, [f"run.seed={seed}", f"run.dir={path}"])
    folder = RunFolder.create(config.run.dir, seed)
    trainer = Trainer(config, folder)
    judged = trainer.development
    bfgs = bfgs_evaluations(judged.starts, judged.potential, config.env.fmax, MAX_STEPS, folder.baseline)
    metrics = judged.judge(trainer.learner, trainer.actor, trainer.critic, bfgs, 0).metrics
    optimizer = judge(Agent(trainer.actor, config.td3.max_step))
    content = {"alone": metrics, "alone_best": metrics, "optimizer": optimizer, "updates": 0}
    result.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def evaluations(metrics: Path) -> list[Mapping[str, float]]:
    """The rows of a run's metrics in which its policy was judged."""
    with metrics.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("eval/ratio_to_bfgs")]
    return [{key: float(value) for key, value in row.items() if key.startswith("eval/") and value} for row in rows]


def main() -> None:
    """Run what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/ablations.yaml"), help="reference and variants")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and results")
    parser.add_argument("--page", type=Path, default=Path("docs/ablations.md"), help="the page's table is written here")
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help="run these variants alone")
    parser.add_argument("--report", action="store_true", help="run nothing, only write the page")
    arguments = parser.parse_args()
    study = load_config(Study, arguments.config)
    names = arguments.only or ["reference", *study.variants]
    unknown = set(names) - {"reference", *study.variants}
    if unknown:
        parser.error(f"no variant is called {', '.join(sorted(unknown))}; there are {', '.join(study.variants)}")
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    if not arguments.report:
        judge = make_judge(study, out)
        fallback = out / "fallback.json"
        if not fallback.exists():
            fallback.write_text(json.dumps(judge(None), indent=1) + "\n", encoding="utf-8")
        for seed in study.seeds:  # one seed of all before the next of any: an interrupted study is still balanced
            run_untrained(study, seed, judge, out)
            for name in names:
                run_variant(study, name, seed, judge, out)
    described = {name: (variant.changes, variant.note) for name, variant in study.variants.items()}
    write_report(study.seeds, described, out, arguments.page)


if __name__ == "__main__":
    main()
