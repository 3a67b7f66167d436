"""Statistics of runs, method by method and pair by pair.

A run that failed, or never reached the force asked for, counts as if it had taken `limit` evaluations (or those it did
take, if more). So failures make a method look as bad as the limit allows, instead of leaving its sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from relaxrl.evaluation.run import RunRecord
from relaxrl.typing import FloatArray

RESAMPLES = 10_000
"""Of each bootstrap; the ends of an interval then vary by a hundredth of its width."""

ENERGY_TOLERANCE = 2e-4
"""eV per atom; runs that end within it of each other are taken to be in the same minimum. Relaxed to 0.01 eV/Å, runs
into one minimum differ by about 1e-5, and different minima mostly by more than 1e-3."""

Relation = Literal["same", "lower", "higher"]


@dataclass(frozen=True)
class Ratio:
    """A geometric mean of paired ratios with its bootstrap interval.

    Attributes:
        value: Geometric mean over the structures; below 1 is better than what it is compared with.
        low: Lower end of the interval.
        high: Upper end.
        pairs: Structures compared.
    """

    value: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True)
class Distribution:
    """Force evaluations of one method over all structures.

    Attributes:
        median: As it says, like the others; failures at the limit.
        mean: Arithmetic.
        p95: 95th percentile, linearly interpolated.
        max: The worst.
        converged_fraction: Share of the runs that got there.
    """

    median: float
    mean: float
    p95: float
    max: float
    converged_fraction: float


def censored(record: RunRecord, threshold: float, limit: int) -> int:
    """Force evaluations until the threshold; those it took and at least `limit` where it was not reached."""
    reached = record.evaluations[threshold]
    return max(record.force_evaluations, limit) if reached is None else reached


def distribution(counts: FloatArray, reached: Sequence[bool]) -> Distribution:
    """Statistics of one method.

    Args:
        counts: (n_structures,), censored force evaluations.
        reached: Which of them got there.
    """
    return Distribution(
        median=float(np.median(counts)),
        mean=float(np.mean(counts)),
        p95=float(np.percentile(counts, 95)),
        max=float(np.max(counts)),
        converged_fraction=float(np.mean(reached)),
    )


def paired_ratio(
    counts: FloatArray, reference: FloatArray, generator: np.random.Generator, confidence: float = 0.95
) -> Ratio:
    """Geometric mean of counts / reference, with the percentile interval of a bootstrap over structures.

    Args:
        counts: (n_structures,), positive.
        reference: (n_structures,), of the same structures in the same order.
        generator: Draws the resamples.
        confidence: Of the interval.

    Examples:
        >>> r = paired_ratio(np.array([1.0, 8.0]), np.array([2.0, 4.0]), np.random.default_rng(0))
        >>> round(r.value, 9), round(r.low, 9), round(r.high, 9)
        (1.0, 0.5, 2.0)
    """
    logs = np.log(counts) - np.log(reference)
    drawn = generator.integers(len(logs), size=(RESAMPLES, len(logs)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(logs[drawn].mean(axis=1), [tail, 1 - tail])
    return Ratio(float(np.exp(logs.mean())), float(np.exp(low)), float(np.exp(high)), len(logs))


def energy_relation(record: RunRecord, reference: RunRecord) -> Relation | None:
    """Whether a run ended in the same minimum as the reference, a lower or a higher one; None if either failed."""
    if not (record.converged and reference.converged):
        return None
    difference = (record.energy - reference.energy) / record.natoms
    if abs(difference) <= ENERGY_TOLERANCE:
        return "same"
    return "lower" if difference < 0 else "higher"


def by_method(records: Sequence[RunRecord]) -> dict[str, dict[str, RunRecord]]:
    """Records by method, then by structure, both in the order of their first appearance."""
    table: dict[str, dict[str, RunRecord]] = {}
    for record in records:
        table.setdefault(record.method, {})[record.structure] = record
    return table


def best_of(ratios: Mapping[str, Ratio], names: Sequence[str]) -> str | None:
    """The name with the smallest ratio; None if there are none."""
    present = [name for name in names if name in ratios]
    return min(present, key=lambda name: ratios[name].value) if present else None
