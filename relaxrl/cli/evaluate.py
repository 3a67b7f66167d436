"""`relaxrl evaluate`: agents and classical optimizers on the same structures."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relaxrl.errors import ConfigError

if TYPE_CHECKING:
    from relaxrl.evaluation import RunRecord

DESCRIPTION = """\
Relax the same structures with an agent and with classical optimizers, and count force evaluations: the calls of the
calculator, which are what a relaxation costs. Every method starts from the same positions with a fresh calculator.

Writes into DIR
  report.html   all of it as one page for a browser: tables, charts, relaxations to watch, worst cases first
  runs.csv      one row per structure and method; a force never reached leaves its evaluation count empty
  summary.json  median, mean, p95, max, converged fraction of each method, and its ratio to BFGS with an interval
  traces.csv    fmax and energy of each force evaluation of each run
  trajectories.npz  geometries of the worst structures' relaxations (--views)
  report.md     the tables again, naming the best classical method of each set: the bar an agent has to clear
  *.png         distribution, performance profile, fmax against evaluations, ratio against number of atoms
"""

EPILOG = """\
methods:
  {methods}
  `untrained` is what agents fall back to: relaxrl's quasi-Newton method with a Hessian guessed from bond lengths.
  `newton-oracle` is an agent with exact Hessians, which are not counted: a yardstick. It runs only where it is named,
  and needs a calculator written in torch (emt, lj, eam:FILE, ...).
  BFGS always runs, since ratios are taken to it.

A FILE is anything that ASE reads, a folder of such files, a CSV table with CIF text, or a shipped set (metals:test).
Each FILE is a set of its own in the report. Relaxed structures need --rattle: nothing else is left to relax.

With --cell the classical methods are those that work on filters: all but PreconLBFGS and newton-oracle.

examples:
  relaxrl evaluate --agent metals --structures metals:test --calculator emt --out results
  relaxrl evaluate --agent runs/mine --structures my_crystals.extxyz --calculator mypackage.calc:MyCalculator \\
      --methods BFGS,FIRE,GoodOldQuasiNewton --fmax 0.05 --out results
  relaxrl evaluate --agent none --structures minima.cif --rattle 0.1 --calculator lj,sigma=2.5,epsilon=0.4 --out lj
