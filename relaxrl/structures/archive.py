"""Relaxed crystals and starts displaced from them in one compressed NumPy file: small, exact, read in milliseconds."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from io import BytesIO
from pathlib import Path

import numpy as np
from ase import Atoms

from relaxrl.checkpoint import write_atomically
from relaxrl.potentials import CALCULATOR_KEY
from relaxrl.structures.crystal import KIND_KEY, MINIMUM_ENERGY_KEY, PARENT_KEY, Kind
from relaxrl.typing import FloatArray

PROTOTYPE_KEY = "relaxrl_prototype"
"""Key of `atoms.info` with the lattice or structure type that a crystal was made from."""


_ALWAYS = ("sizes", "numbers", "cells", "positions", "energies", "parents", "prototypes")
"""Arrays of every archive."""


@dataclass(frozen=True)
class Entry:
    """A true minimum and, in sets for comparisons, the start that everybody relaxes.

    Attributes:
        minimum: Relaxed structure.
        energy: Its energy, eV.
        parent: Name of the crystal it descends from.
        prototype: Lattice or structure type it was made from.
        start: (n_atoms, 3), Å; positions to start from, None in training sets.
        calculator: What it is a minimum of; None in files that don't say.
        start_cell: (3, 3), Å; cell to start from where it is not that of the minimum.
    """

    minimum: Atoms
    energy: float
    parent: str
    prototype: str
    start: FloatArray | None = None
    calculator: str | None = None
    start_cell: FloatArray | None = None

    def atoms(self, kind: Kind) -> Atoms:
        """The minimum or the start, with what is known about it in its info."""
        atoms = self.minimum.copy()
        if kind == "start" and self.start is not None:
            if self.start_cell is not None:
                atoms.set_cell(self.start_cell)
            atoms.positions[:] = self.start
        atoms.info = {
            KIND_KEY: kind,
            PARENT_KEY: self.parent,
            MINIMUM_ENERGY_KEY: self.energy,
            PROTOTYPE_KEY: self.prototype,
        }
        if self.calculator is not None:
            atoms.info[CALCULATOR_KEY] = self.calculator
        return atoms


def save_archive(path: str | os.PathLike[str], entries: Sequence[Entry]) -> None:
    """Write entries; equal entries give equal bytes, and the file appears complete or not at all.

    Raises:
        ValueError: Some entries have a start and others don't, or an entry is not periodic in all directions.
    """
    content = BytesIO()
    np.savez_compressed(content, allow_pickle=False, **archive_arrays(entries))
    write_atomically(Path(path), content.getvalue())


def load_archive(path: Path | Traversable) -> list[Entry]:
    """Read what `save_archive` wrote."""
    with path.open("rb") as handle, np.load(handle, allow_pickle=False) as arrays:
        return entries_from(dict(arrays))


def is_archive(path: Path) -> bool:
    """Whether a file has what `save_archive` writes; of NumPy's files only the names of the arrays are read."""
    try:
        with zipfile.ZipFile(path) as file:
            return {f"{name}.npy" for name in _ALWAYS}.issubset(file.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def archive_arrays(entries: Sequence[Entry]) -> dict[str, np.ndarray]:
    """Entries as arrays; `ValueError` as of `save_archive`."""
    if len({entry.start is None for entry in entries}) != 1:
        raise ValueError("either all entries of an archive have a start or none has")
    if not all(entry.minimum.pbc.all() for entry in entries):
        raise ValueError("an archive holds crystals that are periodic in all three directions")
    arrays: dict[str, np.ndarray] = {
        "sizes": np.array([len(entry.minimum) for entry in entries], dtype=np.int64),
        "numbers": np.concatenate([entry.minimum.numbers for entry in entries]).astype(np.uint8),
        "cells": np.stack([entry.minimum.cell.array for entry in entries]),
        "positions": np.concatenate([entry.minimum.positions for entry in entries]),
        "energies": np.array([entry.energy for entry in entries], dtype=np.float64),
        "parents": np.array([entry.parent for entry in entries]),
        "prototypes": np.array([entry.prototype for entry in entries]),
    }
    starts = [entry.start for entry in entries if entry.start is not None]
    if starts:
        arrays["starts"] = np.concatenate(starts)
    if any(entry.calculator is not None for entry in entries):
        arrays["calculators"] = np.array([entry.calculator or "" for entry in entries])
    if any(entry.start_cell is not None for entry in entries):
        cells = [entry.minimum.cell.array if entry.start_cell is None else entry.start_cell for entry in entries]
        arrays["start_cells"] = np.stack(cells)
    return arrays


def entries_from(arrays: Mapping[str, np.ndarray]) -> list[Entry]:
    """What `archive_arrays` made arrays of."""
    ends = np.cumsum(arrays["sizes"])[:-1]
    numbers = np.split(arrays["numbers"].astype(np.int64), ends)
    positions = np.split(arrays["positions"], ends)
    none = [None] * len(numbers)
    starts = np.split(arrays["starts"], ends) if "starts" in arrays else none
    cells, energies = arrays["cells"], arrays["energies"]
    parents, prototypes = arrays["parents"].tolist(), arrays["prototypes"].tolist()
    calculators = arrays["calculators"].tolist() if "calculators" in arrays else none
    start_cells = arrays.get("start_cells", none)
    return [
        Entry(
            Atoms(numbers[k], positions[k], cell=cells[k], pbc=True),
            float(energies[k]),
            parents[k],
            prototypes[k],
            starts[k],
            calculators[k] or None,
            start_cells[k],
        )
        for k in range(len(numbers))
    ]
