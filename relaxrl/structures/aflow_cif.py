"""The crystallographic files of AFLOW's prototypes: cell, symmetry operations and one atom per Wyckoff position."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from ase import Atoms
from ase.cell import Cell
from ase.data import atomic_numbers
from ase.spacegroup.spacegroup import parse_sitesym

from relaxrl.errors import StructureError
from relaxrl.typing import FloatArray

_OPERATIONS = ("_space_group_symop_operation_xyz", "_symmetry_equiv_pos_as_xyz")
_SAME = 0.02
"""Å; images of an atom closer than this are one atom. Files hold five decimals of fractional coordinates."""
_ROUND = 2e-5
"""Coordinates this close to a multiple of 1/12 are one, rounded to the five decimals of the files."""


@dataclass(frozen=True)
class AflowCrystal:
    """What a file holds.

    Attributes:
        name: The mineral or compound.
        spacegroup: International number.
        atoms: Primitive cell.
        sites: Wyckoff position of each atom, such as `2d`, with the place in the file where two have one letter.
    """

    name: str
    spacegroup: int
    atoms: Atoms
    sites: tuple[str, ...]


def read_aflow_cif(text: str, source: str) -> AflowCrystal:
    """The crystal of a file, in its primitive cell.

    Args:
        text: The file.
        source: What errors call it.

    Raises:
        StructureError: Something is missing, sites are occupied in part or by no known element, or the symmetry
            operations don't give the multiplicities that the file claims.
    """
    values, loops = _parse(text)
    try:
        parameters = [float(values[f"_cell_length_{axis}"]) for axis in "abc"]
        parameters += [float(values[f"_cell_angle_{angle}"]) for angle in ("alpha", "beta", "gamma")]
        group = int(values.get("_symmetry_int_tables_number", "0"))
        operations = next(tuple(loops[key]) for key in _OPERATIONS if key in loops)
        symbols = loops["_atom_site_type_symbol"]
        multiplicities = [int(count) for count in loops["_atom_site_symmetry_multiplicity"]]
        letters = loops["_atom_site_wyckoff_label"]
        places = np.array([[float(x) for x in loops[f"_atom_site_fract_{axis}"]] for axis in "xyz"]).T
        occupancies = [float(share) for share in loops["_atom_site_occupancy"]]
    except (KeyError, ValueError, StopIteration) as error:
        raise StructureError(f"{source}: expected a file of AFLOW's prototypes: {error!r}") from error
    if min(occupancies) < 1:
        raise StructureError(f"{source}: has sites that are occupied in part")
    if not set(symbols) <= set(atomic_numbers):
        raise StructureError(f"{source}: has elements that are none: {', '.join(set(symbols) - set(atomic_numbers))}")
    cell = Cell.fromcellpar(parameters)
    rotations, translations = _parsed(operations)
    centrings = _centrings(rotations, translations)
    primitive = _primitive(cell.array, centrings)
    positions, names, sites = [], [], []
    for k, place in enumerate(_special(places)):
        images = _distinct((rotations @ place + translations) @ cell.array, cell.array)
        if len(images) != multiplicities[k]:
            raise StructureError(
                f"{source}: site {k} has multiplicity {multiplicities[k]}, its symmetry operations give {len(images)}"
            )
        images = _distinct(images, primitive)
        positions.append(images)
        names += [symbols[k]] * len(images)
        sites += [f"{multiplicities[k]}{letters[k]}#{k}"] * len(images)
    atoms = Atoms(names, np.concatenate(positions), cell=primitive, pbc=True)
    atoms.wrap(eps=1e-6)
    return AflowCrystal(values.get("_chemical_name_mineral", "").strip("'\" "), group, atoms, tuple(sites))


def _parse(text: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Single values, and columns of loops, by lower-case key. Text blocks between semicolons are dropped."""
    values: dict[str, str] = {}
    loops: dict[str, list[str]] = {}
    keys: list[str] = []
    heading = False
    for line in re.sub(r"^;.*?^;", "", text, flags=re.MULTILINE | re.DOTALL).splitlines():
        line = line.strip()
        if not line or line.startswith(("#", "data_")):
            continue
        if line == "loop_":
            keys, heading = [], True
        elif line.startswith("_"):
            key, _, value = line.partition(" ")
            key = key.strip().lower()
            if heading and not value.strip():
                keys.append(key)
                loops[key] = []
            else:
                keys, heading = [], False
                values[key] = value.strip()
        elif keys:
            heading = False
            words = _words(line, len(keys))
            for key, word in zip(keys, words, strict=False):
                loops[key].append(word)
    return values, loops


def _words(line: str, count: int) -> list[str]:
    words = line.split(maxsplit=count - 1) if count < 3 else line.split()
    if len(words) == count:
        return words
    try:
        return shlex.split(line)
    except ValueError:
        return words


@lru_cache(maxsize=256)
def _parsed(operations: tuple[str, ...]) -> tuple[FloatArray, FloatArray]:
    rotations, translations = parse_sitesym([operation.strip("'\"") for operation in operations])
    return np.asarray(rotations, dtype=np.float64), np.asarray(translations, dtype=np.float64)


def _centrings(rotations: FloatArray, translations: FloatArray) -> FloatArray:
    """Translations of the lattice within the cell, fractional, (n, 3), zero among them."""
    found = translations[(rotations == np.eye(3)).all(axis=(1, 2))] % 1.0
    return np.unique(np.rint(found * 12) / 12 % 1.0, axis=0)


def _primitive(cell: FloatArray, centrings: FloatArray) -> FloatArray:
    """Shortest vectors, right-handed, of the lattice with these centrings."""
    steps = np.array(list(product((-1, 0, 1), repeat=3)), dtype=np.float64)
    vectors = (centrings[:, None, :] + steps[None]).reshape(-1, 3) @ cell
    lengths = np.linalg.norm(vectors, axis=1)
    # Equal lengths are ordered by coordinates, not by rounding errors.
    order = np.lexsort((*np.round(vectors, 4).T[::-1], np.round(lengths, 4)))
    vectors = vectors[order[np.sort(lengths) > 1e-3]]
    basis = [vectors[0]]
    wanted = abs(np.linalg.det(cell)) / len(centrings)
    for vector in vectors[1:]:
        if len(basis) == 1 and np.linalg.norm(np.cross(basis[0], vector)) > 1e-3 * np.linalg.norm(vector) ** 2:
            basis.append(vector)
        elif len(basis) == 2 and abs(abs(np.linalg.det([*basis, vector])) - wanted) < 1e-3 * wanted:
            basis.append(vector)
            break
    found = np.array(basis)
    return found if np.linalg.det(found) > 0 else -found


def _special(places: FloatArray) -> FloatArray:
    """Coordinates with the rounding of multiples of 1/12 undone."""
    nearest = np.rint((places % 1.0) * 12) / 12
    return np.where(np.abs(places % 1.0 - nearest) < _ROUND, nearest, places % 1.0)


def _distinct(positions: FloatArray, cell: FloatArray) -> FloatArray:
    """Positions that differ by more than a lattice vector, the first of each."""
    fractional = positions @ np.linalg.inv(cell)
    difference = fractional[:, None] - fractional[None]
    difference -= np.rint(difference)
    same = np.linalg.norm(difference @ cell, axis=2) < _SAME
    first = same.argmax(axis=1) == np.arange(len(positions))
    distinct: FloatArray = positions[first]
    return distinct
