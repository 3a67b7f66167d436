"""The optimizers that `optimizer` names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Adam, AdamW, NAdam, RAdam

from relaxrl.errors import ConfigError
from relaxrl.training.supervised.names import keyword_arguments, parameters_of

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "Adam": Adam,
    "AdamW": AdamW,
    "NAdam": NAdam,
    "RAdam": RAdam,
}


def check_optimizer_kwargs(name: str, kwargs: Mapping[str, Any]) -> None:
    """Refuse keyword arguments, and values of them, that the optimizer doesn't take.

    Raises:
        ValueError: Names the key.
    """
    known = [key for key in parameters_of(OPTIMIZERS[name]) if key not in ("params", "lr")]
    keyword_arguments("optimizer_kwargs", kwargs, known, {"lr": "max_lr"})
    build_optimizer(name, [nn.Parameter(torch.zeros(1))], 1.0, kwargs)


def build_optimizer(
    name: str, parameters: Iterable[nn.Parameter], rate: float, kwargs: Mapping[str, Any]
) -> torch.optim.Optimizer:
    """An optimizer of some parameters.

    Args:
        name: One of `OPTIMIZERS`.
        parameters: What it moves.
        rate: Learning rate.
        kwargs: Passed on; lists, which is what files have, as tuples.

    Raises:
        ConfigError: It refuses a value; names the key.
    """
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in kwargs.items()}
    try:
        return OPTIMIZERS[name](parameters, lr=rate, **given)
    except (TypeError, ValueError, IndexError) as error:
        keys = ", ".join(f"`optimizer_kwargs.{key}` = {value!r}" for key, value in given.items())
        raise ConfigError(f"{name} takes no such value among {keys}: {error}") from error
