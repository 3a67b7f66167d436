"""Why episodes end, as words that programs can compare and people can read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from relaxrl.envs.cohesion import Cohesion
from relaxrl.envs.config import EnvConfig
from relaxrl.graph import AtomGraph, force_norms, scatter_max


class Reason(StrEnum):
    """Why an episode ended; `RUNNING` (the empty string) while it has not.

    `CONVERGED` is the only success and the only one that *terminates* in the sense of reinforcement learning; all the
    others *truncate*: the state after them still has a value, and targets bootstrap from it.
    """

    RUNNING = ""
    CONVERGED = "converged"
    """F_max <= fmax, and stress small enough where cells strain; energy not above the start, structure intact."""
    ENERGY_ABOVE_START = "energy_above_start"
    """Forces vanish, but at a higher energy than the episode began with: atoms were pulled out of their wells."""
    BROKEN = "broken"
    """The structure has come apart: atoms have evaporated, or fragments have left."""
    STEP_LIMIT = "step_limit"
    """The episode has used up its steps."""
    STUCK = "stuck"
    """Too many steps in a row were wholly taken back by the action correction."""
    CALCULATOR_FAILED = "calculator_failed"
    """The calculator raised or returned numbers that are not finite; the step was taken back."""
    EXPLODED = "exploded"
    """Forces, energy or displacement from the start are beyond the limits."""


ORDER = tuple(Reason)
"""Reasons by the number that stands for each in tensors; RUNNING is 0."""


@dataclass(frozen=True)
class Progress:
    """How far each episode of a batch has come.

    Attributes:
        start: The structures at their first step, with energies.
        sizes: (n_graphs,), int64; their atoms.
        steps: (n_graphs,), int64; steps made.
        stuck: (n_graphs,), int64; the last of them in a row that were wholly taken back; None if none were.
        failed: (n_graphs,), bool; whether the calculator failed in the last one; None if it did in none.
        longest: No episode has made more steps.
        strayed: Å; no atom is farther from where it began.
        cohesion: Notices structures that come apart.
        moved: Where cells strain, where they have carried the atoms of the start, and their largest stretch; see
            `relaxrl.envs.cells.carried`.
    """

    start: AtomGraph
    sizes: Tensor
    steps: Tensor
    stuck: Tensor | None
    failed: Tensor | None
    longest: int
    strayed: float
    cohesion: Cohesion
    moved: tuple[Tensor, Tensor] | None = None


def judge(graph: AtomGraph, fmax: Tensor, progress: Progress, config: EnvConfig) -> Tensor | None:
    """Why each episode ends here, if it does; the first that applies, in the order of the code from below.

    Args:
        graph: The structures with energies.
        fmax: (n_graphs,), eV/Å; where cells strain, their pull if that is larger.
        progress: Of the episodes.
        config: Limits.

    Returns:
        Numbers of reasons (n_graphs,), int64, see `ORDER`; None where all episodes run on.
    """
    start = progress.start
    assert graph.energy is not None, "graphs of the environment have energies"
    assert start.energy is not None, "graphs of the environment have energies"
    rise = graph.energy - start.energy
    near = progress.strayed <= progress.cohesion.free
    broken = None if near else progress.cohesion.broken(graph, start, progress.moved)
    if broken is None and _nothing_happened(fmax, rise, progress, config):
        return None
    rise = rise / progress.sizes
    origin = start.positions if progress.moved is None else progress.moved[0]
    farthest = scatter_max(force_norms(graph.positions - origin), graph.graph_index, graph.n_graphs)
    exploded = (
        (fmax > config.explosion_fmax) | (rise > config.explosion_energy) | (farthest > config.explosion_displacement)
    )
    at_rest, too_long = fmax <= config.fmax, progress.steps >= config.max_steps
    never = torch.zeros_like(at_rest)
    stuck = never if progress.stuck is None else progress.stuck > config.stuck_limit
    failed = never if progress.failed is None else progress.failed
    broken = never if broken is None else broken
    if not bool((exploded | at_rest | too_long | stuck | failed | broken).any()):
        return None
    uphill = at_rest & (rise > config.energy_tolerance)
    reasons = torch.zeros_like(progress.steps)
    for reason, holds in (  # from the weakest to the strongest
        (Reason.STEP_LIMIT, too_long),
        (Reason.STUCK, stuck),
        (Reason.CONVERGED, at_rest),
        (Reason.BROKEN, broken),
        (Reason.ENERGY_ABOVE_START, uphill),
        (Reason.EXPLODED, exploded),
        (Reason.CALCULATOR_FAILED, failed),
    ):
        reasons.masked_fill_(holds, ORDER.index(reason))
    return reasons


def _nothing_happened(fmax: Tensor, rise: Tensor, progress: Progress, config: EnvConfig) -> bool:
    """Whether the extremes of the whole batch alone tell that all episodes run on; most steps are so."""
    if progress.failed is not None or progress.stuck is not None or progress.longest >= config.max_steps:
        return False
    least, most = torch.aminmax(fmax)
    return (
        config.fmax < float(least)
        and float(most) <= config.explosion_fmax
        and float(rise.max()) <= config.explosion_energy  # the total, at least that per atom
        and progress.strayed <= config.explosion_displacement
    )
