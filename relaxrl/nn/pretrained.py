"""A trunk that was trained on energies and forces: saved, loaded, as an ASE calculator, and as an actor's beginning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from ase.data import atomic_numbers, chemical_symbols
from torch import Tensor

from relaxrl import __version__
from relaxrl.checkpoint import MODEL_FILE, load_model, save_model
from relaxrl.config import from_dict, to_dict
from relaxrl.errors import CalculatorError, CheckpointError, ConfigError
from relaxrl.nn.actor import Actor
from relaxrl.nn.trunk_energy import TrunkEnergyConfig, TrunkEnergyModel
from relaxrl.potentials import TorchCalculator

BEST = "best"
"""Folder of the potential in a run folder of `relaxrl pretrain`."""

_TRUNK = "trunk."
_INVARIANTS = "scalars.0.weight"
"""The trunk's parameter whose columns are an atom's element, and then the magnitudes of the input vectors."""


def save_pretrained(
    folder: str | Path, model: TrunkEnergyModel, elements: Iterable[int], metadata: Mapping[str, Any] | None = None
) -> None:
    """Write a potential as safetensors and JSON.

    Args:
        folder: Made if needed.
        model: With its calibration.
        elements: Atomic numbers that it was trained on; it refuses others.
        metadata: What is known of its origin, as JSON can hold it.
    """
    meta = {
        "energy_model": to_dict(model.config),
        "elements": [chemical_symbols[number] for number in sorted(elements)],
        "relaxrl": __version__,
        "metadata": dict(metadata or {}),
    }
    save_model(folder, model.state_dict(), meta)


def load_pretrained(folder: str | Path, dtype: torch.dtype | None = None) -> TrunkEnergyModel:
    """The potential in a folder, frozen, on the CPU; usable wherever a `TorchPotential` is.

    Args:
        folder: Written by `save_pretrained`, or the run folder of `relaxrl pretrain`.
        dtype: Of parameters and results; that of training if None. Energies of large cells, and searches along
            lines, want float64.

    Raises:
        CheckpointError: The folder holds no such potential, or a damaged one.
    """
    path = _model_folder(folder)
    tensors, meta = load_model(path)
    try:
        values, symbols = dict(meta["energy_model"]), [str(symbol) for symbol in meta["elements"]]
        elements = frozenset(atomic_numbers[symbol] for symbol in symbols)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a pretrained potential: missing or wrong entry {error} in {MODEL_FILE}"
        ) from error
    try:
        model = TrunkEnergyModel(from_dict(TrunkEnergyConfig, values, source=str(path)))
        model.load_state_dict(tensors)
    except (ConfigError, RuntimeError) as error:
        raise CheckpointError(f"{path}: the saved parameters don't fit their architecture: {error}") from error
    model.elements = elements
    return model.to(dtype).eval().requires_grad_(False)


def load_trunk(actor: Actor, folder: str | Path) -> None:
    """Give an actor the trunk of a pretrained potential; its heads keep their parameters.

    A trunk that reads forces or history besides keeps its parameters for those, and takes over all others.

    Args:
        actor: Changed in place.
        folder: Of the potential, or of the run that made it.

    Raises:
        CheckpointError: The folder holds no potential, or one whose trunk is of another architecture.
    """
    path = _model_folder(folder)
    tensors, _ = load_model(path)
    trunk = {name.removeprefix(_TRUNK): tensor for name, tensor in tensors.items() if name.startswith(_TRUNK)}
    fill_trunk(actor, trunk, str(path))


def fill_trunk(actor: Actor, given: Mapping[str, Tensor], source: str) -> None:
    """Give an actor the parameters of a trunk that has read positions alone; see `load_trunk`.

    Args:
        actor: Changed in place.
        given: By name, without the `trunk.` before it.
        source: What errors call where they are from.

    Raises:
        CheckpointError: The trunk is of another architecture; names the parameter.
    """
    own = actor.trunk.state_dict()
    vectors = actor.trunk.n_vectors > 0
    for name, tensor in own.items():
        # The pretrained trunk has no input vectors, hence no features of them.
        unread = vectors and name.startswith("directions.")
        if name not in given and not unread:
            raise CheckpointError(f"{source}: its trunk has no parameter `{_TRUNK}{name}`, which the actor's has")
        if unread:
            continue
        value = given[name]
        if vectors and name == _INVARIANTS and value.shape[0] == tensor.shape[0] and value.shape[1] < tensor.shape[1]:
            value = torch.cat([value.to(tensor), tensor[:, value.shape[1] :]], dim=1)
        if value.shape != tensor.shape:
            raise CheckpointError(
                f"{source}: its trunk is of another architecture: parameter `{_TRUNK}{name}` has the shape "
                f"{tuple(value.shape)}, the actor's {tuple(tensor.shape)}; give both the same `trunk` in their "
                "configurations"
            )
        own[name] = value
    for name in given:
        if name not in own:
            raise CheckpointError(
                f"{source}: its trunk is of another architecture: the actor has no parameter `{_TRUNK}{name}`; give "
                "both the same `trunk` in their configurations"
            )
    actor.trunk.load_state_dict(own)


class PretrainedCalculator(TorchCalculator):
    """A pretrained potential as an ASE calculator: `relaxrl.nn:PretrainedCalculator,folder=runs/pretrain`.

    Args:
        folder: Of the potential, or of the run that made it.
        dtype: `float64` or `float32`.
        device: Where it computes.

    Raises:
        CalculatorError: There is no such precision.
        CheckpointError: The folder can't be used.
    """

    def __init__(self, folder: str, dtype: str = "float64", device: str = "cpu") -> None:
        precisions = {"float64": torch.float64, "float32": torch.float32}
        if dtype not in precisions:
            raise CalculatorError(f"`dtype` must be float64 or float32, got {dtype!r}")
        super().__init__(load_pretrained(folder, precisions[dtype]).to(device))


def _model_folder(folder: str | Path) -> Path:
    path = Path(folder)
    for place in (path, path / BEST):
        if (place / MODEL_FILE).is_file():
            return place
    raise CheckpointError(
        f"{path}: expected a pretrained potential ({MODEL_FILE}) or a run of `relaxrl pretrain` ({BEST}/{MODEL_FILE}), "
        "found neither; a run has one when it ends, or is interrupted after its first epoch"
    )
