"""All files that an evaluation leaves behind."""

from __future__ import annotations

import json
import os
from pathlib import Path

from relaxrl.checkpoint import write_atomically
from relaxrl.evaluation.compare import Comparison
from relaxrl.evaluation.html import write_html
from relaxrl.evaluation.plots import draw_plots
from relaxrl.evaluation.report import markdown, summary_json, write_runs
from relaxrl.evaluation.stored import RUNS, SUMMARY, write_details


def write_report(comparison: Comparison, folder: str | os.PathLike[str]) -> list[Path]:
    """Write `report.html` and all other files of `docs/evaluation.md`; those of an earlier report are replaced.

    Returns:
        What was written.
    """
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    # Results first: whatever may go wrong with a picture, they are there.
    write_runs(out / RUNS, comparison.records, comparison.limits.thresholds)
    summary = json.dumps(summary_json(comparison), indent=2, ensure_ascii=False) + "\n"
    write_atomically(out / SUMMARY, summary.encode())
    details = write_details(out, comparison.records)
    page = write_html(comparison, out)
    plots = draw_plots(comparison, out)
    write_atomically(out / "report.md", markdown(comparison, plots).encode())
    return [page, out / RUNS, out / SUMMARY, *details, out / "report.md", *plots]
