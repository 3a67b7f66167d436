"""Primitive cells: the shortest vectors of a lattice, and the atoms in them."""

from __future__ import annotations

from itertools import product

import numpy as np
from ase import Atoms

from relaxrl.typing import FloatArray


def shortest_basis(cell: FloatArray, centrings: FloatArray) -> FloatArray:
    """Shortest independent vectors, right-handed, (3, 3), Å, of a lattice with more points than a cell's corners.

    Args:
        cell: (3, 3), Å.
        centrings: (n, 3), fractional coordinates of the lattice points in the cell, the corner among them.
    """
    steps = np.array(list(product((-1, 0, 1), repeat=3)), dtype=np.float64)
    vectors = (centrings[:, None, :] + steps[None]).reshape(-1, 3) @ cell
    vectors = vectors[np.linalg.norm(vectors, axis=1) > 1e-3]
    # Equal lengths are ordered by coordinates, not by rounding errors.
    order = np.lexsort((*np.round(vectors, 4).T[::-1], np.round(np.linalg.norm(vectors, axis=1), 4)))
    first, *others = vectors[order]
    basis = [first]
    volume = abs(np.linalg.det(cell)) / len(centrings)
    for vector in others:
        if len(basis) == 1 and np.linalg.norm(np.cross(first, vector)) > 1e-3 * np.linalg.norm(vector) ** 2:
            basis.append(vector)
        elif len(basis) == 2 and abs(abs(np.linalg.det([*basis, vector])) - volume) < 1e-3 * volume:
            basis.append(vector)
            break
    if len(basis) < 3:  # a very skewed cell: leave it as it is
        return cell
    found = np.array(basis)
    return found if np.linalg.det(found) > 0 else -found


def distinct(positions: FloatArray, cell: FloatArray, tolerance: float) -> np.ndarray:
    """Which positions are no image of an earlier one, (n,), bool.

    Args:
        positions: (n, 3), Å.
        cell: (3, 3), Å.
        tolerance: Å; images closer than this are one.
    """
    fractional = positions @ np.linalg.inv(cell)
    difference = fractional[:, None] - fractional[None]
    difference -= np.rint(difference)
    same = np.linalg.norm(difference @ cell, axis=2) < tolerance
    first: np.ndarray = same.argmax(axis=1) == np.arange(len(positions))
    return first


def primitive_cell(atoms: Atoms, tolerance: float = 0.05) -> Atoms:
    """The crystal in a primitive cell; a copy where the cell is one.

    Args:
        atoms: A crystal.
        tolerance: Å; translations that bring all atoms this close to one of their element are of the lattice.
    """
    cell = atoms.cell.array
    places = atoms.get_scaled_positions()
    numbers, counts = np.unique(atoms.numbers, return_counts=True)
    rarest = np.flatnonzero(atoms.numbers == numbers[counts.argmin()])
    centrings = [np.zeros(3)]
    for k in rarest[1:]:
        shift = _rational(places[k] - places[rarest[0]], len(rarest))
        if shift is None:
            continue
        difference = places[:, None] + shift - places[None]
        difference -= np.rint(difference)
        close = np.linalg.norm(difference @ cell, axis=2) < tolerance
        if (close & (atoms.numbers[:, None] == atoms.numbers[None])).any(axis=1).all():
            centrings.append(shift)
    if len(centrings) == 1:
        return atoms.copy()
    basis = shortest_basis(cell, np.array(centrings))
    kept = distinct(atoms.positions, basis, 2 * tolerance)
    if int(kept.sum()) * len(centrings) != len(atoms):
        return atoms.copy()
    primitive = Atoms(atoms.numbers[kept], atoms.positions[kept], cell=basis, pbc=True)
    primitive.wrap(eps=1e-6)
    return primitive


def _rational(shift: FloatArray, largest: int) -> FloatArray | None:
    """The fraction with a small denominator next to a translation; None if it is far from all."""
    for denominator in range(2, largest + 1):
        nearest = np.rint(shift * denominator) / denominator
        if np.abs(shift - nearest).max() < 0.02:
            found: FloatArray = nearest % 1.0
            return found
    return None
