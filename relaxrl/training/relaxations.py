"""Judging an agent as users will use it: as an optimizer, with its safeguard, on development crystals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from relaxrl.agents import Agent
from relaxrl.errors import CalculatorError
from relaxrl.optimize import RLOptimizer
from relaxrl.potentials import CountedCalculator, EvaluationCounter, Potential, PotentialSource, TorchCalculator
from relaxrl.structures import Crystal


def judge_as_optimizer(
    agent: Agent | None,
    starts: Sequence[Crystal],
    potentials: Potential | PotentialSource,
    fmax: float,
    max_steps: int,
    bfgs: Sequence[int],
) -> dict[str, float]:
    """Relax every start with the agent, and compare the force evaluations with those of BFGS.

    Args:
        agent: To be judged; None judges the quasi-Newton fallback alone.
        starts: Crystals of kind `start`.
        potentials: Energies and forces.
        fmax: eV/Å, of convergence.
        max_steps: Longest relaxation; those that fail count as this many steps, or as many as BFGS took if more.
        bfgs: Evaluations of BFGS from each start.

    Returns:
        `eval/ratio_to_bfgs` (geometric mean), `eval/converged`, `eval/evaluations` (mean), `eval/evaluations_max` and
        `eval/handed_over`, the share of relaxations that the agent did not end by itself.
    """
    counts, converged, handed_over = [], [], []
    for start, reference in zip(starts, bfgs, strict=True):
        counter = EvaluationCounter()
        atoms = start.atoms.copy()
        atoms.calc = CountedCalculator(TorchCalculator(potentials.of([atoms])), counter)
        optimizer = RLOptimizer(atoms, agent=agent, logfile=None)
        try:
            done = optimizer.run(fmax=fmax, steps=max_steps)
        except CalculatorError:
            done = False
        converged.append(done)
        handed_over.append(not optimizer.agent_in_charge)
        # A run that was cut short must not look better than one that BFGS has finished.
        counts.append(counter.count if done else max(counter.count, max_steps, reference))
    ratios = np.log(np.asarray(counts) / np.asarray(bfgs))
    return {
        "eval/ratio_to_bfgs": math.exp(float(ratios.mean())),
        "eval/converged": float(np.mean(converged)),
        "eval/evaluations": float(np.mean(counts)),
        "eval/evaluations_max": float(np.max(counts)),
        "eval/handed_over": float(np.mean(handed_over)),
    }
