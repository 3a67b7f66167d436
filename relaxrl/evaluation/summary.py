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
        ratio_to_best: To those of the best classical method of the set at each of these thresholds.
        seconds: Median wall-clock time of a run.
        energies: How many runs ended in the same minimum as BFGS, a lower, a higher one; the rest are not comparable.
        failures: How often each reason other than "converged" ended a run.
    """

    runs: int
    at: dict[float, Distribution]
    ratio_to_reference: dict[float, Ratio]
    ratio_to_best: dict[float, Ratio]
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
        also: eV/Å; other forces that tables show.
        censored: Force evaluations that a failed run counts as, unless it took more.
        best_at: The classical method that needs fewest force evaluations to each threshold: the bar.
        methods: By name.
    """

    name: str
    structures: int
    fmax: float
    also: tuple[float, ...]
    censored: int
    best_at: dict[float, str]
    methods: dict[str, MethodSummary]

    @property
    def best_classical(self) -> str:
        """The classical method that needs fewest force evaluations to the fmax asked for."""
        return self.best_at[self.fmax]

    def as_json(self) -> dict[str, Any]:
        """The set as JSON-ready values; see `docs/evaluation.md` for the keys."""
        return {
            "name": self.name,
            "structures": self.structures,
            "best_classical": self.best_classical,
            "methods": {name: _method_json(summary, self) for name, summary in self.methods.items()},
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
        method: {level: _counts(runs, structures, level, limits.censored) for level in thresholds}
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
    best = {
        level: best_of({method: ratio[level] for method, ratio in ratios.items()}, list(CLASSICAL)) or REFERENCE
        for level in thresholds
    }
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
            ratio_to_best={
                level: paired_ratio(
                    counts[method][level], counts[best[level]][level], streams.numpy(f"{name} {method} {level} best")
                )
                for level in thresholds
            },
            seconds=float(np.median([runs[key].seconds for key in structures])),
            energies={relation: relations.count(relation) for relation in ("same", "lower", "higher")},
            failures={kind: endings.count(kind) for kind in dict.fromkeys(endings) if kind != "converged"},
        )
    return SetSummary(name, len(structures), limits.fmax, limits.also, limits.censored, best, methods)


def _counts(runs: dict[str, RunRecord], structures: Sequence[str], level: float, limit: int) -> FloatArray:
    return np.array([censored(runs[key], level, limit) for key in structures], dtype=np.float64)


def _kind(reason: str) -> str:
    return reason.partition(":")[0]


def _method_json(summary: MethodSummary, of: SetSummary) -> dict[str, Any]:
    return {
        "runs": summary.runs,
        **_level_json(summary, of.fmax),
        "seconds_median": summary.seconds,
        "energy_compared_with_bfgs": summary.energies,
        "failures": summary.failures,
        "thresholds": {
            f"{level:g}": {**_level_json(summary, level), "best_classical": of.best_at[level]} for level in summary.at
        },
    }


def _level_json(summary: MethodSummary, level: float) -> dict[str, Any]:
    to_reference, to_best = summary.ratio_to_reference[level], summary.ratio_to_best[level]
    return {
        **asdict(summary.at[level]),
        "ratio_to_bfgs": to_reference.value,
        "ratio_to_bfgs_interval": [to_reference.low, to_reference.high],
        "ratio_to_best_classical": to_best.value,
        "ratio_to_best_classical_interval": [to_best.low, to_best.high],
    }
