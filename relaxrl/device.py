"""Where tensors live, by name."""

from __future__ import annotations

import torch

from relaxrl.errors import ConfigError


def torch_device(name: str, key: str) -> torch.device:
    """The device of this name, if this machine has it.

    Args:
        name: `cpu`, `cuda`, `cuda:1` and the like.
        key: What asks for it, for the error.

    Raises:
        ConfigError: There is no such device, or none that this build of torch can use.

    Examples:
        >>> torch_device("cpu", "run.device")
        device(type='cpu')
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"`{key}` must be `cpu`, `cuda` or `cuda:NUMBER`, got `{name}`") from error
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        build = "is built without CUDA" if torch.version.cuda is None else "finds no CUDA device"
        raise ConfigError(
            f"`{key}` is `{name}`, but torch {torch.__version__} {build}; use `cpu`, or install a CUDA build"
        )
    count = torch.cuda.device_count()
    if (device.index or 0) >= count:
        raise ConfigError(f"`{key}` is `{name}`, but the last of this machine's CUDA devices is number {count - 1}")
    return device
