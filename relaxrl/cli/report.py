"""`relaxrl report`: the page of a training run, or of an evaluation, from what its folder holds."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from relaxrl.errors import ResultsError

_DESCRIPTION = """\
Write report.html into the folder of a training run or of an evaluation: one page for any browser, without a network.

Of a run (`relaxrl train`, `relaxrl pretrain`), finished or still going on: curves against t_total, diagnoses in words,
buffer shares, curriculum stages, the resolved configuration, versions, the command.
Of an evaluation (`relaxrl evaluate`, which writes one itself): the page again, from runs.csv, summary.json, traces.csv
and trajectories.npz.
"""

_EPILOG = """\
examples:
  relaxrl report runs/mine
  relaxrl report results
  relaxrl report runs/*        all runs, one after another
"""


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "report",
        help="write the page of a training run or of an evaluation",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folder of a run or of an evaluation")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the pages, and say where they are."""
    for folder in args.folders:
        print(f"wrote {write(folder)}")
    return 0


def write(folder: Path) -> Path:
    """The page of a folder, by what is in it."""
    # Imported here: torch takes seconds to load, and --help must not.
    from relaxrl.evaluation.stored import RUNS

    if not folder.exists():
        raise ResultsError(
            f"{folder}: there is no such folder; expected that of a training run, or what `relaxrl evaluate` was given "
            "as --out"
        )
    if not folder.is_dir():
        raise ResultsError(f"{folder}: expected a folder, got a file")
    if (folder / RUNS).is_file():
        from relaxrl.evaluation.html import write_html
        from relaxrl.evaluation.stored import read_comparison

        return write_html(read_comparison(folder), folder)
    if (folder / "config.yaml").is_file():
        from relaxrl.training.html import write_run_report

        return write_run_report(folder)
    raise ResultsError(
        f"{folder}: expected the folder of a run (it has config.yaml) or of an evaluation (it has {RUNS}), got one "
        "with neither"
    )
