"""Names that users may write in any case and with aliases, and the keyword arguments of library classes in files."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pydantic import BeforeValidator


def one_of(*names: str, aliases: Mapping[str, str] | None = None, optional: bool = False) -> BeforeValidator:
    """For `Annotated`: the canonical spelling of a name, whatever its case.

    Args:
        *names: Canonical spellings.
        aliases: Other spellings, lower case, and what they mean.
        optional: Whether null (or `none`) is one of the choices.

    Examples:
        >>> from pydantic import TypeAdapter
        >>> from typing import Annotated
        >>> TypeAdapter(Annotated[str, one_of("AdamW", aliases={"adam_w": "AdamW"})]).validate_python("ADAM_W")
        'AdamW'
    """
    spellings = {name.lower(): name for name in names} | dict(aliases or {})

    def canonical(value: Any) -> Any:
        if optional and (value is None or str(value).lower() in ("none", "null")):
            return None
        if isinstance(value, str) and value.lower() in spellings:
            return spellings[value.lower()]
        known = [*names, *(aliases or {})]
        near = difflib.get_close_matches(str(value).lower(), spellings, n=1, cutoff=0.5)
        hint = f"; did you mean `{spellings[near[0]] if near[0] not in (aliases or {}) else near[0]}`?" if near else ""
        choices = ", ".join([*(["null"] if optional else []), *known])
        raise ValueError(f"expected one of {choices}, got {value!r}{hint}")

    return BeforeValidator(canonical)


def keyword_arguments(key: str, given: Mapping[str, Any], known: Collection[str], owned: Mapping[str, str]) -> None:
    """Refuse keyword arguments that a class doesn't take.

    Args:
        key: Where they stand in the file.
        given: By name.
        known: Names that it takes.
        owned: Names that another key decides, and which key that is.

    Raises:
        ValueError: Names the argument and the nearest one.
    """
    for name in given:
        if name in owned:
            raise ValueError(f"`{key}.{name}`: leave it out; the key `{owned[name]}` decides it")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean `{key}.{near[0]}`?" if near else f"the keys of `{key}` are {', '.join(sorted(known))}"
            raise ValueError(f"unknown key `{key}.{name}`; {hint}")


def parameters_of(function: Callable[..., Any]) -> list[str]:
    """Names of a function's or a constructor's arguments."""
    return [name for name in inspect.signature(function).parameters if name != "self"]


def _numbers(value: Any) -> Any:
    """YAML 1.1 takes `1e-2` for text; where anything may stand, no field's type turns it into a number."""
    if isinstance(value, Mapping):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_numbers(item) for item in value]
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


with_numbers = BeforeValidator(_numbers)
"""For `Annotated`: text that is a number becomes one, at any depth."""
