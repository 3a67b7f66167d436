"""What a pretrained trunk is worth to an agent: force evaluations and training time with and without it.

Run `python benchmarks/pretraining.py --out FOLDER`; it takes a minute of one core per run. Runs that FOLDER
already holds are not repeated, and interrupted ones go on. `--report` only writes page and picture from what there is.

All runs go on from one potential. They are judged after their last update, as `RLOptimizer` with the agent of that
moment, on all starts of `metals:dev`.
"""

from __future__ import annotations

import argparse
from dataclasses import field
from pathlib import Path
from typing import Any

import numpy as np
from ablation_report import BEGIN, END
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from relaxrl.checkpoint import load_model
from relaxrl.config import configclass, from_dict, load_config
from relaxrl.metrics import read_metrics
from relaxrl.training import PretrainConfig, load_run_config, pretrain, resume, resume_pretraining, train

LOSS, RATIO = "validation/loss", "eval/ratio_to_bfgs"


@configclass
class Variant:
    """What a variant changes."""

    changes: str
    """In words, for the table."""
    pretrained: bool = False
    """Whether it begins with the pretrained trunk."""
    overrides: tuple[str, ...] = ()
    """`key=value`, as on the command line."""


@configclass
class Study:
    """A reference and its variants."""

    seeds: tuple[int, ...]
    """Each variant runs once with each."""
    pretraining: dict[str, Any]
    """Configuration of the pretraining, see `PretrainConfig`."""
    reference: dict[str, Any]
    """Configuration of the reference, see `CloningConfig`."""
    variants: dict[str, Variant] = field(default_factory=dict)
    """By name; the reference is none of them."""


def potential(study: Study, out: Path) -> Path:
    """The run folder of the pretrained potential; pretraining goes on if it has not ended."""
    folder = out / "runs" / "potential"
    metrics = folder / "pretrain_metrics.csv"
    if metrics.exists() and read_metrics(metrics)["epoch"][-1:] == [study.pretraining["trainer"]["max_epochs"]]:
        return folder
    trainer = study.pretraining["trainer"] | {"save_dir": str(folder)}
    config = from_dict(PretrainConfig, study.pretraining | {"trainer": trainer}, source="pretraining")
    done = resume_pretraining(folder, verbose=False) if folder.exists() else pretrain(config, verbose=False)
    if done.training.interrupted:
        raise KeyboardInterrupt  # what was asked for is the end of the study, not of this run alone
    return folder


def run_variant(study: Study, name: str, seed: int, out: Path) -> None:
    """Train one variant with one seed; what came of it stays in the run's metrics."""
    folder = out / "runs" / f"{name}-{seed}"
    if ended(study, folder):
        return
    variant = study.variants.get(name, Variant(changes="reference"))
    overrides = [*variant.overrides, f"run.seed={seed}", f"run.dir={folder}"]
    if variant.pretrained:
        overrides.append(f"trainer.ckpt_file={potential(study, out)}")
    config = load_run_config(study.reference, overrides)
    done = resume(folder, verbose=False) if (folder / "config.yaml").exists() else train(config, verbose=False)
    if done.interrupted:
        raise KeyboardInterrupt
    print(f"{name} {seed}: {done.metrics[RATIO]:.3f} of BFGS's evaluations", flush=True)


def ended(study: Study, folder: Path) -> bool:
    """Whether a run has been judged after its last update."""
    if not (folder / "metrics.csv").exists():
        return False
    return curve(folder, RATIO)[0][-1:] >= [study.reference["run"]["updates"] * study.reference["batch_size"]]


def curve(folder: Path, column: str) -> tuple[list[float], list[float]]:
    """Crystals seen, and a column where it has values."""
    rows = read_metrics(folder / "metrics.csv")
    points = [(x, y) for x, y in zip(rows["t_total"], rows[column], strict=True) if y == y]
    return [x for x, _ in points], [y for _, y in points]


