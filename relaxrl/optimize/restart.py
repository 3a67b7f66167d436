"""Restart files: everything an interrupted relaxation needs to go on to the last bit, as NumPy arrays."""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from relaxrl.errors import CheckpointError
from relaxrl.typing import StateDict

FORMAT = "relaxrl-relaxation"
VERSION = 1


def write_state(path: Path, state: StateDict) -> None:
    """Write the state so that the file is at all times either the old or the new one, never a part.

    Args:
        path: The file.
        state: Arrays, numbers and strings; nested dicts of them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, allow_pickle=False, **_flat({"format": FORMAT, "version": VERSION, **state}))
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_state(path: Path) -> StateDict:
    """The state in a file made by `write_state`; numbers come back as arrays without dimensions.

    Raises:
        CheckpointError: The file is truncated, foreign, or of a newer version.
    """
    advice = "delete it or name another restart file to start afresh"
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            flat = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise CheckpointError(f"{path}: expected a restart file of a relaxation, got {error}; {advice}") from error
    if str(flat.pop("format", "")) != FORMAT:
        raise CheckpointError(f"{path}: not a restart file of a relaxation; {advice}")
    version = int(flat.pop("version"))
    if version > VERSION:
        raise CheckpointError(f"{path}: written by a newer relaxrl (version {version}, here {VERSION}); {advice}")
    state: StateDict = {}
    for name, value in flat.items():
        *parents, last = name.split(".")
        level = state
        for parent in parents:
            level = level.setdefault(parent, {})
        level[last] = value
    return state


def _flat(state: StateDict, prefix: str = "") -> dict[str, np.ndarray]:
    flat: dict[str, np.ndarray] = {}
    for name, value in state.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = np.asarray(value)
    return flat
