"""The figures of a comparison: for each set of structures, and for all of them together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from relaxrl.evaluation.methods import CLASSICAL, REFERENCE
from relaxrl.evaluation.run import Limits, RunRecord
from relaxrl.evaluation.statistics import (
    Distribution,
    Ratio,
    best_of,
    by_method,
    censored,
    distribution,
    energy_relation,
    paired_ratio,
)
from relaxrl.seeding import Generators
from relaxrl.typing import FloatArray


@dataclass(frozen=True)
class MethodSummary:
    """One method on one set.

    Attributes:
        runs: Structures.
        at: Force evaluations until each threshold of fmax that the runs were meant to reach.
        ratio_to_reference: Of force evaluations to those of BFGS, at each of these thresholds.
        ratio_to_best: To those of the best classical method of the set, at the fmax asked for.
        seconds: Median wall-clock time of a run.
        energies: How many runs ended in the same minimum as BFGS, a lower, a higher one; the rest are not comparable.
        failures: How often each reason other than "converged" ended a run.
    """

    runs: int
    at: dict[float, Distribution]
    ratio_to_reference: dict[float, Ratio]
    ratio_to_best: Ratio
    seconds: float
    energies: dict[str, int]
    failures: dict[str, int]


@dataclass(frozen=True)
class SetSummary:
    """All methods on one set.

    Attributes:
        name: Set as the user gave it; "all" for all together.
        structures: How many.
        fmax: eV/Å, asked for.
        best_classical: The classical method that needs fewest force evaluations: the bar.
        methods: By name.
    """

    name: str
    structures: int
    fmax: float
    best_classical: str
    methods: dict[str, MethodSummary]

    def as_json(self) -> dict[str, Any]:
        """The set as JSON-ready values; see `docs/evaluation.md` for the keys."""
        return {
            "name": self.name,
            "structures": self.structures,
            "best_classical": self.best_classical,
            "methods": {name: _method_json(summary, self.fmax) for name, summary in self.methods.items()},
        }


def summarize(name: str, records: Sequence[RunRecord], limits: Limits, seed: int) -> SetSummary:
    """Figures of one set.

    Args:
        name: What to call it.
        records: Runs of all methods, BFGS among them, on the same structures.
        limits: Of the runs.
        seed: Of the bootstrap.
    """
    table = by_method(records)
    structures = list(table[REFERENCE])
    thresholds = [level for level in limits.thresholds if level >= limits.fmax]
    counts = {
        method: {level: _counts(runs, structures, level, limits.steps + 1) for level in thresholds}
        for method, runs in table.items()
    }
    reference = counts[REFERENCE]
    # One stream per comparison: adding a method must not change the intervals of the others.
    streams = Generators(seed)
    ratios = {
        method: {
            level: paired_ratio(values[level], reference[level], streams.numpy(f"{name} {method} {level}"))
            for level in thresholds
        }
        for method, values in counts.items()
    }
    best = best_of({method: ratio[limits.fmax] for method, ratio in ratios.items()}, list(CLASSICAL)) or REFERENCE
    methods = {}
    for method, runs in table.items():
        relations = [energy_relation(runs[key], table[REFERENCE][key]) for key in structures]
        endings = [_kind(runs[key].reason) for key in structures]
        methods[method] = MethodSummary(
            runs=len(structures),
            at={
                level: distribution(
                    counts[method][level], [runs[key].evaluations[level] is not None for key in structures]
                )
                for level in thresholds
            },
            ratio_to_reference=ratios[method],
            ratio_to_best=paired_ratio(
                counts[method][limits.fmax], counts[best][limits.fmax], streams.numpy(f"{name} {method} best")
            ),
            seconds=float(np.median([runs[key].seconds for key in structures])),
            energies={relation: relations.count(relation) for relation in ("same", "lower", "higher")},
            failures={kind: endings.count(kind) for kind in dict.fromkeys(endings) if kind != "converged"},
        )
    return SetSummary(name, len(structures), limits.fmax, best, methods)


def _counts(runs: dict[str, RunRecord], structures: Sequence[str], level: float, limit: int) -> FloatArray:
    return np.array([censored(runs[key], level, limit) for key in structures], dtype=np.float64)


def _kind(reason: str) -> str:
    return reason.partition(":")[0]


def _method_json(summary: MethodSummary, fmax: float) -> dict[str, Any]:
    ratio = summary.ratio_to_reference[fmax]
    return {
        "runs": summary.runs,
        **asdict(summary.at[fmax]),
        "ratio_to_bfgs": ratio.value,
        "ratio_to_bfgs_interval": [ratio.low, ratio.high],
        "ratio_to_best_classical": summary.ratio_to_best.value,
        "ratio_to_best_classical_interval": [summary.ratio_to_best.low, summary.ratio_to_best.high],
        "seconds_median": summary.seconds,
        "energy_compared_with_bfgs": summary.energies,
        "failures": summary.failures,
        "thresholds": {
            f"{level:g}": {
                **asdict(summary.at[level]),
                "ratio_to_bfgs": summary.ratio_to_reference[level].value,
                "ratio_to_bfgs_interval": [
                    summary.ratio_to_reference[level].low,
                    summary.ratio_to_reference[level].high,
                ],
            }
            for level in summary.at
        },
    }
