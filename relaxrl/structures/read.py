"""Crystals from files, folders, databases, CSV tables and the shipped sets."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import ase.db
import ase.io
from ase import Atoms
from ase.io.bundletrajectory import BundleTrajectory
from ase.io.formats import UnknownFileTypeError, filetype, get_compression, ioformats

from relaxrl.errors import StructureError
from relaxrl.structures.archive import is_archive, load_archive
from relaxrl.structures.check import require_usable
from relaxrl.structures.cif_table import read_cif_table
from relaxrl.structures.crystal import KIND_KEY, PARENT_KEY, Crystal, Kind
from relaxrl.structures.frames import FRAMES_ENDING
from relaxrl.structures.shipped import is_shipped, near_shipped, read_shipped

Parents = Literal["id", "file", "formula"]
"""What counts as one crystal in a file that doesn't say: each structure, each file, or each reduced formula."""

_DATABASES = ("db", "json", "postgresql", "mysql")
_ARCHIVE = ".npz"
"""Ending of the files that `relaxrl structures make` writes."""

_NOT_STRUCTURES = (".csv", ".html", ".journal", ".log", ".md", ".png", ".pov", ".py", ".txt", ".yaml", ".yml")
"""Extensions that are passed over in folders though ASE may know a format of this name (`.csv` is read by us)."""


def read_structures(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    kind: Kind | None = None,
    parents: Parents = "id",
    cif_column: str | None = None,
) -> list[Crystal]:
    """All structures of some files, folders, databases, CSV tables or shipped sets, in the order given.

    Args:
        paths: One or several of: a file in any format that ASE reads, all its frames (`FILE@INDEX` or `FILE@START:STOP`
            picks frames, a database takes a query there, as everywhere in ASE), compressed or not; an ASE database; a
            CSV file with CIF text in one of its columns; a folder of such files, subfolders included; a shipped set by
            name, such as `metals:train`.
        kind: "minimum" for structures that are relaxed already and must be displaced to be of use, "start" for those
            that are taken as they are. None goes by `relaxrl_kind` in the info of each structure, "start" by default.
        parents: What counts as one crystal where `relaxrl_parent` in the info doesn't say: each structure ("id"), each
            file, for trajectories ("file"), or each reduced formula ("formula").
        cif_column: Column of CIF text in CSV files; None finds it.

    Returns:
        Structures with their info and constraints, without stored energies and forces. Ids are `FILE#INDEX`, FILE as
        given (for folders joined with the file's path inside) and INDEX counting from 0 what was read of it.

    Raises:
        StructureError: A file is missing, unreadable, or empty, a folder has no structures, or a structure can't be
            evaluated by any calculator; the message names file and frame.
    """
    crystals: list[Crystal] = []
    for name in given_names(paths):
        if is_shipped(name):
            shipped = read_shipped(name)
            crystals += shipped if kind is None else [_with_kind(crystal, kind) for crystal in shipped]
            continue
        for crystal in read_file_or_folder(name, kind, parents, cif_column):
            crystal.atoms.calc = None  # what a file stored must not be mistaken for the user's calculator's
            crystals.append(crystal)
    return crystals


