"""Quasi-Newton steps from a Hessian guess and the force differences seen so far."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import linalg, sparse
from scipy.sparse.linalg import cg

from relaxrl.typing import BoolArray, FloatArray, StateDict

MEMORY = 50
"""Pairs kept; beyond the steps of nearly all relaxations, so that nothing is forgotten, yet bounded."""
DENSE_LIMIT = 900
"""Up to this many degrees of freedom a dense Cholesky is faster than conjugate gradients (measured at 300 atoms)."""
SCALE_RANGE = (0.2, 5.0)
"""How far the last pair may scale the Hessian guess: one across a kink of the surface must not make steps useless.
Averages over the last 2, 3 or 5 pairs take 1 to 10 % more evaluations on metals."""
DAMPING = 0.1
"""A pair must show at least this part of the guess's curvature, else it is mixed with the guess (Powell)."""


class SecantPairs:
    """Steps made and the gradient changes seen, oldest first: all that is known about the curvature of the surface.

    Args:
        memory: Pairs kept; the oldest go first.
    """

    def __init__(self, memory: int = MEMORY) -> None:
        self.memory = memory
        self._steps: list[FloatArray] = []
        self._changes: list[FloatArray] = []

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, step: FloatArray, gradient_change: FloatArray) -> None:
        """Keep one pair.

        Args:
            step: (n_dof,), Å.
            gradient_change: (n_dof,), eV/Å; gradient after the step minus gradient before it.
        """
        if not (np.isfinite(step).all() and np.isfinite(gradient_change).all()) or not step.any():
            return
        self._steps.append(step.copy())
        self._changes.append(gradient_change.copy())
        del self._steps[: -self.memory], self._changes[: -self.memory]

    def clear(self) -> None:
        """Forget all pairs."""
        self._steps.clear()
        self._changes.clear()

    def recent(self, n: int | None = None) -> list[tuple[FloatArray, FloatArray]]:
        """The last `n` pairs (all if None), oldest first."""
        first = 0 if n is None else max(len(self) - n, 0)
        return list(zip(self._steps[first:], self._changes[first:], strict=True))

    def state_dict(self) -> StateDict:
        """Steps and changes, each (n_pairs, n_dof)."""
        return {"steps": np.array(self._steps), "changes": np.array(self._changes)}

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a state made by `state_dict`."""
        self._steps = list(state["steps"])
        self._changes = list(state["changes"])


def newton_step(
    gradient: FloatArray, hessian: sparse.csr_array, pairs: SecantPairs, free: BoolArray | None = None
) -> FloatArray:
    """The BFGS step -B⁻¹ g, where B is the scaled guess corrected by all pairs in the order they were seen.

    Pairs of negative or hardly any curvature are mixed with the guess (Powell's damping), so B stays positive
    definite and the step always goes downhill. Applied by the two-loop recursion, which for an unchanged guess and
    undamped pairs is BFGS itself; the guess may thus be a new one at every step.

    Args:
        gradient: (n_dof,), eV/Å.
        hessian: (n_dof, n_dof), eV/Å²; the guess, symmetric positive definite.
        pairs: What was seen.
        free: (n_dof,), bool; degrees of freedom that can move. The others stay, also in the solve. None: all.

    Returns:
        (n_dof,), Å.

    References:
        Nocedal, Wright: Numerical Optimization, 2nd ed., algorithm 7.4 and procedure 18.2.
    """
    hessian = hessian * guess_scale(hessian, pairs)
    solve = _solver(hessian, free)
    applied = []
    for step, seen in pairs.recent():
        expected = hessian @ step
        stiffness, curvature = float(step @ expected), float(step @ seen)
        change = seen
        if curvature < DAMPING * stiffness:
            share = (1 - DAMPING) * stiffness / (stiffness - curvature)
            change = share * seen + (1 - share) * expected
        if (damped := float(step @ change)) > 1e-14:
            applied.append((step, change, 1 / damped))
    vector = gradient.copy()
    coefficients = []
    for step, change, inverse in reversed(applied):
        coefficient = inverse * (step @ vector)
        coefficients.append(coefficient)
        vector = vector - coefficient * change
    vector = solve(vector)
    for (step, change, inverse), coefficient in zip(applied, reversed(coefficients), strict=True):
        vector = vector + (coefficient - inverse * (change @ vector)) * step
    if free is not None:
        vector = np.where(free, vector, 0.0)
    return -vector


def guess_scale(hessian: sparse.csr_array, pairs: SecantPairs) -> float:
    """Factor that brings the guess to the curvature along the last pair; 1 without pairs."""
    last = pairs.recent(1)
    if not last:
        return 1.0
    step, change = last[0]
    return float(np.clip((step @ change) / (step @ (hessian @ step)), *SCALE_RANGE))


def _solver(hessian: sparse.csr_array, free: BoolArray | None) -> Callable[[FloatArray], FloatArray]:
    """A function that applies the inverse of the guess, restricted to what can move."""
    n_dof = hessian.shape[0]
    moving = np.arange(n_dof) if free is None else np.flatnonzero(free)
    if len(moving) == 0:
        return np.zeros_like
    reduced = hessian if len(moving) == n_dof else hessian[moving][:, moving]
    if len(moving) <= DENSE_LIMIT:
        factor = linalg.cho_factor(reduced.toarray())

        def solve_moving(vector: FloatArray) -> FloatArray:
            return np.asarray(linalg.cho_solve(factor, vector))
    else:
        diagonal = sparse.diags_array(1 / reduced.diagonal())

        def solve_moving(vector: FloatArray) -> FloatArray:
            # An inexact solve is still a good step, and CG's is downhill at any accuracy.
            return np.asarray(cg(reduced, vector, rtol=1e-6, maxiter=1000, M=diagonal)[0])

    def solve(vector: FloatArray) -> FloatArray:
        solution = np.zeros_like(vector)
        solution[moving] = solve_moving(vector[moving])
        return solution

    return solve
