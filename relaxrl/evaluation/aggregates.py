"""Aggregates of many runs as rliable has them: interquartile means, performance profiles, stratified bootstraps.

A method runs once on each structure, so what is drawn anew are structures, within each set (the strata).

References:
    Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice, arXiv:2108.13264.
    Dolan and Moré, Benchmarking optimization software with performance profiles, doi:10.1007/s101070100263.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from relaxrl.typing import BoolArray, FloatArray

RESAMPLES = 2000
"""Of each bootstrap, rliable's number for profiles."""
CUT = 0.25
"""Share that an interquartile mean leaves out at either end."""


@dataclass(frozen=True)
class Estimate:
    """A number with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Profile:
    """The share of runs that are solved within a factor of the best method.

    Attributes:
        factors: (n,), rising from 1.
        share: (n,), of the runs.
        low: (n,), lower ends of the pointwise 95 % intervals.
        high: (n,), upper ends.
    """

    factors: FloatArray
    share: FloatArray
    low: FloatArray
    high: FloatArray


def resampled(
    strata: Sequence[str], generator: np.random.Generator, resamples: int = RESAMPLES
) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """How often each run is in each resample, (resamples, n_runs); every stratum keeps its size.

    Args:
        strata: (n_runs,), the stratum of each.
        generator: Draws.
        resamples: How many.
    """
    names = np.asarray(strata)
    times = np.zeros((resamples, len(names)), dtype=np.int64)
    for name in dict.fromkeys(strata):
        members = np.flatnonzero(names == name)
        times[:, members] = generator.multinomial(len(members), np.full(len(members), 1 / len(members)), resamples)
    return times


def interquartile_mean(values: FloatArray, times: np.ndarray | None = None) -> FloatArray:
    """The mean without the lowest and the highest quarter.

    Args:
        values: (n,).
        times: (resamples, n), how often each counts; once if None.

    Returns:
        (resamples,), or (1,).

    Examples:
        >>> interquartile_mean(np.array([9.0, 1.0, 2.0, 4.0])).tolist()
        [3.0]
    """
    order = np.argsort(values)
    counts = np.ones((1, len(values)), dtype=np.int64) if times is None else times[:, order]
    total = len(values)
    cut = int(CUT * total)
    ends = np.cumsum(counts, axis=1)
    kept = np.clip(np.minimum(ends, total - cut) - np.maximum(ends - counts, cut), 0, None)
    mean: FloatArray = kept @ values[order] / (total - 2 * cut)
    return mean


def iqm_estimate(values: FloatArray, times: np.ndarray) -> Estimate:
    """Interquartile mean with the percentile interval over the resamples."""
    low, high = np.quantile(interquartile_mean(values, times), [0.025, 0.975])
    return Estimate(float(interquartile_mean(values)[0]), float(low), float(high))


def performance_profile(
    counts: FloatArray, best: FloatArray, solved: BoolArray, factors: FloatArray, times: np.ndarray
) -> Profile:
    """Share of the runs that are solved within each factor of the best.

    Args:
        counts: (n_runs,), force evaluations.
        best: (n_runs,), the fewest that any method took.
        solved: (n_runs,); the others never count.
        factors: (n_factors,), at which to look.
        times: (resamples, n_runs), from `resampled`.
    """
    within = ((counts[:, None] <= best[:, None] * factors * (1 + 1e-9)) & solved[:, None]).astype(np.float64)
    low, high = np.quantile(times @ within / len(counts), [0.025, 0.975], axis=0)
    return Profile(factors, within.mean(axis=0), low, high)
