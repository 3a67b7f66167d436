"""Crystals to a file such that reading it gives the same crystals again, as far as the format can hold them."""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import numpy as np
from ase import Atoms
from ase.db.core import bytes_to_object, check, object_to_bytes
from ase.io.bundletrajectory import BundleTrajectory
from ase.io.formats import UnknownFileTypeError, filetype, ioformats

from relaxrl.errors import StructureError
from relaxrl.structures.crystal import KIND_KEY, PARENT_KEY, Crystal
from relaxrl.typing import FloatArray

_ALIKE = ("FixAtoms", "FixCartesian", "FixScaled", "FixedLine", "FixedPlane")
"""Constraints on single atoms, which formats exchange for one another."""


class ConstraintsLostWarning(UserWarning):
    """The format of a file has no room for some constraints of the structures."""


def write_structures(path: str | os.PathLike[str], crystals: Sequence[Crystal]) -> None:
    """Write structures, with parent and kind where the format has room for them (extxyz, traj, db).

    Args:
        path: File to write; its ending decides the format. An existing file is replaced.
        crystals: At least one.

    Raises:
        StructureError: The format is unknown, can't be written, or holds one structure only.

    Warns:
        ConstraintsLostWarning: The format does not hold all constraints; names them.
    """
    name = os.fspath(path)
    form = check_format(name, len(crystals))
    make_folder_of(name)
    if lost := unheld_constraints(name, [crystal.atoms for crystal in crystals]):
        warnings.warn(lost, ConstraintsLostWarning, stacklevel=2)
    frames = [_labelled(crystal) for crystal in crystals]
    try:
        if form in ("db", "json"):
            _write_database(name, frames)
        else:
            ase.io.write(name, frames, format=form)
    except Exception as error:  # writers of dozens of formats raise what they like
        raise StructureError(
            f"{name}: {form} can't hold the structures ({type(error).__name__}: {error}); use .extxyz, .traj or .db"
        ) from error


def check_writable(path: str | os.PathLike[str], crystals: Sequence[Crystal]) -> None:
    """Find out before a long job whether structures like these can be written in the end; makes the folder.

    Raises:
        StructureError: They can't: as of `write_structures`, or the folder can't be made.
    """
    name = os.fspath(path)
    check_format(name, len(crystals))
    # A trial is no occasion for warnings.
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        try:
            write_structures(Path(folder) / Path(name).name, crystals)
        except StructureError as error:
            raise StructureError(str(error).replace(f"{folder}{os.sep}{Path(name).name}", name)) from error
    make_folder_of(name)


def check_format(path: str | os.PathLike[str], n_structures: int) -> str:
    """ASE's name of the format that a file of so many structures gets.

    Raises:
        StructureError: There are no structures, the file is a folder, or its format is unknown, can't be written, or
            holds one structure only.
    """
    name = os.fspath(path)
    if not n_structures:
        raise StructureError(f"{name}: there are no structures to write")
    try:
        form = ioformats.get(filetype(name, read=False))
    except UnknownFileTypeError:
        form = None
    if form is None or not form.can_write:
        raise StructureError(f"{name}: ASE can't write this format; use .extxyz, .traj, .db, .cif, ...")
    if form.single and n_structures > 1:
        raise StructureError(f"{name}: {form.name} holds one structure, got {n_structures}; use .extxyz, .traj or .db")
    if Path(name).is_dir() and not BundleTrajectory.is_bundle(name):
        raise StructureError(f"{name}: expected a file, got a folder; name a file in it")
    return str(form.name)


def make_folder_of(path: str | os.PathLike[str]) -> None:
    """Make the folder that a file is to be written to; `StructureError` where that can't be, or nothing written."""
    folder = Path(path).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StructureError(f"{os.fspath(path)}: can't make the folder {folder} ({error}); name another") from error
    if not os.access(folder, os.W_OK):
        raise StructureError(f"{os.fspath(path)}: nothing can be written to the folder {folder}; name another")


def unheld_constraints(path: str | os.PathLike[str], structures: Sequence[Atoms]) -> str:
    """Which constraints a file of this name would not hold, in a sentence; empty if it holds all.

    The first structure with each set of kinds is written to another place, and read again.
    """
    first: dict[tuple[str, ...], Atoms] = {}
    for atoms in structures:
        if atoms.constraints:
            first.setdefault(tuple(type(one).__name__ for one in atoms.constraints), atoms)
    lost: set[str] = set()
    for atoms in first.values():
        bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, constraint=atoms.constraints)
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
            copy = str(Path(folder) / Path(path).name)
            try:
                ase.io.write(copy, bare)
            except Exception:  # who writes the file meets the same
                continue
            try:
                again = ase.io.read(copy, do_not_split_by_at_sign=True)
            except Exception:  # formats that can be written alone
                again = Atoms()
        lost |= _lost(bare, again)
    if not lost:
        return ""
    return f"{os.fspath(path)}: this format does not hold the constraints {', '.join(sorted(lost))}; .traj and .db do"


def _lost(written: Atoms, read: Atoms) -> set[str]:
    """Kinds of constraints that are no longer there and whose effect isn't either."""
    lost = {type(one).__name__ for one in written.constraints if np.size(getattr(one, "index", 0))}
    lost -= {type(one).__name__ for one in read.constraints if type(one).__name__ not in _ALIKE}
    if len(written) == len(read) and np.allclose(_constrained(written), _constrained(read), atol=1e-6):
        lost = lost.difference(_ALIKE)
    return lost


def _constrained(atoms: Atoms) -> FloatArray:
    """What constraints on single atoms leave of some forces, (n_atoms, 3)."""
    forces: FloatArray = np.random.default_rng(0).normal(size=(len(atoms), 3))
    for one in atoms.constraints:
        if type(one).__name__ in _ALIKE:
            one.adjust_forces(atoms, forces)
    return forces


def database_row(info: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an ASE database takes of the info of a structure: key-value pairs, and data for what is none.

    Objects that neither can hold, such as the space group that a CIF file leaves, are left out.
    """
    pairs: dict[str, Any] = {}
    data: dict[str, Any] = {}
    for key, value in info.items():
        try:
            check({key: value})
            pairs[key] = value
        except (ValueError, TypeError):
            with contextlib.suppress(Exception):  # there and back: not all that can be written can be read
                bytes_to_object(object_to_bytes(value))
                data[str(key)] = value
    return pairs, data


def _labelled(crystal: Crystal) -> Atoms:
    atoms = crystal.atoms.copy()
    atoms.info = {key: value for key, value in atoms.info.items() if key != "spacegroup"}  # an object of ASE's own
    atoms.info |= {KIND_KEY: crystal.kind, PARENT_KEY: crystal.parent}
    return atoms


def _write_database(name: str, frames: Sequence[Atoms]) -> None:
    Path(name).unlink(missing_ok=True)
    with ase.db.connect(name) as database:
        for atoms in frames:
            database.write(atoms, *database_row(atoms.info))
