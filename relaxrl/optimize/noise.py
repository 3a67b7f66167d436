"""Whether a calculator changes its mind, or its surface is rough: other forces, or another energy, next to a point."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from relaxrl.optimize.safeguard import Point, energy_resolution
from relaxrl.optimize.surface import Surface
from relaxrl.typing import FloatArray

NUDGE = 1e-6
"""Å; even a bond of 100 eV/Å² pulls by only 1e-4 eV/Å more. Far enough for calculators not to return what they hold."""
SHARE = 0.25
"""Noise of the forces, as a part of the fmax asked for, beyond which that is out of reach."""
BLAMED = 10.0
"""Forces larger than this many times the noise must have another reason."""
NEIGHBOURS = 0.01
"""Å, or a strain; points whose coordinates all differ by less are neighbours."""
CLIFF = 10.0
"""By how much a jump of the energy must exceed what the forces at both ends, and rounding, could have done."""


class Noise(NamedTuple):
    """What nudges have shown.

    Attributes:
        size: How much forces differ between two evaluations of one geometry, eV/Å; infinite where the calculator fails.
        evaluations: That it took to know.
    """

    size: float
    evaluations: int


def noise(surface: Surface, here: Point, fmax: float) -> Noise:
    """How much forces change where atoms are only nudged.

    Where they change, a nudge twice as long tells why. Noise is different each time; but where the surface is only
    steeply curved (bonds at the end of their reach), forces change as much again, and where both nudges end beyond the
    same kink or cliff, they agree. The atoms stand where they were afterwards.

    Args:
        surface: What is relaxed.
        here: Where the atoms stand.
        fmax: eV/Å, asked for.
    """
    near = _nudged(surface, here, NUDGE)
    if near is None:
        return Noise(float("inf"), 1)
    found = _largest(surface, near.gradient - here.gradient) / np.sqrt(2)
    if found <= SHARE * fmax:
        return Noise(found, 1)
    far = _nudged(surface, here, 2 * NUDGE)
    if far is None:
        return Noise(found, 2)
    beyond = _largest(surface, far.gradient - near.gradient) / np.sqrt(2)
    bend = _largest(surface, far.gradient - 2 * near.gradient + here.gradient) / np.sqrt(6)
    return Noise(min(found, beyond, bend), 2)


def hit_a_cliff(here: Point, there: Point) -> bool:
    """Whether a cliff lies between two neighbouring points: the energy rises by more than forces can explain."""
    step = there.x - here.x
    by_forces = float(np.linalg.norm(step) * (np.linalg.norm(here.gradient) + np.linalg.norm(there.gradient)))
    jump = there.energy - here.energy
    return bool(np.abs(step).max() < NEIGHBOURS and jump > CLIFF * (by_forces + energy_resolution(here.energy)))


def _nudged(surface: Surface, here: Point, nudge: float) -> Point | None:
    signs = np.where(np.arange(len(here.x)) % 2, -1.0, 1.0)
    there = surface.displaced(here, nudge * (signs if surface.free is None else np.where(surface.free, signs, 0.0)))
    surface.place(here)
    return there


def _largest(surface: Surface, change: FloatArray) -> float:
    """Of a change of the gradient, on any atom or on the cell."""
    n_dof = 3 * len(surface.numbers)
    rest = np.abs(change[n_dof:]).max(initial=0.0)
    return float(max(np.linalg.norm(change[:n_dof].reshape(-1, 3), axis=1).max(), rest))


def verdict(found: float, here: Point, fmax: float) -> str:
    """What to say of noise that keeps the forces above `fmax`; empty where it is not to blame.

    Args:
        found: eV/Å, by `noise`.
        here: Where it was found.
        fmax: eV/Å, asked for.
    """
    if not found > SHARE * fmax or here.fmax > BLAMED * found:
        return ""
    return (
        f"the calculator changes its mind: at one geometry (but for {NUDGE:g} Å) its forces differ by {found:.2g} "
        f"eV/Å, so that fmax = {fmax:g} eV/Å is out of reach; it is {here.fmax:.3g} here. Make its results more "
        f"precise (SCF, k-points, precision), or ask for an fmax above {max(3 * found, here.fmax):.2g}"
    )
