"""The crystallographic files of AFLOW's prototypes: cell, symmetry operations and one atom per Wyckoff position."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from ase import Atoms
from ase.cell import Cell
from ase.data import atomic_numbers
from ase.spacegroup.spacegroup import parse_sitesym

from relaxrl.errors import StructureError
from relaxrl.structures.primitive import distinct, shortest_basis
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
    primitive = shortest_basis(cell.array, centrings)
    positions, names, sites = [], [], []
    for k, place in enumerate(_special(places)):
        images = (rotations @ place + translations) @ cell.array
        images = images[distinct(images, cell.array, _SAME)]
        if len(images) != multiplicities[k]:
            raise StructureError(
                f"{source}: site {k} has multiplicity {multiplicities[k]}, its symmetry operations give {len(images)}"
            )
        images = images[distinct(images, primitive, _SAME)]
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


def _special(places: FloatArray) -> FloatArray:
    """Coordinates with the rounding of multiples of 1/12 undone."""
    nearest = np.rint((places % 1.0) * 12) / 12
    return np.where(np.abs(places % 1.0 - nearest) < _ROUND, nearest, places % 1.0)
