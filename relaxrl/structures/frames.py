"""Labelled geometries on the way to minima: for training on calculators that are too expensive to be called there."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from ase import Atoms
from scipy.linalg import polar

from relaxrl.checkpoint import write_atomically
from relaxrl.errors import StructureError
from relaxrl.typing import FloatArray

FRAMES_ENDING = "-frames.npz"
"""Of the files beside those of a set."""

_FORMAT = "relaxrl-frames-1"


@dataclass(frozen=True)
class Frame:
    """A geometry with its labels, and the minimum that it is to be led to.

    Attributes:
        atoms: The geometry, without a calculator.
        energy: eV.
        forces: (n_atoms, 3), eV/Å.
        stress: (6,), eV/Å³, in ASE's order (Voigt) and sign; None where the calculator gave none.
        minimum: The same atoms in the same order, unwrapped. Where the cells are equal, the way is
            `minimum.positions - atoms.positions`. Where they differ, it is rotated such that its cell is
            `atoms.cell @ (1 + strain)` with a symmetric strain.
        minimum_energy: eV.
        crystal: Id of the crystal in the set that the frame goes with.
        parent: Of the crystal; sets are split by it.
        calculator: What the labels are of.
    """

    atoms: Atoms
    energy: float
    forces: FloatArray
    stress: FloatArray | None
    minimum: Atoms
    minimum_energy: float
    crystal: str
    parent: str
    calculator: str

    @property
    def strain(self) -> FloatArray:
        """(3, 3), symmetric; from the frame's cell to that of the minimum; exactly zero where these are equal."""
        if np.array_equal(self.atoms.cell.array, self.minimum.cell.array):
            return np.zeros((3, 3))
        strain = np.linalg.solve(self.atoms.cell.array, self.minimum.cell.array) - np.eye(3)
        return 0.5 * (strain + strain.T)

    @property
    def displacements(self) -> FloatArray:
        """(n_atoms, 3), Å, less their mean: what is left of the way once the strain has carried the atoms along."""
        left = self.minimum.positions - self.atoms.positions @ (np.eye(3) + self.strain)
        shift: FloatArray = left - left.mean(axis=0)
        return shift


def towards(atoms: Atoms, minimum: Atoms) -> Atoms:
    """The minimum, rotated such that its cell is a symmetric strain of that of `atoms`."""
    if np.array_equal(atoms.cell.array, minimum.cell.array):
        return minimum.copy()
    rotation = polar(np.linalg.solve(atoms.cell.array, minimum.cell.array), side="left")[0]
    turned = minimum.copy()
    turned.set_cell(minimum.cell.array @ rotation.T)
    turned.positions[:] = minimum.positions @ rotation.T
    return turned


def save_frames(path: str | os.PathLike[str], frames: Sequence[Frame]) -> None:
    """Write frames to a compressed NumPy file that appears complete or not at all; each minimum is stored once.

    Raises:
        StructureError: There are none.
    """
    if not frames:
        raise StructureError(f"{os.fspath(path)}: there are no frames to write")
    content = BytesIO()
    np.savez_compressed(content, allow_pickle=False, **frame_arrays(frames))
    write_atomically(Path(path), content.getvalue())


def load_frames(path: str | os.PathLike[str]) -> list[Frame]:
    """Read what `save_frames` wrote.

    Raises:
        StructureError: The file is missing, damaged or of another kind.
    """
    try:
        with Path(path).open("rb") as handle, np.load(handle, allow_pickle=False) as arrays:
            return frames_from(dict(arrays))
    except (OSError, EOFError, ValueError, KeyError, IndexError) as error:
        raise StructureError(
            f"{os.fspath(path)}: expected labelled frames as `relaxrl structures make` writes them "
            f"({type(error).__name__}: {error})"
        ) from error


def frame_arrays(frames: Sequence[Frame]) -> dict[str, np.ndarray]:
    """Frames as arrays: those of the crystals once, and of each frame its geometry and labels."""
    first: dict[tuple[object, ...], int] = {}
    owners: list[Frame] = []
    of_frame = []
    for frame in frames:
        # Frames of two occasions may share a name, and each has its own end.
        key = frame.crystal, frame.calculator, frame.minimum_energy, frame.minimum.numbers.tobytes()
        if key not in first:
            first[key] = len(owners)
            owners.append(frame)
        of_frame.append(first[key])
    stresses = [np.full(6, np.nan) if frame.stress is None else frame.stress for frame in frames]
    return {
        "format": np.array(_FORMAT),
        "sizes": np.array([len(owner.minimum) for owner in owners], dtype=np.int64),
        "numbers": np.concatenate([owner.minimum.numbers for owner in owners]).astype(np.uint8),
        "minimum_positions": np.concatenate([owner.minimum.positions for owner in owners]),
        "minimum_cells": np.stack([owner.minimum.cell.array for owner in owners]),
        "minimum_energies": np.array([owner.minimum_energy for owner in owners]),
        "crystals": np.array([owner.crystal for owner in owners]),
        "parents": np.array([owner.parent for owner in owners]),
        "calculators": np.array([owner.calculator for owner in owners]),
        "crystal_of_frame": np.array(of_frame, dtype=np.int64),
        "positions": np.concatenate([frame.atoms.positions for frame in frames]),
        "cells": np.stack([frame.atoms.cell.array for frame in frames]),
        "energies": np.array([frame.energy for frame in frames]),
        "forces": np.concatenate([frame.forces for frame in frames]).astype(np.float32),
        "stresses": np.stack(stresses).astype(np.float32),
    }


def frames_from(arrays: Mapping[str, np.ndarray]) -> list[Frame]:
    """What `frame_arrays` made arrays of; `ValueError` of arrays of another kind."""
    if str(arrays["format"]) != _FORMAT:
        raise ValueError(f"expected the format {_FORMAT}, got {arrays['format']}")
    sizes, of_frame = arrays["sizes"], arrays["crystal_of_frame"]
    ends = np.cumsum(sizes)[:-1]
    numbers = np.split(arrays["numbers"].astype(np.int64), ends)
    lowest = np.split(arrays["minimum_positions"], ends)
    minima = [
        Atoms(numbers[k], lowest[k], cell=arrays["minimum_cells"][k], pbc=True) for k in range(len(arrays["sizes"]))
    ]
    frame_ends = np.cumsum(sizes[of_frame])[:-1]
    positions = np.split(arrays["positions"], frame_ends)
    forces = np.split(arrays["forces"].astype(np.float64), frame_ends)
    frames = []
    for k, owner in enumerate(of_frame.tolist()):
        atoms = Atoms(numbers[owner], positions[k], cell=arrays["cells"][k], pbc=True)
        stress = arrays["stresses"][k].astype(np.float64)
        frames.append(
            Frame(
                atoms,
                float(arrays["energies"][k]),
                forces[k],
                None if np.isnan(stress).any() else stress,
                towards(atoms, minima[owner]),
                float(arrays["minimum_energies"][owner]),
                str(arrays["crystals"][owner]),
                str(arrays["parents"][owner]),
                str(arrays["calculators"][owner]),
            )
        )
    return frames
