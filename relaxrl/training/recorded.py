"""Frames of recorded relaxations as a part of batches: forces and stress are stored, and no calculator is called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from ase.stress import voigt_6_to_full_3x3_stress

from relaxrl.errors import ConfigError
from relaxrl.graph import AtomGraph, max_force
from relaxrl.io import graph_from_atoms
from relaxrl.structures.frames import Frame, load_frames
from relaxrl.training.lesson import Lesson
from relaxrl.training.way import stress_norm

SAME_CELL = 1e-6
"""Difference of two cells, relative to their vectors, below which a frame is one at the minimum's cell."""


class RecordedFrames:
    """Draws frames, each crystal as often as the others, however long its relaxation was.

    Args:
        files: As written by `relaxrl.structures.frames.save_frames`.
        cell: Whether frames whose cell is not the minimum's count; those without stress never do.
        smallest: eV/Å; frames whose forces (and stress, as ASE's filters count it) are all below it are left out.

    Raises:
        StructureError: A file can't be used.
        ConfigError: No frame can be used.
    """

    def __init__(self, files: Sequence[str] | str, cell: bool, smallest: float) -> None:
        found = [frame for file in ([files] if isinstance(files, str) else files) for frame in load_frames(file)]
        self.frames: list[Frame] = []
        self._strains: list[bool] = []
        for frame in found:
            strains = _strained(frame)
            if strains and (not cell or frame.stress is None):
                continue
            graph = graph_of([frame])
            left = float(max_force(graph)) if not strains else max(float(max_force(graph)), float(stress_norm(graph)))
            if left > smallest:
                self.frames.append(frame)
                self._strains.append(strains)
        if not self.frames:
            raise ConfigError(
                f"`frames`: none of the {len(found)} frames can be used: expected forces above {smallest:g} eV/Å, and, "
                "where the cell is not the minimum's, stress and `cell` above 0"
            )
        names = [(frame.crystal, frame.calculator) for frame in self.frames]
        counts = Counter(names)
        self._odds = np.array([1 / counts[name] for name in names]) / len(counts)

    @property
    def elements(self) -> set[str]:
        """Symbols of all elements in the frames."""
        return {symbol for frame in self.frames for symbol in frame.minimum.symbols}

    def draw(self, n: int, generator: np.random.Generator) -> Lesson:
        """Some frames with the ways to their minima."""
        chosen = generator.choice(len(self.frames), n, p=self._odds).tolist()
        frames, strains = [self.frames[k] for k in chosen], [self._strains[k] for k in chosen]
        return Lesson(
            graph_of(frames),
            graph_from_atoms([frame.minimum for frame in frames]),
            torch.tensor(strains),
            torch.ones(n, dtype=torch.bool),
        )


def _strained(frame: Frame) -> bool:
    cell = frame.atoms.cell.array
    return bool(np.abs(frame.minimum.cell.array - cell).max() > SAME_CELL * np.abs(cell).max())


def graph_of(frames: Sequence[Frame]) -> AtomGraph:
    """A batch of frames with what is stored of them; the stress is zero where it is not known."""
    stress = [np.zeros(6) if frame.stress is None else frame.stress for frame in frames]
    return graph_from_atoms([frame.atoms for frame in frames]).replace(
        forces=torch.from_numpy(np.concatenate([frame.forces for frame in frames], dtype=np.float64)),
        energy=torch.tensor([frame.energy for frame in frames], dtype=torch.float64),
        stress=torch.from_numpy(np.stack([voigt_6_to_full_3x3_stress(one) for one in stress], dtype=np.float64)),
    )
