"""Which crystals episodes run: drawn by weight, or asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from relaxrl.structures import Crystal, StructureSet
from relaxrl.typing import FloatArray


class Deck:
    """Draws crystals by weight.

    Args:
        crystals: A `StructureSet` brings the weights of its crystals along; others have equal ones.
    """

    def __init__(self, crystals: Sequence[Crystal]) -> None:
        self.n_crystals = len(crystals)
        self.probabilities: FloatArray = np.empty(0)
        """(n_crystals,); their sum is 1."""
        self.weigh(crystals.weights if isinstance(crystals, StructureSet) else np.ones(self.n_crystals))

    def weigh(self, values: ArrayLike) -> None:
        """Give the crystals other weights, (n_crystals,).

        Raises:
            ValueError: They have another shape, or are negative, not finite or all zero.
        """
        weights = np.array(values, dtype=np.float64)
        if weights.shape != (self.n_crystals,):
            raise ValueError(f"`weights` must have shape (n_crystals={self.n_crystals},), got {weights.shape}")
        if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
            raise ValueError("`weights` must be finite, not negative, and not all zero")
        self.probabilities = weights / weights.sum()

    def draw(self, n: int, generator: np.random.Generator) -> list[int]:
        """Places of `n` crystals; the same one may come more than once."""
        drawn: list[int] = generator.choice(self.n_crystals, size=n, p=self.probabilities).tolist()
        return drawn

    def checked(self, indices: Sequence[int], n: int, n_envs: int) -> list[int]:
        """The places asked for.

        Args:
            indices: Of crystals.
            n: How many there must be.
            n_envs: How many there are where all slots begin anew.

        Raises:
            ValueError: They are not so many, or not places of crystals.
        """
        chosen = [int(index) for index in indices]
        if len(chosen) != n or not all(0 <= index < self.n_crystals for index in chosen):
            slots = f"n_envs={n}" if n == n_envs else f"{n}"
            raise ValueError(f"`indices` must be {slots} numbers from 0 to {self.n_crystals - 1}, got {chosen}")
        return chosen