def given_names(paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    """One path or several as a list; `StructureError` if there are none."""
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not given:
        raise StructureError("expected at least one file of structures, got none")
    return [os.fspath(path) for path in given]


def read_file_or_folder(
    name: str, kind: Kind | None = None, parents: Parents = "id", cif_column: str | None = None
) -> Iterator[Crystal]:
    """The structures of one path that is no shipped set, with whatever calculator their file gives them."""
    for file in _files(name):
        for index, atoms in enumerate(_frames(file, cif_column)):
            yield _crystal(file, index, atoms, kind, parents)


def _with_kind(crystal: Crystal, kind: Kind) -> Crystal:
    return Crystal(crystal.id, crystal.atoms, crystal.parent, kind)


def _crystal(file: str, index: int, atoms: Atoms, kind: Kind | None, parents: Parents) -> Crystal:
    identity = f"{file}#{index}"
    require_usable(atoms, f"{file}, frame {index}")
    family = {"id": identity, "file": file, "formula": atoms.symbols.formula.reduce()[0].format("hill")}[parents]
    stated = kind or atoms.info.get(KIND_KEY, "start")
    if stated not in ("minimum", "start"):
        raise StructureError(f"{identity}: `{KIND_KEY}` must be 'minimum' or 'start', got {stated!r}")
    return Crystal(identity, atoms, str(atoms.info.get(PARENT_KEY, family)), stated)


def _files(name: str) -> Iterator[str]:
    """The path itself, or the files with structures below it if it is a folder."""
    if name.startswith(("postgresql:", "mysql:", "mariadb:")):
        yield name
        return
    path = Path(name)
    if not path.exists() and "@" in path.name and Path(name.rpartition("@")[0]).exists():
        yield name
        return
    if not path.exists():
        raise StructureError(
            f"{name}: no such file or folder{near_shipped(name)} (nor a shipped set, which are called metals:SPLIT)"
        )
    if not path.is_dir() or BundleTrajectory.is_bundle(name):
        yield name
        return
    found = False
    for file in sorted(path.rglob("*")):
        inside = file.relative_to(path)
        if not file.is_file() or any(part.startswith(".") for part in inside.parts):
            continue
        if _looks_like_structures(file):
            found = True
            yield os.path.join(name, inside)  # noqa: PTH118  (Path would drop a leading "./" that the user wrote)
    if not found:
        raise StructureError(
            f"{name}: the folder has no file in a format that ASE recognises (extxyz, CIF, POSCAR, traj, db, ...) "
            "and no CSV table; name the files themselves if their endings are unusual"
        )


def _looks_like_structures(file: Path) -> bool:
    root = Path(get_compression(str(file))[0])
    if root.name.endswith(FRAMES_ENDING):
        return False
    if root.suffix.lower() == ".csv":
        return True
    if root.suffix.lower() == _ARCHIVE:
        return is_archive(file)  # others use NumPy's files as well
    if root.suffix.lower() in _NOT_STRUCTURES:
        return False
    try:
        form = ioformats.get(filetype(str(file), guess=False))
    except (UnknownFileTypeError, OSError, EOFError):
        # An empty or broken file with a structure's name is an error, not something to pass over.
        form = ioformats.get(filetype(str(file), read=False)) if root.suffix else None
    if form is not None and form.name == "json":
        return b'"ids"' in file.read_bytes()
    return form is not None and form.can_read


def _frames(file: str, cif_column: str | None) -> list[Atoms]:
    if Path(get_compression(file)[0]).suffix.lower() == ".csv":
        return read_cif_table(file, cif_column)
    if Path(file).suffix.lower() == _ARCHIVE:
        return _archived(file)
    base, _, query = file.rpartition("@") if "@" in Path(file).name and not Path(file).exists() else (file, "", "")
    if Path(base).is_file() and Path(base).stat().st_size == 0:
        raise StructureError(f"{file}: the file is empty")
    form = "a structure"
    try:
        form = filetype(base)
        if form in _DATABASES:
            frames = _rows(base, query)
        else:
            # What is picked was split off above; any other @ belongs to the name.
            frames = ase.io.read(base, index=query or ":", format=form, do_not_split_by_at_sign=True)
    except UnknownFileTypeError as error:
        raise StructureError(
            f"{file}: ASE doesn't recognise the format ({error}); rename it to a usual ending, such as .extxyz or .cif"
        ) from error
    except Exception as error:  # readers of 90 formats raise what they like
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise StructureError(f"{file}: can't be read as {form}, is it damaged? ({reason})") from error
    frames = [frames] if isinstance(frames, Atoms) else list(frames)
    if not frames:
        raise StructureError(f"{file}: holds no structures")
    return frames


def _archived(file: str) -> list[Atoms]:
    """What a set holds to be relaxed: its starts, or its minima where it has no starts."""
    try:
        entries = load_archive(Path(file))
    except (OSError, EOFError, ValueError, KeyError, IndexError, zipfile.BadZipFile) as error:
        raise StructureError(
            f"{file}: is not a set made by `relaxrl structures make`, or damaged ({type(error).__name__}: {error})"
        ) from error
    return [entry.atoms("minimum" if entry.start is None else "start") for entry in entries]


def _rows(file: str, query: str) -> list[Atoms]:
    """Rows of an ASE database in the order of their ids; key-value pairs and data go to `info`."""
    frames = []
    with ase.db.connect(file, serial=True) as database:
        selection = {"selection": query} if query else {}
        for row in database.select(**selection):
            atoms = row.toatoms()
            atoms.info.update(row.data)
            atoms.info.update(row.key_value_pairs)
            frames.append(atoms)
    return frames
