"""Which structures are the hard ones: those that a reader should see first."""

from __future__ import annotations

import math
from collections.abc import Sequence

from relaxrl.evaluation.methods import AGENT_PREFIX, REFERENCE, UNTRAINED
from relaxrl.evaluation.run import Limits, RunRecord
from relaxrl.evaluation.statistics import censored


def protagonists(methods: Sequence[str]) -> list[str]:
    """The methods an evaluation is about: agents; without any, `untrained`, or whatever ran besides BFGS."""
    agents = [name for name in methods if name.startswith(AGENT_PREFIX)]
    own = [name for name in methods if name == UNTRAINED]
    others = [name for name in methods if name != REFERENCE]
    return agents or own or others or list(methods)


def badness(runs: Sequence[RunRecord], limits: Limits) -> tuple[int, float]:
    """How badly the protagonists did on one structure; larger is worse.

    Args:
        runs: Of all methods on the structure.
        limits: Of the runs.

    Returns:
        How many of them failed, and the largest ratio of their force evaluations to those of BFGS (evaluations, where
        BFGS is the only method).
    """
    table = {run.method: run for run in runs}
    names = protagonists(list(table))
    counts = [censored(table[name], limits.fmax, limits.censored) for name in names]
    reference = 1.0
    if REFERENCE in table and names != [REFERENCE]:
        reference = float(censored(table[REFERENCE], limits.fmax, limits.censored))
    failed = sum(not table[name].converged for name in names)
    return failed, max(counts) / reference if reference else math.inf