"""

NO_AGENT = "none"
SAVE_EVERY = 5.0
"""Seconds between two writings of `runs.csv` while the evaluation goes on."""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser of `relaxrl`."""
    parser = subparsers.add_parser(
        "evaluate",
        help="compare an agent with classical optimizers on the same structures",
        description=DESCRIPTION,
        epilog=EPILOG.format(methods=_method_lines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--agent",
        nargs="+",
        required=True,
        metavar="NAME_OR_PATH",
        help="agents to evaluate: names of shipped ones, run or model folders; `none` compares only the others; "
        "`,verifier=on` after a name lets the agent's energy over actions choose its steps",
    )
    parser.add_argument("--structures", nargs="+", required=True, metavar="FILE", help="structures to relax")
    parser.add_argument(
        "--calculator",
        required=True,
        metavar="NAME",
        help="emt, lj, eam:FILE, chgnet, lammps:FILE, ... or package.module:Class, with arguments as in lj,sigma=2.5; "
        "`stored` for the one that each structure of a set names",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for results; replaced if there")
    parser.add_argument(
        "--methods", metavar="A,B,...", help="classical methods to run (default: all of the list below but the last)"
    )
    parser.add_argument("--fmax", type=float, default=0.01, help="converged below this force, eV/Å (default: 0.01)")
    parser.add_argument(
        "--also",
        type=float,
        nargs="*",
        metavar="FMAX",
        help="other forces to compare at, eV/Å, read off the same runs (default: 0.05)",
    )
    parser.add_argument("--steps", type=int, default=500, help="limit of each run in optimizer steps (default: 500)")
    parser.add_argument(
        "--rattle",
        type=float,
        default=0.0,
        help="displace each coordinate at random with this standard deviation in Å, before all runs (default: 0)",
    )
    parser.add_argument(
        "--cell",
        action="store_true",
        help="relax cells, too; classical methods on ASE's FrechetCellFilter, whose measure of stress counts in fmax",
    )
    parser.add_argument(
        "--strain",
        type=float,
        default=0.0,
        help="strain each cell at random with this standard deviation per component, before all runs (default: 0)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the displacements and the bootstrap (default: 0)")
    parser.add_argument("--time-limit", type=float, metavar="S", help="limit of each run in seconds (default: none)")
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes; with several, seconds compare less (default: 1)"
    )
    parser.add_argument(
        "--together",
        type=int,
        default=1,
        metavar="N",
        help="relax N structures side by side, with one call of a torch potential and of the agent (default: 1)",
    )
    parser.add_argument(
        "--device", default="cpu", help="of agents, and of the potential with --together: cpu or cuda (default: cpu)"
    )
    parser.add_argument(
        "--views",
        type=int,
        default=100,
        metavar="N",
        help="structures whose relaxations are kept step by step for the report, worst first (default: 100)",
    )
    parser.set_defaults(run=run)


def _method_lines() -> str:
    names = METHOD_NAMES
    return ", ".join(names[:7]) + ",\n  " + ", ".join(names[7:])


METHOD_NAMES = (
    *("BFGS", "LBFGS", "BFGSLineSearch", "FIRE", "FIRE2", "MDMin", "GPMin", "GoodOldQuasiNewton", "SciPyFminCG"),
    *("PreconLBFGS", "BFGS-alpha10", "BFGS-alpha20", "untrained", "newton-oracle"),
)
"""Those of `relaxrl.evaluation.method_names()`, which takes seconds to import: too long for a help text."""


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the tables, write the report; returns 0."""
    from rich.console import Console

    from relaxrl.evaluation import evaluate, write_report
    from relaxrl.evaluation.methods import STANDARD
    from relaxrl.evaluation.report import table, write_runs
    from relaxrl.evaluation.run import Limits

    agents = [] if args.agent == [NO_AGENT] else args.agent
    if NO_AGENT in agents:
        raise ConfigError("--agent: expected `none` alone or names of agents, got both")
    methods = args.methods.split(",") if args.methods else STANDARD
    _make_folder(args.out)
    thresholds = Limits(args.fmax, args.steps, also=tuple(args.also or ())).thresholds
    records: list[RunRecord] = []
    saved = time.monotonic()

    with _bar() as bar:
        task = bar.add_task("relaxing", total=None)

        def on_record(record: RunRecord, done: int, total: int) -> None:
            nonlocal saved
            records.append(replace(record, film=None))  # the films of good runs are not kept
            bar.update(task, completed=done, total=total, description=f"{record.structure} {record.method}")
            if time.monotonic() - saved > SAVE_EVERY:
                write_runs(args.out / "runs.csv", records, thresholds)
                saved = time.monotonic()

        try:
            comparison = evaluate(
                agents,
                args.structures,
                args.calculator,
                methods=[name.strip() for name in methods if name.strip()],
                fmax=args.fmax,
                also=args.also,
                steps=args.steps,
                rattle=args.rattle,
                cell=args.cell,
                strain=args.strain,
                seed=args.seed,
                seconds=args.time_limit,
                workers=args.workers,
                together=args.together,
                device=args.device,
                views=args.views,
                on_record=on_record,
                on_note=lambda note: print(f"relaxrl: {note}", file=sys.stderr),
            )
        except KeyboardInterrupt:
            if records:
                write_runs(args.out / "runs.csv", records, thresholds)
                print(f"relaxrl: the {len(records)} runs so far are in {args.out / 'runs.csv'}", file=sys.stderr)
            raise
    comparison = replace(comparison, command=args.command)
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # tables in files and pipes are not to be folded
    names = comparison.collections
    for summary in [*map(comparison.summary, names), *([comparison.summary()] if len(names) > 1 else [])]:
        console.print(table(summary), "")
    if all(record.converged and record.force_evaluations <= 1 for record in comparison.records):
        print("All structures were converged at the start; displace them with --rattle 0.1.", file=sys.stderr)
    for path in write_report(comparison, args.out):
        print(f"wrote {path}")
    return 0


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {folder}: expected a folder that can be written to: {error}") from error


def _bar() -> AbstractContextManager[Any]:
    """A progress bar on standard error; silent where that is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
