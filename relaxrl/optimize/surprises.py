"""What the poor steps of an agent taught about the curvature, and its predicted Hessian corrected by that."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from relaxrl.optimize.quasi_newton import SCALE_RANGE
from relaxrl.typing import BoolArray, FloatArray, StateDict

MEMORY = 8
"""Surprises kept. From 2 to all, the evaluations on metals are the same; each costs work at every step."""
SOFTEST = 0.1
"""eV/Å²; softer modes are taken to be this stiff. What was learned of soft modes is to be believed, but not to the
point where noise moves atoms far; from 0.05 to 0.3 the evaluations on metals change by 1 %."""
CONCAVE = 0.3
"""eV/Å²; modes of negative curvature are taken to be as stiff as they are concave, and this stiff at least: there the
parabola ends nowhere, and how far to go is a guess."""


@dataclass(frozen=True)
class Surprise:
    """A step that an agent's Hessian did not foresee well.

    Attributes:
        step: (n_dof,), Å.
        change: (n_dof,), eV/Å; gradient after the step minus gradient before it.
        foreseen: (n_dof,), eV/Å; the change by the Hessian that was predicted before the step.
    """

    step: FloatArray
    change: FloatArray
    foreseen: FloatArray

    @property
    def factor(self) -> float:
        """What the Hessian has to be multiplied by to foresee the change best, within bounds."""
        squared = max(float(self.foreseen @ self.foreseen), 1e-30)
        return float(np.clip(float(self.foreseen @ self.change) / squared, *SCALE_RANGE))

    @property
    def error(self) -> float:
        """Distance of the foreseen change from the one that came, as a part of that, after the best scaling."""
        lack = self.change - self.factor * self.foreseen
        return max(float(np.linalg.norm(lack) / max(float(np.linalg.norm(self.change)), 1e-30)), 1e-6)


class Surprises:
    """The last surprises, oldest first, and which of two Hessians would have been surprised less.

    Args:
        memory: Surprises kept; the oldest go first.
    """

    def __init__(self, memory: int = MEMORY) -> None:
        self.memory = memory
        self._all: list[Surprise] = []
        self._disadvantages: list[float] = []

    def __len__(self) -> int:
        return len(self._all)

    def add(self, surprise: Surprise, rival: FloatArray) -> None:
        """Keep one.

        Args:
            surprise: What happened.
            rival: (n_dof,), eV/Å; the change that another Hessian would have foreseen.
        """
        finite = all(np.isfinite(each).all() for each in (surprise.step, surprise.change, surprise.foreseen))
        if not finite or not surprise.step.any():
            return
        self._all.append(surprise)
        other = Surprise(surprise.step, surprise.change, rival)
        self._disadvantages.append(float(np.log(surprise.error / other.error)))
        del self._all[: -self.memory], self._disadvantages[: -self.memory]

    def clear(self) -> None:
        """Forget all."""
        self._all.clear()
        self._disadvantages.clear()

    def disadvantage(self, n: int) -> float:
        """The factor by which errors of the foreseen changes exceed those of the rival, over the last `n` surprises.

        A product of ratios, 1 without surprises. Both Hessians are scaled to fit best, as either will be.
        """
        return float(np.exp(sum(self._disadvantages[-n:])))

    def correct(self, hessian: FloatArray, calibration: float) -> FloatArray:
        r"""A predicted Hessian that knows of all surprises; symmetric, perhaps indefinite.

        Each step of the past should change the gradient as predicted now, plus what the prediction lacked then:
        anharmonicity that the agent knows of is thus not mistaken for an error. The update is TS-BFGS, which changes
        the stiff directions little and keeps negative curvature where it was seen:

        $$ B \leftarrow B + j u^T + u j^T - (j^T s) u u^T, \quad j = y - B s, \quad
           u \propto (s^T y) y + (s^T |B| s) |B| s, \quad u^T s = 1 $$

        Args:
            hessian: (n_dof, n_dof), eV/Å², symmetric.
            calibration: Power of the last surprise's factor that the whole Hessian is multiplied by first; 0 for none.

        References:
            doi:10.1021/acs.jctc.9b00869
        """
        if not self._all:
            return hessian
        scale = float(self._all[-1].factor ** calibration)
        corrected: FloatArray = scale * hessian
        for each in self._all:
            change = _change_now(scale, hessian, each)
            values, vectors = np.linalg.eigh(corrected)
            stiff = vectors @ (np.abs(values) * (vectors.T @ each.step))
            direction = (each.step @ change) * change + (each.step @ stiff) * stiff
            along = float(direction @ each.step)
            if along < 1e-12 * float(np.linalg.norm(direction) * np.linalg.norm(each.step)):
                continue
            direction = direction / along
            lack = change - corrected @ each.step
            mixed = np.outer(lack, direction)
            corrected = corrected + mixed + mixed.T - (lack @ each.step) * np.outer(direction, direction)
        return corrected

    def state_dict(self) -> StateDict:
        """Arrays (n_surprises, n_dof), and the comparison with the rival."""
        return {
            "steps": np.array([each.step for each in self._all]),
            "changes": np.array([each.change for each in self._all]),
            "foreseen": np.array([each.foreseen for each in self._all]),
            "disadvantages": np.array(self._disadvantages),
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a state made by `state_dict`."""
        rows = zip(state["steps"], state["changes"], state["foreseen"], strict=True)
        self._all = [Surprise(step, change, foreseen) for step, change, foreseen in rows]
        self._disadvantages = [float(value) for value in state["disadvantages"]]


