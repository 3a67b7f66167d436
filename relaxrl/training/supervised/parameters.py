"""Parameters by name: which are trained, and which a checkpoint brings."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from relaxrl.checkpoint import load_checkpoint
from relaxrl.errors import CheckpointError, ConfigError

KIND = "supervised"
"""Kind of the trainer's checkpoints."""

_AVERAGED = "module."
"""What torch's `AveragedModel` puts before the names of the parameters that it averages."""


def select_trained(model: nn.Module, words: Sequence[str] | None) -> list[nn.Parameter]:
    """Leave only those parameters trainable whose name contains one of some words, and return them.

    Args:
        model: Its other parameters get `requires_grad` = False. Those that are frozen already stay so.
        words: None for all.

    Raises:
        ConfigError: A word is in no name, or nothing is left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    for word in words or ():
        if not any(word in name for name in names):
            modules = sorted({".".join(name.split(".")[:depth]) for name in names for depth in (1, 2)})
            parts = sorted({part for name in names for part in name.split(".")})
            near = difflib.get_close_matches(word, parts, n=1)
            hint = f"did you mean `{near[0]}`? The" if near else "the"
            raise ConfigError(
                f"`finetune_modules`: {word!r} is in no parameter's name; {hint} modules are {', '.join(modules)}"
            )
    for name, parameter in model.named_parameters():
        if words is not None and not any(word in name for word in words):
            parameter.requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise ConfigError("no parameter is left to train: the model has none, or all of them are frozen")
    return trained


def load_parameters(model: nn.Module, path: str | Path) -> None:
    """Give a model the parameters of a trainer's checkpoint: the averaged ones, where there is an average.

    Args:
        model: Changed in place.
        path: `run_name_0.pt`, `run_name_last.pt`, ...

    Raises:
        CheckpointError: The file can't be read, or belongs to another architecture.
    """
    state = load_checkpoint(path, KIND)
    fill(model, exported(state), str(path))


def exported(state: Mapping[str, Mapping[str, Tensor] | None]) -> dict[str, Tensor]:
    """The parameters that a checkpoint stands for, by name."""
    average, plain = state["average"], state["model"]
    if average is None:
        return dict(plain or {})
    return {name.removeprefix(_AVERAGED): value for name, value in average.items() if name.startswith(_AVERAGED)}


def fill(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load tensors into a model of the same architecture.

    Raises:
        CheckpointError: A parameter is missing, unknown or of another shape; names it.
    """
    own = model.state_dict()
    for name, tensor in own.items():
        if name not in tensors:
            raise CheckpointError(f"{source}: belongs to another architecture: it has no parameter `{name}`")
        if tensors[name].shape != tensor.shape:
            raise CheckpointError(
                f"{source}: belongs to another architecture: parameter `{name}` has the shape "
                f"{tuple(tensors[name].shape)}, expected {tuple(tensor.shape)}"
            )
    for name in tensors:
        if name not in own:
            raise CheckpointError(
                f"{source}: belongs to another architecture: its parameter `{name}` is unknown to this model"
            )
    model.load_state_dict(dict(tensors))
