"""LAMMPS's potentials as an ASE calculator, in this process and without files between."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from relaxrl.errors import CalculatorError
from relaxrl.potentials.lammps_box import LammpsBox
from relaxrl.potentials.lammps_engine import LammpsEngine, lammps_module
from relaxrl.potentials.lammps_files import read_lammps_file
from relaxrl.potentials.torch_potential import missing_elements
from relaxrl.typing import FloatArray


class LammpsCalculator(Calculator):
    """Energy, forces and stress by a pair style of LAMMPS.

    Pair style and elements come from the file. The instance is kept, and made anew only for elements that it has not.
    Any cell will do, left-handed ones and clusters too.

    Args:
        file: A potential file, or the name of one that LAMMPS ships, such as `Si.sw`.
        style: Its pair style, where name and header don't tell.
        elements: Its elements, where the file does not tell.
        library: The library of a MEAM file.

    Raises:
        CalculatorError: LAMMPS is not installed, or the file can't be found or read; on evaluation, LAMMPS fails, or
            the potential does not know an element.

    References:
        A. P. Thompson et al., Comput. Phys. Commun. 271, 108171 (2022), doi:10.1016/j.cpc.2021.108171.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "stress"]
    nolabel = True

    def __init__(
        self,
        file: str | Path,
        style: str | None = None,
        elements: Sequence[str] | None = None,
        library: str | None = None,
    ) -> None:
        self.file = read_lammps_file(file, style, elements, library)
        lammps_module()  # says at once what is missing
        self._engine: LammpsEngine | None = None
        self._last: tuple[FloatArray, LammpsBox] | None = None
        super().__init__()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_engine": None}

    def _get_name(self) -> str:
        return f"lammps:{self.file.path.name}"

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Run LAMMPS once and keep all it gives."""
        super().calculate(atoms, properties, system_changes)
        missing = set(map(int, self.atoms.numbers)) - self.file.elements
        if missing:
            raise CalculatorError(missing_elements(f"calculator {self._get_name()}", missing, self.file.elements))
        box = self._box_of(self.atoms)
        symbols = self.atoms.get_chemical_symbols()
        result = self._engine_for(symbols).run(box.cell, box.place(self.atoms.positions), symbols)
        if not (np.isfinite(result.energy) and np.isfinite(result.forces).all()):
            raise CalculatorError(
                f"{self._get_name()} failed for {self.atoms.symbols}: energy or forces are not finite; do atoms "
                "coincide?"
            )
        rotation = box.rotation
        self.results = {
            "energy": result.energy,
            "free_energy": result.energy,
            "forces": result.forces @ rotation.T,
        }
        if self.atoms.cell.rank == 3:
            stress = rotation @ result.stress @ rotation.T * (box.volume / self.atoms.get_volume())
            self.results["stress"] = full_3x3_to_voigt_6_stress(stress)
        elif "stress" in properties:
            raise PropertyNotImplementedError("the stress needs a cell with three vectors")

    def _box_of(self, atoms: Atoms) -> LammpsBox:
        """The box; that of the last structure where all directions are periodic and the cell is the same."""
        if not atoms.pbc.all():
            return LammpsBox.of(atoms)
        if self._last is None or not np.array_equal(self._last[0], atoms.cell.array):
            self._last = (atoms.cell.array.copy(), LammpsBox.of(atoms))
        return self._last[1]

    def _engine_for(self, symbols: Sequence[str]) -> LammpsEngine:
        """The instance, with all these elements."""
        needed = set(symbols)
        if self._engine is None or self._engine.closed or not needed <= set(self._engine.symbols):
            if self._engine is not None:
                self._engine.close()
            ordered = [symbol for symbol in self.file.names if symbol in needed]
            self._engine = LammpsEngine(ordered, self.file.commands(ordered))
        return self._engine
