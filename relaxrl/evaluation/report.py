"""An evaluation in words and numbers: tables for people, CSV and JSON for programs."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from rich.table import Table

from relaxrl.checkpoint import write_atomically
from relaxrl.evaluation.compare import Comparison
from relaxrl.evaluation.methods import AGENT_PREFIX, REFERENCE
from relaxrl.evaluation.run import RunRecord
from relaxrl.evaluation.statistics import ENERGY_TOLERANCE, Ratio, energy_relation
from relaxrl.evaluation.summary import MethodSummary, SetSummary


def columns(summary: SetSummary) -> list[str]:
    """Of the printed table; force evaluations unless said otherwise."""
    also = [f"to {of} at {level:g}" for level in summary.also for of in ("BFGS", "best")]
    ratios = ["to BFGS", "to best", *also]
    return ["method", "converged", "median", "mean", "p95", "max", *ratios, "same/lower/higher", "s/run"]


def csv_columns(thresholds: Sequence[float]) -> list[str]:
    """Columns of `runs.csv`."""
    return [
        *("structure", "formula", "natoms", "method", "converged", "reason", "force_evaluations"),
        *(f"evaluations_{level:g}" for level in thresholds),
        *("seconds", "fmax", "energy", "energy_compared_with_bfgs", "distinct_evaluations", "handover", "set"),
    ]


def csv_row(record: RunRecord, reference: RunRecord | None) -> dict[str, Any]:
    """One row of `runs.csv`; what is unknown is empty.

    Args:
        record: The run.
        reference: BFGS's run from the same start, if there is one yet.
    """
    return {
        "structure": record.structure,
        "formula": record.formula,
        "natoms": record.natoms,
        "method": record.method,
        "converged": record.converged,
        "reason": record.reason,
        "force_evaluations": record.force_evaluations,
        **{f"evaluations_{level:g}": count for level, count in record.evaluations.items()},
        "seconds": f"{record.seconds:.4f}",
        "fmax": "" if math.isnan(record.fmax) else f"{record.fmax:.6g}",
        "energy": "" if math.isnan(record.energy) else f"{record.energy:.10g}",
        "energy_compared_with_bfgs": (energy_relation(record, reference) if reference else None) or "",
        "distinct_evaluations": record.distinct_evaluations,
        "handover": record.handover,
        "set": record.collection,
    }


def write_runs(path: Path, records: Sequence[RunRecord], thresholds: Sequence[float]) -> None:
    """Write `runs.csv`: one row per structure and method; also for a part of the runs, after an interruption."""
    reference = {record.structure: record for record in records if record.method == REFERENCE}
    text = StringIO(newline="")
    writer = csv.DictWriter(text, csv_columns(thresholds), lineterminator="\n")
    writer.writeheader()
    writer.writerows(csv_row(record, reference.get(record.structure)) for record in records)
    write_atomically(path, text.getvalue().encode())


def summary_json(comparison: Comparison) -> dict[str, Any]:
    """The content of `summary.json`; keys are explained in `docs/evaluation.md`."""
    whole = comparison.summary()
    return {
        "settings": {
            "calculator": comparison.calculator,
            "fmax": comparison.limits.fmax,
            "also": list(comparison.limits.also),
            "steps": comparison.limits.steps,
            "cell": comparison.limits.cell,
            "strain": comparison.strain,
            "rattle": comparison.rattle,
            "seconds": comparison.limits.seconds,
            "seed": comparison.seed,
            "confidence": 0.95,
            "energy_tolerance_per_atom": ENERGY_TOLERANCE,
        },
        "provenance": {
            "command": comparison.command,
            "created": comparison.created,
            "versions": comparison.versions,
        },
        **{key: value for key, value in whole.as_json().items() if key != "name"},
        "sets": {name: comparison.summary(name).as_json() for name in comparison.collections},
    }


def _of_cells(comparison: Comparison) -> str:
    """What the report says where cells relax."""
    if not comparison.limits.cell:
        return ""
    return (
        f"Cells relax, too, starts are strained by {comparison.strain:g}; classical methods do so on ASE's "
        "FrechetCellFilter, and fmax bounds stress times volume over the number of atoms as well. "
    )


def table(summary: SetSummary, agents_first: bool = True) -> Table:
    """The figures of one set for the terminal."""
    title = f"{summary.name}: {structures_text(summary)}, force evaluations to {summary.fmax:g} eV/Å"
    result = Table(title=title, caption=verdict(summary), title_justify="left", caption_justify="left")
    for name in columns(summary):
        result.add_column(name, justify="left" if name == "method" else "right", no_wrap=name == "method")
    for name in ordered_methods(summary, agents_first):
        style = "bold" if name.startswith(AGENT_PREFIX) else "green" if name == summary.best_classical else None
        result.add_row(name, *cells(summary.methods[name], summary), style=style)
    return result


def markdown(comparison: Comparison, plots: Sequence[Path] = ()) -> str:
    """The report as Markdown: what was run, a table and a verdict for each set, plots."""
    limits = comparison.limits
    lines = [
        "# Evaluation",
        "",
        f"Calculator `{comparison.calculator}`, fmax {limits.fmax:g} eV/Å, at most {limits.steps} steps, rattle "
        f"{comparison.rattle:g} Å, seed {comparison.seed}. All methods start from the same positions; each force "
        f"evaluation counts, the first included. {_of_cells(comparison)}"
        "Ratios are geometric means over structures, with 95 % bootstrap "
        f"intervals; a run that failed counts as {limits.censored} evaluations, or those it took if more. Energies "
        f"are compared with BFGS's to {ENERGY_TOLERANCE:g} eV per atom.",
        "",
    ]
    summaries = [comparison.summary(name) for name in comparison.collections]
    if len(summaries) > 1:
        summaries.append(comparison.summary())
    for summary in summaries:
        lines += [f"## {summary.name} ({structures_text(summary)})", "", verdict(summary), ""]
        rows = {name: cells(summary.methods[name], summary) for name in ordered_methods(summary)}
        lines += [*_markdown_table(columns(summary), rows), "", "Ratios at each force:", ""]
        heads = [head for level, best in summary.best_at.items() for head in (f"{level:g} eV/Å, to BFGS", f"to {best}")]
        rows = {}
        for name in ordered_methods(summary):
            one = summary.methods[name]
            pairs = ((one.ratio_to_reference[level], one.ratio_to_best[level]) for level in summary.best_at)
            rows[name] = [ratio_text(ratio) for pair in pairs for ratio in pair]
        lines += [*_markdown_table(["method", *heads], rows), ""]
        failures = {name: method.failures for name, method in summary.methods.items() if method.failures}
        if failures:
            told = (f"{name} {kinds_text(kinds)}" for name, kinds in failures.items())
            lines += ["Runs that failed: " + "; ".join(told) + ". `runs.csv` has what each of them said.", ""]
    for plot in plots:
        lines += [f"![{plot.stem.replace('_', ' ')}]({plot.name})", ""]
    return "\n".join(lines)


def verdict(summary: SetSummary) -> str:
    """Whether agents need fewer evaluations than the best classical method, and what weighs in that."""
    if all(sum(method.failures.values()) == method.runs for method in summary.methods.values()):
        return "No method converged on any structure: there is nothing to compare. More --steps, or a look at runs.csv?"
    best = summary.methods[summary.best_classical].ratio_to_reference[summary.fmax]
    text = f"The bar is the best classical method, {summary.best_classical} ({ratio_text(best)} of BFGS)."
    for level in summary.also:
        if summary.best_at[level] != summary.best_classical:
            text += f" To {level:g} eV/Å it is {summary.best_at[level]}."
    for name, method in summary.methods.items():
        if name.startswith(AGENT_PREFIX):
            ratio = method.ratio_to_best[summary.fmax]
            said = "clears it" if ratio.high < 1 else "misses it" if ratio.low > 1 else "can't be told from it"
            text += f" {name} {said}: {ratio_text(ratio)} of its evaluations."
    return text + _failures(summary)


def _failures(summary: SetSummary) -> str:
    """How much failures weigh in the ratios; nothing where none of those that ratios are about has any."""
    shown = [name for name in summary.methods if name.startswith(AGENT_PREFIX)]
    told = []
    for name in dict.fromkeys((REFERENCE, summary.best_classical, *shown)):
        failed = sum(summary.methods[name].failures.values())
        if failed:
            told.append(f"{name} on {failed} of {summary.methods[name].runs}")
    if not told:
        return ""
    return (
        f" Failed: {', '.join(told)}. A failed run counts as {summary.censored} evaluations, so the limit of steps "
        "weighs in their ratios."
    )


def ordered_methods(summary: SetSummary, agents_first: bool = True) -> list[str]:
    """Agents, then the others by their ratio."""
    ratios = {name: method.ratio_to_reference[summary.fmax].value for name, method in summary.methods.items()}
    return sorted(ratios, key=lambda name: (agents_first and not name.startswith(AGENT_PREFIX), ratios[name]))


def cells(method: MethodSummary, summary: SetSummary) -> list[str]:
    """A row of the table, as `columns` has them, without the name."""
    at = method.at[summary.fmax]
    also = [ratios[level] for level in summary.also for ratios in (method.ratio_to_reference, method.ratio_to_best)]
    return [
        f"{100 * at.converged_fraction:.0f} %",
        f"{at.median:g}",
        f"{at.mean:.1f}",
        f"{at.p95:.1f}",
        f"{at.max:g}",
        ratio_text(method.ratio_to_reference[summary.fmax]),
        ratio_text(method.ratio_to_best[summary.fmax]),
        *(f"{ratio.value:.3f}" for ratio in also),
        "/".join(str(method.energies[relation]) for relation in ("same", "lower", "higher")),
        f"{method.seconds:.2f}",
    ]


def _markdown_table(heads: Sequence[str], rows: dict[str, list[str]]) -> list[str]:
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    return lines + [f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items()]


def structures_text(summary: SetSummary) -> str:
    """How many structures a set has."""
    return f"{summary.structures} structure{'' if summary.structures == 1 else 's'}"


def ratio_text(ratio: Ratio) -> str:
    """A ratio with its interval."""
    return f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


def kinds_text(kinds: dict[str, int]) -> str:
    """How many runs ended in which way."""
    return ", ".join(f"{count} by {kind}" for kind, count in kinds.items())
