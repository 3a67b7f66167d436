"""What a relaxation looked like: the geometries of its force evaluations, small enough to keep for hundreds of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

UNIT = 1e-3
"""Å; displacements are kept as whole numbers of it. Nobody sees less, and they end at 33 Å, where all is lost."""
FRAMES = 60
"""Geometries kept of one run, evenly spread, the first and the last among them: what one can watch in ten seconds."""
ATOMS = 20_000
"""Positions kept of one run, which bounds the frames of large structures; two frames are always kept."""

Geometry = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Positions (n_atoms, 3) and cell (3, 3), Å."""


@dataclass(frozen=True, eq=False)
class Film:
    """Geometries of a run.

    Attributes:
        numbers: (n_atoms,), atomic numbers.
        pbc: (3,), in which directions the cell repeats.
        start: (n_atoms, 3), Å; positions of the first evaluation.
        moves: (n_frames, n_atoms, 3), displacements from the start in units of `UNIT`.
        cells: (n_frames, 3, 3), Å.
        evaluations: (n_frames,), which force evaluation each frame shows, counted from 1.
    """

    numbers: NDArray[np.uint8]
    pbc: NDArray[np.bool_]
    start: NDArray[np.float32]
    moves: NDArray[np.int16]
    cells: NDArray[np.float32]
    evaluations: NDArray[np.int32]

    @staticmethod
    def of(atoms: Atoms, geometries: Sequence[Geometry]) -> Film | None:
        """The film of a run; None if nothing was ever evaluated.

        Args:
            atoms: Numbers and periodicity.
            geometries: Of each force evaluation, in order.
        """
        if not geometries or not len(atoms):
            return None
        wanted = min(max(ATOMS // len(atoms), 2), FRAMES, len(geometries))
        chosen = np.unique(np.linspace(0, len(geometries) - 1, wanted).round().astype(np.int32))
        start = geometries[0][0]
        # What is not finite is nowhere to be seen; it stays where it was.
        moves = np.nan_to_num(np.stack([geometries[k][0] - start for k in chosen]) / UNIT, nan=0.0)
        limits = np.iinfo(np.int16)
        return Film(
            numbers=atoms.numbers.astype(np.uint8),
            pbc=np.array(atoms.pbc, dtype=bool),
            start=start.astype(np.float32),
            moves=moves.round().clip(limits.min, limits.max).astype(np.int16),
            cells=np.stack([geometries[k][1] for k in chosen]).astype(np.float32),
            evaluations=(chosen + 1).astype(np.int32),
        )

    def positions(self, frame: int) -> NDArray[np.float64]:
        """(n_atoms, 3), Å, of a frame, to within half of `UNIT`."""
        positions: NDArray[np.float64] = self.start.astype(np.float64) + UNIT * self.moves[frame]
        return positions
