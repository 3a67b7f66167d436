"""What a relaxation evaluated, kept for those who learn from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress

from relaxrl.potentials import CountedCalculator
from relaxrl.typing import FloatArray


@dataclass(frozen=True)
class Evaluated:
    """One geometry that a calculator evaluated.

    Attributes:
        positions: (n_atoms, 3), Å, not wrapped.
        cell: (3, 3), Å.
        energy: eV.
        forces: (n_atoms, 3), eV/Å, before constraints.
        stress: (6,), Voigt, eV/Å³; None where it was not asked for.
    """

    positions: FloatArray
    cell: FloatArray
    energy: float
    forces: FloatArray
    stress: FloatArray | None = None


class RecordingCalculator(CountedCalculator):
    """A counted calculator that keeps what it evaluated.

    Args:
        calculator: Any ASE calculator.
        structure: What error messages call the structure.
        record: Whether it keeps anything; without, it only counts.

    Attributes:
        path: What was evaluated, each geometry once, in that order.
    """

    def __init__(self, calculator: Any, structure: str | None = None, record: bool = True) -> None:
        super().__init__(calculator, structure=structure)
        self.record = record
        self.path: list[Evaluated] = []

    def _record(self, atoms: Atoms | None) -> None:
        super()._record(atoms)
        if not self.record:
            return
        here, results = self.calculator.atoms if atoms is None else atoms, self.calculator.results
        if here is None or "forces" not in results or "energy" not in results:
            return
        stress = results.get("stress")
        if stress is not None:
            stress = np.array(stress, dtype=np.float64)
            stress = full_3x3_to_voigt_6_stress(stress) if stress.shape == (3, 3) else stress
        new = Evaluated(
            here.positions.copy(),
            here.cell.array.copy(),
            float(results["energy"]),
            np.array(results["forces"], dtype=np.float64),
            stress,
        )
        last = self.path[-1] if self.path else None
        # The same geometry again, for a property that was not asked for before.
        if last is not None and np.array_equal(last.positions, new.positions) and np.array_equal(last.cell, new.cell):
            self.path.pop()
        self.path.append(new)
