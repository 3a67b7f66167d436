"""The table of an ablation study, and a verdict for each variant that follows from the numbers by a rule."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Result = Mapping[str, Mapping[str, float]]
"""What one run came to: `alone` and `optimizer`, each with its metrics."""

BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
"""What stands between these lines of the page is replaced; the rest is written by hand."""


@dataclass(frozen=True)
class Measure:
    """One column: where it stands in a result, and how it is shown.

    Attributes:
        title: Head of the column.
        short: Its name in differences and verdicts.
        part: `alone` or `optimizer`.
        key: Name of the metric.
        smaller_is_better: Direction of improvement.
        decisive: Whether it enters the verdict.
    """

    title: str
    short: str
    part: str
    key: str
    smaller_is_better: bool = True
    decisive: bool = False


MEASURES = (
    Measure("policy alone: evaluations / BFGS", "alone", "alone", "eval/ratio_to_bfgs", decisive=True),
    Measure("converged in 40 steps", "converged", "alone", "eval/converged", smaller_is_better=False),
    Measure("F_max after 3 steps / start", "F_max", "alone", "eval/fmax_after_3", decisive=True),
    Measure("`RLOptimizer`: evaluations / BFGS", "`RLOptimizer`", "optimizer", "eval/ratio_to_bfgs", decisive=True),
)


def write_report(seeds: Sequence[int], variants: Mapping[str, tuple[str, str]], out: Path, page: Path) -> None:
    """Put the table and the verdicts into the page, between its two marks.

    Args:
        seeds: Of the study.
        variants: Name to (what it changes, note).
        out: Folder with the results.
        page: Markdown; made if there is none.
    """
    text = page.read_text(encoding="utf-8") if page.exists() else f"{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n{tables(seeds, variants, out)}\n{END}{after}", encoding="utf-8")


def tables(seeds: Sequence[int], variants: Mapping[str, tuple[str, str]], out: Path) -> str:
    """Both tables in Markdown: the numbers, and what follows from them."""
    reference = read(out, "reference", seeds)
    rows = [("before training", read(out, "untrained", seeds)), ("reference", reference)]
    rows += [(changes, read(out, name, seeds)) for name, (changes, _) in variants.items()]
    titles = ["variant", "runs", *(measure.title for measure in MEASURES)]
    lines = [_row(titles), _row(["---"] * len(titles))]
    for title, results in rows:
        cells = [spread(values_of(results, measure)) for measure in MEASURES]
        lines.append(_row([title, str(len(results)), *cells]))
    fallback = json.loads((out / "fallback.json").read_text(encoding="utf-8"))["eval/ratio_to_bfgs"]
    lines.append(_row(["no agent: the quasi-Newton fallback alone", "1", "", "", "", f"{fallback:.3f}"]))
    lines += ["", _row(["variant", "difference to the reference", "verdict"]), _row(["---"] * 3)]
    for name, (changes, note) in variants.items():
        results = read(out, name, seeds)
        if results and reference:
            differences, sentence = verdict(reference, results)
            lines.append(_row([changes, differences, f"{sentence} {note}".strip()]))
    return "\n".join(lines)


def verdict(reference: Sequence[Result], results: Sequence[Result]) -> tuple[str, str]:
    """Differences of the means, and a sentence: a difference counts if the seeds of both don't overlap."""
    differences: list[str] = []
    better: list[str] = []
    worse: list[str] = []
    for measure in MEASURES:
        if not measure.decisive:
            continue
        here, there = values_of(results, measure), values_of(reference, measure)
        differences.append(f"{measure.short} {np.mean(here) - np.mean(there):+.3f}")
        if min(here) > max(there):
            (worse if measure.smaller_is_better else better).append(measure.short)
        elif max(here) < min(there):
            (better if measure.smaller_is_better else worse).append(measure.short)
    parts = [f"{word} ({', '.join(names)})" for word, names in (("better", better), ("worse", worse)) if names]
    sentence = f"Changed: {' and '.join(parts)}." if parts else "No difference beyond the spread of the seeds."
    return ", ".join(differences), sentence


def read(out: Path, name: str, seeds: Sequence[int]) -> list[Result]:
    """The results of one variant that exist so far, by seed."""
    files = [out / f"{name}-{seed}.json" for seed in seeds]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]


def values_of(results: Sequence[Result], measure: Measure) -> list[float]:
    """One number per seed."""
    return [result[measure.part][measure.key] for result in results]


def spread(values: Sequence[float]) -> str:
    """Mean, smallest and largest."""
    return f"{np.mean(values):.3f} ({min(values):.3f} - {max(values):.3f})" if values else ""


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