def table(study: Study, out: Path) -> str:
    """All results in Markdown: mean (lowest - highest) over the seeds."""
    rows = {"reference": "from random parameters"} | {name: each.changes for name, each in study.variants.items()}
    head = ("variant", "evaluations / BFGS", "most evaluations", "handed over", "loss", "updates to the reference's")
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for name, title in rows.items():
        runs = [out / "runs" / f"{name}-{seed}" for seed in study.seeds]
        goals = [curve(out / "runs" / f"reference-{seed}", LOSS)[1][-1] for seed in study.seeds]
        if not all(ended(study, run) for run in runs):
            continue
        reached = []
        for run, goal in zip(runs, goals, strict=True):
            seen, losses = curve(run, LOSS)
            first = [x for x, loss in zip(seen, losses, strict=True) if loss <= goal]
            reached.append(f"{first[0] / study.reference['batch_size']:.0f}" if first else "never")
        columns = {RATIO: "{:.3f}", "eval/evaluations_max": "{:.0f}", "eval/handed_over": "{:.0%}", LOSS: "{:.2f}"}
        cells = [cell([curve(run, name)[1][-1] for run in runs], form) for name, form in columns.items()]
        lines.append("| " + " | ".join([title, *cells, ", ".join(reached)]) + " |")
    untrained = [curve(out / "runs" / f"reference-{seed}", RATIO)[1][0] for seed in study.seeds]
    pretrained = load_model(out / "runs" / "potential" / "best")[1]["metadata"]["validation"]
    lines += [
        "",
        f"Before any training: {cell(untrained, '{:.3f}')} of BFGS's evaluations. Mean absolute error of the "
        f"potential's forces on `metals:dev`: {pretrained['validation/forces_mae']:.3f} eV/Å.",
    ]
    return "\n".join(lines)


def cell(values: list[float], form: str) -> str:
    """Mean, and lowest and highest."""
    spread = f" ({form.format(min(values))} - {form.format(max(values))})" if len(set(values)) > 1 else ""
    return form.format(float(np.mean(values))) + spread


def draw(study: Study, out: Path, path: Path) -> None:
    """The loss on the development set against updates; a line per run."""
    figure = Figure(figsize=(5.5, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, name in enumerate(["reference", *study.variants]):
        for seed in study.seeds:
            folder = out / "runs" / f"{name}-{seed}"
            if ended(study, folder):
                seen, values = curve(folder, LOSS)
                label = name if seed == study.seeds[0] else None
                axes.plot([x / study.reference["batch_size"] for x in seen], values, f"C{number}", lw=1, label=label)
    axes.set_xlabel("updates")
    axes.set_ylabel("cloning loss on metals:dev")
    axes.legend(loc="upper right")
    figure.savefig(path, dpi=90)


def main() -> None:
    """Run what is missing, then write the page and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/pretraining_ablations.yaml"))
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and results")
    parser.add_argument("--page", type=Path, default=Path("docs/pretraining.md"))
    parser.add_argument("--picture", type=Path, default=Path("docs/pretraining-ablation.png"))
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help="run these variants alone")
    parser.add_argument("--seeds", nargs="+", type=int, help="run these seeds alone")
    parser.add_argument("--report", action="store_true", help="run nothing, only write the page")
    parser.add_argument("--no-report", action="store_true", help="write no page")
    arguments = parser.parse_args()
    study = load_config(Study, arguments.config)
    names = arguments.only or ["reference", *study.variants]
    unknown = set(names) - {"reference", *study.variants}
    if unknown:
        parser.error(f"no variant is called {', '.join(sorted(unknown))}; there are {', '.join(study.variants)}")
    out: Path = arguments.out
    if not arguments.report:
        for seed in arguments.seeds or study.seeds:  # one seed of all before the next of any
            for name in names:
                run_variant(study, name, seed, out)
    if arguments.no_report:
        return
    text = arguments.page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    arguments.page.write_text(f"{before}{BEGIN}\n{table(study, out)}\n{END}{after}", encoding="utf-8")
    draw(study, out, arguments.picture)


if __name__ == "__main__":
    main()
