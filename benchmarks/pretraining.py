"""What a pretrained trunk is worth to an agent: force evaluations and training time with and without it.

Run `python benchmarks/pretraining.py --out FOLDER`; it takes a minute or two of one core per run. Runs that FOLDER
already holds are not repeated, and interrupted ones go on. `--report` only writes page and picture from what there is.

Each seed has a pretraining of its own. Runs are judged after their last update, as `RLOptimizer` with the agent of that
moment, on all starts of `metals:dev`.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import field
from pathlib import Path
from typing import Any

import numpy as np
from ablation_report import BEGIN, END
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

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
    """Whether it begins with the pretrained trunk of its seed."""
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


def potential(study: Study, seed: int, out: Path) -> Path:
    """The pretrained potential of a seed; made if it is not there. `seconds.json` beside it has its time."""
    folder = out / "runs" / f"potential-{seed}"
    if (folder / "seconds.json").exists():
        return folder
    began = time.monotonic()
    trainer = study.pretraining["trainer"] | {"seed": seed, "save_dir": str(folder)}
    config = from_dict(PretrainConfig, study.pretraining | {"trainer": trainer}, source="pretraining")
    done = resume_pretraining(folder, verbose=False) if folder.exists() else pretrain(config, verbose=False)
    if done.training.interrupted:
        raise KeyboardInterrupt
    seconds, error = time.monotonic() - began, done.best["validation/forces_mae"]
    (folder / "seconds.json").write_text(json.dumps({"seconds": seconds, "forces_mae": error}) + "\n", encoding="utf-8")
    print(f"potential {seed}, {seconds:.0f} s: {error:.3f} eV/Å", flush=True)
    return folder


def run_variant(study: Study, name: str, seed: int, out: Path) -> None:
    """Train one variant with one seed; what came of it stays in the run's metrics."""
    folder = out / "runs" / f"{name}-{seed}"
    variant = study.variants.get(name, Variant(changes="reference"))
    overrides = [*variant.overrides, f"run.seed={seed}", f"run.dir={folder}"]
    if variant.pretrained:
        overrides.append(f"trainer.ckpt_file={potential(study, seed, out)}")
    config = load_run_config(study.reference, overrides)
    began = time.monotonic()
    done = resume(folder, verbose=False) if (folder / "config.yaml").exists() else train(config, verbose=False)
    if done.interrupted:
        raise KeyboardInterrupt  # what was asked for is the end of the study, not of this run alone
    print(
        f"{name} {seed}, {time.monotonic() - began:.0f} s: {done.metrics[RATIO]:.3f} of BFGS's evaluations", flush=True
    )


def curve(folder: Path, column: str) -> tuple[list[float], list[float]]:
    """Crystals seen, and a column where it has values."""
    rows = read_metrics(folder / "metrics.csv")
    points = [(x, y) for x, y in zip(rows["t_total"], rows[column], strict=True) if y == y]
    return [x for x, _ in points], [y for _, y in points]


def table(study: Study, out: Path) -> str:
    """All results in Markdown: mean (lowest - highest) over the seeds."""
    rows = {"reference": "from random parameters"} | {name: each.changes for name, each in study.variants.items()}
    batch = study.reference["batch_size"]
    goals = {seed: curve(out / "runs" / f"reference-{seed}", LOSS)[1][-1] for seed in study.seeds}
    head = ("variant", "evaluations / BFGS", "at a third", "most evaluations", "handed over", "validation loss")
    lines = ["| " + " | ".join((*head, "updates to the reference's loss")) + " |", "| --- " * (len(head) + 1) + "|"]
    for name, title in rows.items():
        found: list[list[float]] = [[] for _ in range(6)]
        for seed in study.seeds:
            folder = out / "runs" / f"{name}-{seed}"
            if not (folder / "metrics.csv").exists():
                continue
            seen, losses = curve(folder, LOSS)
            ratios = curve(folder, RATIO)[1]
            reached = [x / batch for x, y in zip(seen, losses, strict=True) if y <= goals[seed]]
            last = [curve(folder, f"eval/{key}")[1][-1] for key in ("evaluations_max", "handed_over")]
            values = [ratios[-1], ratios[1], *last, losses[-1], reached[0] if reached else float("nan")]
            for column, value in zip(found, values, strict=True):
                column.append(value)
        if not found[0]:
            continue
        forms = ("{:.3f}", "{:.3f}", "{:.0f}", "{:.0%}", "{:.2f}", "{:.0f}")
        lines.append("| " + " | ".join([title, *(cell(*pair) for pair in zip(found, forms, strict=True))]) + " |")
    made = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("runs/potential-*/seconds.json"))]
    seconds = [curve(out / "runs" / f"reference-{seed}", "time/seconds")[1][-1] for seed in study.seeds]
    lines += [
        "",
        f"Seconds of one core, evaluations included: pretraining {cell([each['seconds'] for each in made], '{:.0f}')}, "
        f"the reference {cell(seconds, '{:.0f}')}. Forces of the potentials on `metals:dev`: mean absolute error "
        f"{cell([each['forces_mae'] for each in made], '{:.3f}')} eV/Å.",
    ]
    return "\n".join(lines)


def cell(values: list[float], form: str) -> str:
    """Mean, and lowest and highest."""
    if any(value != value for value in values):
        reached = [form.format(value) if value == value else "never" for value in values]
        return ", ".join(reached)
    spread = f" ({form.format(min(values))} - {form.format(max(values))})" if len(set(values)) > 1 else ""
    return form.format(float(np.mean(values))) + spread


def draw(study: Study, out: Path, path: Path) -> None:
    """Loss and force evaluations on the development set against updates; a line per run."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    batch = study.reference["batch_size"]
    titles = {LOSS: "loss on metals:dev", RATIO: "force evaluations / BFGS's"}
    for place, (column, title) in enumerate(titles.items(), start=1):
        axes = figure.add_subplot(1, 2, place)
        for number, name in enumerate(["reference", *study.variants]):
            for seed in study.seeds:
                folder = out / "runs" / f"{name}-{seed}"
                if (folder / "metrics.csv").exists():
                    seen, values = curve(folder, column)
                    label = name if seed == study.seeds[0] else None
                    axes.plot([x / batch for x in seen], values, color=f"C{number}", linewidth=1, label=label)
        axes.set_xlabel("updates")
        axes.set_title(title)
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
