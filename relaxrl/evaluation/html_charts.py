"""The numbers behind the charts of a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from relaxrl.evaluation.aggregates import Estimate, iqm_estimate, performance_profile, resampled
from relaxrl.evaluation.compare import Comparison
from relaxrl.evaluation.methods import REFERENCE
from relaxrl.evaluation.run import RunRecord
from relaxrl.evaluation.statistics import Ratio, by_method, censored
from relaxrl.page import rounded
from relaxrl.seeding import Generators
from relaxrl.typing import FloatArray

FACTORS = 120
"""Points of a performance profile, where there are more different factors than that."""
WIDEST = 64.0
"""Factor at which profiles end."""
PROGRESS = 80
"""Points of a curve of forces against evaluations."""


def set_data(comparison: Comparison, name: str | None, methods: Sequence[str]) -> dict[str, Any]:
    """What the charts of one set show.

    Args:
        comparison: The evaluation.
        name: Of the set; None for all structures together.
        methods: In the order of the page.
    """
    summary = comparison.summary(name)
    table = by_method([record for record in comparison.records if name in (None, record.collection)])
    structures = list(table[REFERENCE])
    runs = {method: [table[method][structure] for structure in structures] for method in methods}
    limits = comparison.limits
    counts = {
        method: np.array([censored(run, limits.fmax, limits.censored) for run in runs[method]], dtype=np.float64)
        for method in methods
    }
    strata = [run.collection for run in runs[REFERENCE]]
    times = resampled(strata, Generators(comparison.seed).numpy(f"aggregates {summary.name}"))
    best = np.min(list(counts.values()), axis=0)
    factors = _factors(np.concatenate([values / best for values in counts.values()]))
    profiles = []
    for method in methods:
        solved = np.array([run.converged for run in runs[method]])
        profile = performance_profile(counts[method], best, solved, factors, times)
        profiles.append(np.stack([profile.share, profile.low, profile.high], axis=1).round(4))
    ratios = []
    for method in methods:
        mean = _interval(summary.methods[method].ratio_to_reference[limits.fmax])
        ratios.append({"mean": mean, "iqm": _interval(iqm_estimate(counts[method] / counts[REFERENCE], times))})
    return {
        "name": name or "all",
        "all": name is None,
        "factors": rounded(factors.tolist(), 5),
        "profiles": profiles,
        "ratios": ratios,
        "progress": [progress(runs[method]) for method in methods],
    }


def progress(runs: Sequence[RunRecord]) -> list[list[float | None]]:
    """Evaluations, then median and quartiles over runs of the lowest fmax so far, eV/Å; finished runs keep their last.

    Args:
        runs: Of one method.
    """
    length = max((len(run.trace) for run in runs), default=0)
    if not length:
        return []
    lowest = np.full((len(runs), length), np.nan)
    for row, run in zip(lowest, runs, strict=True):
        values = np.fmin.accumulate(np.asarray(run.trace, dtype=np.float64))
        row[: len(values)] = values
        row[len(values) :] = values[-1] if len(values) else np.nan
    chosen = np.unique(np.geomspace(1, length, PROGRESS).round().astype(int)) - 1
    chosen = chosen[~np.isnan(lowest[:, chosen]).all(axis=0)]
    if not len(chosen):
        return []
    low, middle, high = np.nanquantile(lowest[:, chosen], [0.25, 0.5, 0.75], axis=0)
    columns = [(chosen + 1).tolist(), middle.tolist(), low.tolist(), high.tolist()]
    return [rounded(point) for point in zip(*columns, strict=True)]


def _factors(values: FloatArray) -> FloatArray:
    """All factors at which a profile rises, or so many that nobody sees the difference."""
    right = float(np.clip(np.max(values), 1.25, WIDEST))
    different = np.unique(np.concatenate([[1.0], values[values < right], [right]]))
    return different if len(different) <= FACTORS else np.geomspace(1.0, right, FACTORS)


def _interval(ratio: Ratio | Estimate) -> list[float | None]:
    return rounded([ratio.value, ratio.low, ratio.high])
