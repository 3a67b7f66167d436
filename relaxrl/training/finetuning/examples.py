"""What a relaxation teaches: at each point of it, the way to its end, and the forces that ask for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from relaxrl.graph import AtomGraph
from relaxrl.losses import cloning_loss, strain_loss
from relaxrl.losses.cloning import RELATIVE_FLOOR
from relaxrl.nn import HessianActor
from relaxrl.optimize import Evaluated, Relaxed
from relaxrl.strain import vector_from_tensor
from relaxrl.structures.frames import Frame, towards
from relaxrl.training.gradient import SETTLED
from relaxrl.training.recorded import graph_of
from relaxrl.typing import FloatArray

SHORTEST = 1e-4
"""Å; root mean square of a displacement below which nothing can be learned from it."""
FARTHEST = 1.0
"""Å; points from which an atom moves farther by the end lie in another basin, mostly."""
STEEPEST = 50.0
"""eV/Å; atoms on top of each other, where no parabola holds."""
STRAINED = 1e-5
"""Norm of a strain that counts as one."""
NO_ERROR = math.log(RELATIVE_FLOOR)
"""The loss of a perfect step."""


@dataclass(frozen=True)
class Example:
    """A geometry, what pulls at it, and where that leads.

    Attributes:
        graph: One structure, with forces and stress; the latter is zero where the cell is held.
        displacement: (n_atoms, 3), Å, without a mean.
        strain: (6,), in `relaxrl.strain.STRAIN_BASIS`.
        moves: Whether the cell moves.
    """

    graph: AtomGraph
    displacement: Tensor
    strain: Tensor
    moves: bool


def frames_of(done: Relaxed, calculator: str, fmax: float, parent: str | None = None) -> list[Frame]:
    """The points of a relaxation from which its end can be learned.

    Forces and stress are those that were evaluated, less those that are left at the end. So the end of a relaxation
    that was stopped at `fmax` serves as well as a minimum: what a parabola says of differences holds anywhere on it.
    For the same reason fixed atoms, whose forces never vanish, and stress against which a cell was held do no harm.

    Args:
        done: With its path.
        calculator: What was evaluated.
        fmax: eV/Å, at which it ended.
        parent: Name of the crystal that the start descends from; that of the structure if None.

    Returns:
        None at all of a relaxation that did not converge.
    """
    if not done.converged or len(done.path) < 2:
        return []
    name = done.name if parent is None else parent
    points = [_point(done, point, name, calculator) for point in done.path]
    frames = [_led_to(point, points[-1]) for point in points[:-1]]
    return [frame for frame in frames if _teaches(frame, fmax)]


def secant(here: Frame, there: Frame, fmax: float) -> Frame | None:
    """A point of a relaxation, led to another one of it by the difference of their forces.

    The secant equation: a Hessian that takes a point to the minimum by its forces takes it to any other point of the
    same parabola by what these change until there. So n points of a relaxation teach of n²/2 ways, not of n alone.

    Args:
        here: As from `frames_of`.
        there: A later frame of the same relaxation.
        fmax: eV/Å, at which the relaxation ended.

    Returns:
        None where that would teach nothing, or what no parabola with a minimum does: forces that grow, or curvature
        that is negative along the way.
    """
    frame = _led_to(here, there)
    shrinks = np.linalg.norm(there.forces) <= np.linalg.norm(here.forces)
    return frame if shrinks and (_way(frame) * frame.forces).sum() > 0 and _teaches(frame, fmax) else None


def example(frame: Frame) -> Example:
    """A frame as tensors."""
    moves = _moves(frame)
    graph = graph_of([frame])
    if moves:
        return Example(
            graph, torch.from_numpy(frame.displacements), torch.from_numpy(vector_from_tensor(frame.strain)), True
        )
    graph = graph.replace(stress=torch.zeros_like(graph.cell))
    way = _way(frame)
    return Example(graph, torch.from_numpy(way - way.mean(axis=0)), torch.zeros(6, dtype=torch.float64), False)


def losses(actor: HessianActor, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Relative errors of the actor's step, as logarithms above that of a perfect one.

    Args:
        actor: What is trained or judged.
        examples: At least one.

    Returns:
        Those of the displacements and those of the strains, (n,) each, the latter zero where the cell is held; see
        `relaxrl.losses.cloning_loss` and `strain_loss`, of which the constant is taken away, so that they are never
        negative.
    """
    graph = AtomGraph.batch([one.graph for one in examples]).to(next(actor.parameters()).device)
    displacement = torch.cat([one.displacement for one in examples]).to(graph.positions)
    strain = torch.stack([one.strain for one in examples]).to(graph.positions)
    moving = torch.tensor([one.moves for one in examples], device=graph.positions.device)
    if bool(moving.any()):
        step, strained = actor.displacement_and_strain(graph, moving)
    else:
        step, strained = actor(graph), torch.zeros_like(strain)
    everything = torch.ones_like(moving)
    of_displacement = cloning_loss(step.to(displacement), displacement, graph.graph_index, everything, "relative")
    of_strain = strain_loss(strained.to(strain), strain, moving)
    return of_displacement - NO_ERROR, torch.where(moving, of_strain - NO_ERROR, 0.0)


def relative_error(loss: float) -> float:
    """The error of steps as a part of the way, from a mean of `losses`."""
    return float(np.exp(0.5 * (loss + NO_ERROR)))


def _point(done: Relaxed, point: Evaluated, parent: str, calculator: str) -> Frame:
    """A point of a relaxation with all that was evaluated there, not yet led anywhere."""
    here = Atoms(done.atoms.numbers, point.positions, cell=point.cell, pbc=done.atoms.pbc)
    return Frame(here, point.energy, point.forces, point.stress, here, point.energy, done.name, parent, calculator)


def _led_to(here: Frame, there: Frame) -> Frame:
    """With the way from one point to another, and the forces and stress that change on it."""
    stress = None
    if here.stress is not None and there.stress is not None:
        stress = here.stress - there.stress * (there.atoms.get_volume() / here.atoms.get_volume())
    return replace(
        here,
        forces=here.forces - there.forces,
        stress=stress,
        minimum=towards(here.atoms, there.atoms),
        minimum_energy=there.energy,
    )


def _way(frame: Frame) -> FloatArray:
    """What atoms have to go, (n_atoms, 3), Å."""
    way: FloatArray = frame.minimum.positions - frame.atoms.positions
    return frame.displacements if _moves(frame) else way


def _teaches(frame: Frame, fmax: float) -> bool:
    """Whether numbers are sane, and there is something left to learn."""
    forces = np.linalg.norm(frame.forces, axis=1)
    lengths = np.linalg.norm(_way(frame), axis=1)
    pulled = bool(forces.max() > SETTLED * fmax)
    if _moves(frame) and frame.stress is not None:
        pulled |= bool(np.abs(frame.stress).max() * frame.atoms.get_volume() / len(frame.atoms) > SETTLED * fmax)
    return bool(
        pulled
        and forces.max() < STEEPEST
        and lengths.max() < FARTHEST
        and np.sqrt(np.square(lengths).mean()) > SHORTEST
    )


def _moves(frame: Frame) -> bool:
    """Whether the cell moves on the way; it can be learned only where there is stress."""
    return frame.stress is not None and bool(np.linalg.norm(frame.strain) > STRAINED)
