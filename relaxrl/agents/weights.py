"""Sampling weights of structures: those that an evaluation left with large forces are drawn more often."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from relaxrl.typing import FloatArray


def difficulty_weights(
    remaining_fmax: Sequence[float] | FloatArray, fmax: float, power: float = 0.5, largest_ratio: float = 10.0
) -> FloatArray:
    """Weights that grow with the force which was left when the agent's episode on a structure ended.

    w ∝ (max(remaining, fmax) / fmax)^power, limited to `largest_ratio` times the weight of a solved structure: a
    solved structure is still drawn (what is not practised is forgotten) and a hopeless one does not take over.

    Args:
        remaining_fmax: (n,), eV/Å; the largest force at the end of each structure's evaluation. One that is not finite
            (a failure) counts as the hardest.
        fmax: eV/Å; the convergence threshold.
        power: 0 gives equal weights.
        largest_ratio: Between the hardest and a solved structure, at least 1.

    Returns:
        (n,), positive, of mean 1.

    Raises:
        ValueError: A number is out of range.

    Examples:
        >>> difficulty_weights([0.01, 0.04], fmax=0.01, power=0.5).round(3).tolist()
        [0.667, 1.333]
    """
    if fmax <= 0.0:
        raise ValueError(f"`fmax` must be positive, got {fmax}")
    if power < 0.0:
        raise ValueError(f"`power` must not be negative, got {power}")
    if largest_ratio < 1.0:
        raise ValueError(f"`largest_ratio` must be at least 1, got {largest_ratio}")
    remaining = np.asarray(remaining_fmax, dtype=np.float64)
    hardness = np.where(np.isfinite(remaining), np.maximum(remaining, fmax) / fmax, np.inf)
    if power == 0.0:
        return np.ones(len(remaining))
    weights = np.minimum(hardness**power, largest_ratio)
    normalized: FloatArray = weights / weights.mean()
    return normalized
