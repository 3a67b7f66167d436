"""Files that survive a kill: models that anyone may load safely, and checkpoints that continue a run bit for bit."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as serialize_tensors
from torch import Tensor

from relaxrl.errors import CheckpointError
from relaxrl.typing import StateDict

MODEL_FILE = "model.json"
"""Names the tensor file beside it; replacing this one file is what makes saving a model atomic."""

MODEL_FORMAT, MODEL_VERSION = "relaxrl-model", 1
CHECKPOINT_FORMAT = "relaxrl-checkpoint"

VERSIONS: dict[str, int] = {}
"""The version that `save_checkpoint` writes, by kind of checkpoint; 1 for kinds that are not here."""

UPGRADES: dict[tuple[str, int], Callable[[StateDict], StateDict]] = {}
"""How to make a state of version n + 1 from one of version n, by (kind, n)."""

_ARRAY = "__numpy__"


def save_model(folder: str | Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Save named tensors and a description; a reader sees the old model or the new one, never half of each.

    Args:
        folder: Made if needed. Gets `model.json` and a tensor file (safetensors) named by its content's hash.
        tensors: Any shapes and types; moved to the CPU.
        meta: What JSON can hold.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = serialize_tensors({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
    digest = hashlib.sha256(content).hexdigest()
    name = f"weights-{digest[:12]}.safetensors"
    write_atomically(folder / name, content)
    header = {"format": MODEL_FORMAT, "version": MODEL_VERSION, "tensors": name, "sha256": digest, "meta": dict(meta)}
    write_atomically(folder / MODEL_FILE, (json.dumps(header, indent=2, allow_nan=False) + "\n").encode())
    for stale in folder.glob("weights-*.safetensors"):
        if stale.name != name:
            stale.unlink()


def load_model(folder: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (CPU) and the description that `save_model` wrote; never runs code from the files.

    Raises:
        CheckpointError: The folder holds no model, a damaged one, or one of a newer relaxrl.
    """
    path = Path(folder) / MODEL_FILE
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: can't read the model: {error.strerror}; expected a saved agent here") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged or foreign file, not JSON: {error}") from error
    if not isinstance(header, dict) or header.get("format") != MODEL_FORMAT:
        raise CheckpointError(f"{path}: foreign file: expected a JSON mapping with `format` = {MODEL_FORMAT!r}")
    _refuse_newer(path, header.get("version"), MODEL_VERSION)
    try:
        name, digest, meta = str(header["tensors"]), header["sha256"], dict(header["meta"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged file: missing or wrong entry {error}") from error
    weights = path.parent / Path(name).name
    try:
        content = weights.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{weights}: can't read the model's tensors: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise CheckpointError(f"{weights}: truncated or damaged: its hash is not the one in {MODEL_FILE}")
    try:
        return parse_tensors(content), meta
    except SafetensorError as error:
        raise CheckpointError(f"{weights}: damaged tensor file: {error}") from error


def save_checkpoint(path: str | Path, kind: str, state: StateDict) -> None:
    """Save all that a run needs to go on; a kill in the middle leaves the previous file whole.

    Args:
        path: The file.
        kind: What the state belongs to, for example `training`; asked for again when loading.
        state: Tensors, NumPy arrays, numbers, strings, lists, tuples and dicts of them.
    """
    buffer = io.BytesIO()
    version = VERSIONS.get(kind, 1)
    torch.save({"format": CHECKPOINT_FORMAT, "kind": kind, "version": version, "state": _encode(state)}, buffer)
    write_atomically(Path(path), buffer.getvalue())


def load_checkpoint(path: str | Path, kind: str) -> StateDict:
    """The state that `save_checkpoint` wrote, upgraded to today's version; never runs code from the file.

    Raises:
        CheckpointError: The file is missing, truncated, foreign, of another kind or of a newer relaxrl.
    """
    path = Path(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: can't read the checkpoint: {error.strerror or error}") from error
    except Exception as error:  # torch raises half a dozen unrelated types for files that it can't parse
        raise CheckpointError(f"{path}: truncated or foreign file, not a checkpoint of relaxrl") from error
    if not isinstance(content, dict) or content.get("format") != CHECKPOINT_FORMAT:
        raise CheckpointError(f"{path}: a foreign torch file, not a checkpoint of relaxrl")
    if content.get("kind") != kind:
        raise CheckpointError(f"{path}: expected a checkpoint of kind {kind!r}, got {content.get('kind')!r}")
    current = VERSIONS.get(kind, 1)
    version = _refuse_newer(path, content.get("version"), current)
    state: StateDict = _decode(content["state"])
    for old in range(version, current):
        state = UPGRADES[kind, old](state)
    return state


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or whoever comes after a crash, sees the old content or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp's 0600 would hide the file from the user's group
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _refuse_newer(path: Path, version: Any, current: int) -> int:
    if not isinstance(version, int) or version < 1:
        raise CheckpointError(f"{path}: damaged file: expected a version number, got {version!r}")
    if version > current:
        raise CheckpointError(
            f"{path}: written by a newer relaxrl (format {version}, this one knows up to {current}); update relaxrl"
        )
    return version


def _encode(value: Any) -> Any:
    """Arrays as tensors, since torch's safe loader knows no NumPy."""
    if isinstance(value, np.ndarray):
        return {_ARRAY: torch.from_numpy(np.array(value))}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_encode(item) for item in value)
    return value.detach().cpu() if isinstance(value, Tensor) else value


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_ARRAY}:
            return value[_ARRAY].numpy()
        return {key: _decode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_decode(item) for item in value)
    return value
