"""Whether a calculator changes its mind: other forces at a geometry that is the same but for nothing that matters."""

from __future__ import annotations

import numpy as np

from relaxrl.optimize.safeguard import Point
from relaxrl.optimize.surface import Surface

NUDGE = 1e-6
"""Å; even a bond of 100 eV/Å² pulls by only 1e-4 eV/Å more. Far enough for calculators not to return what they hold."""
SHARE = 0.25
"""Noise of the forces, as a part of the fmax asked for, beyond which that is out of reach."""


def noise(surface: Surface, here: Point) -> float:
    """How much forces change where atoms are only nudged, eV/Å; infinite where the calculator fails there.

    Costs one force evaluation. The atoms stand where they were afterwards.

    Args:
        surface: What is relaxed.
        here: Where the atoms stand.
    """
    signs = np.where(np.arange(len(here.x)) % 2, -1.0, 1.0)
    nudge = NUDGE * (signs if surface.free is None else np.where(surface.free, signs, 0.0))
    there = surface.displaced(here, nudge)
    surface.place(here)
    if there is None:
        return float("inf")
    n_dof = 3 * len(surface.numbers)
    change = there.gradient - here.gradient
    rest = np.abs(change[n_dof:]).max(initial=0.0)
    # Of two evaluations, each with noise.
    return float(max(np.linalg.norm(change[:n_dof].reshape(-1, 3), axis=1).max(), rest) / np.sqrt(2))


def verdict(found: float, here: Point, fmax: float) -> str:
    """What to say of noise that keeps the forces above `fmax`; empty where it is not to blame.

    Args:
        found: eV/Å, by `noise`.
        here: Where it was found.
        fmax: eV/Å, asked for.
    """
    if not found > SHARE * fmax:
        return ""
    return (
        f"the calculator changes its mind: at one geometry (but for {NUDGE:g} Å) its forces differ by {found:.2g} "
        f"eV/Å, so that fmax = {fmax:g} eV/Å is out of reach; it is {here.fmax:.3g} here. Make its results more "
        f"precise (SCF, k-points, precision), or ask for an fmax above {max(3 * found, here.fmax):.2g}"
    )