def _change_now(scale: float, hessian: FloatArray, surprise: Surprise) -> FloatArray:
    """What a past step would change the gradient by now, as far as one knows, (n_dof,), eV/Å."""
    change: FloatArray = surprise.change + scale * (hessian @ surprise.step - surprise.foreseen)
    return change


def floored_step(gradient: FloatArray, hessian: FloatArray, free: BoolArray | None = None) -> FloatArray:
    """-|H|⁻¹ g with |H| as in `floored`: downhill for any H.

    Args:
        gradient: (n_dof,), eV/Å.
        hessian: (n_dof, n_dof), eV/Å², symmetric.
        free: (n_dof,), bool; degrees of freedom that can move. The others stay, also in the solve. None: all, and
            rigid translations are made stiff, so that the noise of a net force can't become a drift.

    Returns:
        (n_dof,), Å.
    """
    step = np.zeros_like(gradient)
    moving = np.arange(len(gradient)) if free is None else np.flatnonzero(free)
    if len(moving) == 0:
        return step
    reduced = hessian[np.ix_(moving, moving)] if free is not None else hessian + _stiff_translations(hessian)
    values, vectors = np.linalg.eigh(reduced)
    step[moving] = -vectors @ ((vectors.T @ gradient[moving]) / _stiffness(values))
    return step


def floored(hessian: FloatArray) -> FloatArray:
    """|H|: the eigenvectors of H, and eigenvalues that are at least `SOFTEST`, or `CONCAVE` where they were negative.

    Args:
        hessian: (n_dof, n_dof), eV/Å², symmetric.

    Returns:
        (n_dof, n_dof), eV/Å²; positive definite.

    Examples:
        >>> floored(np.diag([4.0, 0.01, -0.01, -2.0])).diagonal().tolist()
        [4.0, 0.1, 0.3, 2.0]
    """
    values, vectors = np.linalg.eigh(hessian)
    positive: FloatArray = (vectors * _stiffness(values)) @ vectors.T
    return positive


def _stiffness(eigenvalues: FloatArray) -> FloatArray:
    stiffness: FloatArray = np.maximum(np.abs(eigenvalues), np.where(eigenvalues < 0, CONCAVE, SOFTEST))
    return stiffness


def _stiff_translations(hessian: FloatArray) -> FloatArray:
    n_atoms = len(hessian) // 3
    scale = max(float(np.linalg.norm(hessian)) / np.sqrt(len(hessian)), 1.0)
    together: FloatArray = scale * np.kron(np.full((n_atoms, n_atoms), 1 / n_atoms), np.eye(3))
    return together
