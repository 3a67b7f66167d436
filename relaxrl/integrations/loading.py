"""Agents of other libraries by name: `sb3:PATH` and `policy:package.module:name`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from torch import Tensor

from relaxrl.errors import ConfigError, RelaxRLError
from relaxrl.graph import AtomGraph
from relaxrl.potentials.arguments import nearest, split_arguments

SB3, POLICY = "sb3:", "policy:"


class ForeignPolicy(Protocol):
    """What all of them are made into."""

    def act(self, graph: AtomGraph) -> Tensor:
        """Displacements (n_atoms, 3), Å."""


def is_foreign(name: str) -> bool:
    """Whether a name is that of another library's agent."""
    return name.startswith((SB3, POLICY))


def load_foreign(name: str) -> ForeignPolicy:
    """The agent of this name.

    Args:
        name: `sb3:PATH`, what `relaxrl.integrations.sb3.load_sb3` reads; or `policy:package.module:name`, or
            `policy:FILE.py:name`, of a function or class that returns an `ObservationPolicy` or anything else with
            `act(graph)`. Both may go on with keyword arguments: `sb3:runs/td3,max_step=0.3`.

    Raises:
        ConfigError: It can't be imported, its library is not installed, or arguments are missing or unknown.
        CheckpointError: Its files can't be used.
    """
    if name.startswith(SB3):
        return _sb3(name)
    target, arguments = split_arguments(name.removeprefix(POLICY))
    place, _, attribute = target.rpartition(":")
    if not place:
        raise ConfigError(f"{name}: expected policy:package.module:name or policy:FILE.py:name")
    module = _module(place, name)
    if not hasattr(module, attribute):
        known = [key for key in vars(module) if not key.startswith("_")]
        raise ConfigError(f"{name}: {place} has no {attribute!r}{nearest(attribute, known)}")
    made = _called(getattr(module, attribute), arguments, name)
    if not callable(getattr(made, "act", None)):
        raise ConfigError(
            f"{name}: expected something with act(graph), got {type(made).__name__}; return "
            "relaxrl.integrations.ObservationPolicy(function, n_max=..., max_step=...)"
        )
    policy: ForeignPolicy = made
    return policy


def _sb3(name: str) -> ForeignPolicy:
    try:
        import stable_baselines3  # noqa: F401 - is it there?
    except ImportError as error:
        raise ConfigError(
            f"{name}: agents of Stable-Baselines3 need that library: pip install 'relaxrl[sb3]' ({error})"
        ) from error
    from relaxrl.integrations.sb3 import load_sb3

    path, arguments = split_arguments(name.removeprefix(SB3))
    policy: ForeignPolicy = _called(load_sb3, {"path": path, **arguments}, name)
    return policy


def _called(make: Any, arguments: dict[str, Any], name: str) -> Any:
    _check_names(make, arguments, name)
    try:
        return make(**arguments)
    except RelaxRLError:
        raise
    except Exception as error:  # making a policy runs foreign code: anything may come
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items()) or "no arguments"
        raise ConfigError(f"{name}: can't be made with {given}: {type(error).__name__}: {error}") from error


def _check_names(make: Any, arguments: dict[str, Any], name: str) -> None:
    """Refuse arguments that there are not, and say which there are."""
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):  # what is not written in Python does not say
        return
    known = [each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return
    for given in arguments:
        if given not in known:
            offered = ", ".join(each for each in known if each != "path") or "none"
            raise ConfigError(
                f"{name}: there is no argument {given!r}{nearest(given, known)}; those after the name may be: {offered}"
            )


def _module(place: str, name: str) -> ModuleType:
    """The module at an import path or in a file."""
    try:
        if not place.endswith(".py"):
            if str(Path.cwd()) not in sys.path:
                sys.path.append(str(Path.cwd()))  # the `relaxrl` command would not see a module that lies where it is
            return importlib.import_module(place)
        file = Path(place).resolve()
        if not file.is_file():
            raise FileNotFoundError(f"there is no file {place}")
        if str(file.parent) not in sys.path:
            sys.path.append(str(file.parent))  # a script finds what lies beside it
        return importlib.import_module(file.stem)
    except Exception as error:  # importing runs foreign code: anything may come
        raise ConfigError(f"{name}: can't import {place}: {type(error).__name__}: {error}") from error
