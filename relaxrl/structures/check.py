"""What a structure must be to be used at all, and what a user should know about it before using it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import vesin
from ase import Atoms
from ase.data import covalent_radii

from relaxrl.cell import check_cell
from relaxrl.errors import CalculatorError, StructureError
from relaxrl.potentials import CalculatorSpec
from relaxrl.typing import FloatArray

if TYPE_CHECKING:
    from relaxrl.structures.crystal import Crystal

OVERLAP_FRACTION = 0.5
"""Pairs closer than this fraction of the sum of their covalent radii are called overlapping: no bond is as short."""

_FLAT_CELL = 1e-6
"""Relative volume (of the box with the same edge lengths) below which lattice vectors are linearly dependent."""


def require_usable(atoms: Atoms, source: str) -> None:
    """Refuse what no calculator could evaluate.

    Args:
        atoms: The structure.
        source: File and frame, for the message.

    Raises:
        StructureError: No atoms, positions or cell that are not finite, a periodic direction without a lattice vector,
            lattice vectors in one plane, a placeholder element, or sites that are only partly occupied.
    """
    if len(atoms) == 0:
        raise StructureError(f"{source}: has no atoms; remove the frame")
    if not np.isfinite(atoms.positions).all():
        bad = np.flatnonzero(~np.isfinite(atoms.positions).all(axis=1))
        raise StructureError(f"{source}: positions of atoms {_few(bad)} are not finite; repair or remove the frame")
    if not np.isfinite(atoms.cell.array).all():
        raise StructureError(f"{source}: the cell is not finite; repair or remove the frame")
    if (atoms.numbers <= 0).any() or (atoms.numbers >= len(covalent_radii)).any():
        raise StructureError(f"{source}: atoms {_few(np.flatnonzero(atoms.numbers <= 0))} are of no known element")
    lengths = atoms.cell.lengths()
    without = [axis for axis in range(3) if atoms.pbc[axis] and lengths[axis] < 1e-8]
    if without:
        axes = ", ".join("abc"[axis] for axis in without)
        raise StructureError(
            f"{source}: periodic along {axes} but without a lattice vector there; "
            "give the cell, or set pbc to F for a molecule"
        )
    if atoms.pbc.all() and atoms.cell.volume < _FLAT_CELL * float(np.prod(lengths)):
        raise StructureError(f"{source}: the lattice vectors lie in one plane (volume {atoms.cell.volume:.2g} Å³)")
    occupancies = atoms.info.get("occupancy", {})
    if isinstance(occupancies, dict) and any(
        len(site) > 1 or sum(site.values()) < 1 - 1e-6 for site in occupancies.values() if isinstance(site, dict)
    ):
        raise StructureError(
            f"{source}: has sites that are occupied only in part or by several elements; "
            "make an ordered supercell of it first"
        )


def check_strainable(
    crystals: Sequence[Crystal],
    calculator: CalculatorSpec,
    option: str = "--cell",
    instead: str = "relax at fixed cell",
) -> None:
    """Refuse cells that can't strain, and calculators without stress, before the first evaluation.

    Args:
        crystals: Whose cells are to relax.
        calculator: Under which; `stored` for each crystal's own.
        option: What asks for it, for the message.
        instead: What to do without stress.

    Raises:
        StructureError: Lattice vectors are missing, or a cell is flat; names the crystal.
        CalculatorError: The calculator gives no stress.
    """
    for crystal in crystals:
        try:
            check_cell(crystal.atoms)
        except StructureError as error:
            raise StructureError(f"{crystal.id}: {error}") from error
    own = [calculator.of(crystal.atoms, crystal.id) for crystal in crystals]
    for one in {one.text: one for one in own}.values():
        if "stress" not in getattr(one.create(), "implemented_properties", ["stress"]):
            raise CalculatorError(f"{option}: calculator {one.name} gives no stress; use one that does, or {instead}")


def check_structure(atoms: Atoms) -> list[str]:
    """What is odd about a structure that can be evaluated nevertheless: one sentence each, empty if nothing is.

    Examples:
        >>> check_structure(Atoms("Cu2", [[0, 0, 0], [0, 0, 0.4]]))
        ['atoms 0 and 1 overlap: 0.400 Å, 15 % of the sum of their covalent radii', 'not periodic']
    """
    remarks = []
    i, j, distance, ratio = closest_pair(atoms)
    if ratio < OVERLAP_FRACTION:
        who = f"atoms {i} and {j} overlap" if i != j else f"atom {i} overlaps its own periodic image"
        remarks.append(f"{who}: {distance:.3f} Å, {100 * ratio:.0f} % of the sum of their covalent radii")
    if len(atoms) == 1:
        remarks.append("a single atom: its forces vanish by symmetry, there is nothing to relax at fixed cell")
    if not atoms.pbc.any():
        remarks.append("not periodic")
    elif not atoms.pbc.all():
        remarks.append(f"periodic along {', '.join('abc'[axis] for axis in range(3) if atoms.pbc[axis])} only")
    return remarks


def close_pairs(atoms: Atoms, cutoff: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """All pairs closer than a distance, periodic images included, each once.

    Args:
        atoms: The structure.
        cutoff: Å.

    Returns:
        Indices (n_pairs,) of first and second atoms, and distances (n_pairs,), Å.
    """
    cell = np.ascontiguousarray(atoms.cell.complete().array if atoms.pbc.any() else atoms.cell.array)
    pairs = vesin.NeighborList(cutoff=cutoff, full_list=False).compute(
        points=atoms.positions, box=cell, periodic=np.asarray(atoms.pbc), quantities="ijd"
    )
    return pairs[0].astype(np.int64), pairs[1].astype(np.int64), pairs[2]


def closest_pair(atoms: Atoms) -> tuple[int, int, float, float]:
    """The pair that is closest in units of its covalent radii.

    Returns:
        Index of the first atom, index of the second (equal to the first for a periodic image of itself), distance in
        Å, and distance as a fraction of the sum of covalent radii; infinite distances for an atom all alone.
    """
    radii = covalent_radii[atoms.numbers]
    for cutoff in (2 * radii.max(), 4 * radii.max(), 16 * radii.max()):
        i, j, distance = close_pairs(atoms, cutoff)
        if len(distance):
            ratio = distance / (radii[i] + radii[j])
            closest = int(ratio.argmin())
            # A pair beyond the cutoff can be no closer than this one unless this one lies above the smallest ratio
            # that the cutoff guarantees.
            if ratio[closest] <= cutoff / (2 * radii.max()):
                return int(i[closest]), int(j[closest]), float(distance[closest]), float(ratio[closest])
    return 0, 0, float("inf"), float("inf")


def _few(indices: np.ndarray) -> str:
    shown = ", ".join(str(index) for index in indices[:5])
    return shown + (", ..." if len(indices) > 5 else "")
