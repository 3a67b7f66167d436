"""The reference of configuration files, from the typed classes that check them."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any

from relaxrl.structures import SetRecipe
from relaxrl.training import CloningConfig, ConstraintsConfig, PretrainConfig, SurrogateConfig, TrainConfig

ROOTS: dict[str, type] = {
    "`method: td3`": TrainConfig,
    "`method: cloning`": CloningConfig,
    "`method: constraints`": ConstraintsConfig,
    "`method: surrogate`": SurrogateConfig,
    "`relaxrl pretrain`": PretrainConfig,
    "`relaxrl structures make`": SetRecipe,
}
"""What a file as a whole can be, and what it is called in headings."""

_PLAIN_TYPES: dict[Any, str] = {str: "text", int: "integer", float: "number", bool: "true or false"}

INTRODUCTION = """# Configuration

Every key of every configuration file, made from the classes that check it. A file gives what it wants to be other than
the default, and any key can be set on the command line with dots, `relaxrl train FILE td3.gamma=0.9`. A wrong key or
value is an error that names file, key and the nearest valid spelling. A key whose type is a link has keys of its own.
"""


def configuration_page() -> str:
    """One table per class: the kinds of files first, then the sections in the order of their first use."""
    parts = [INTRODUCTION, "## Files\n"]
    for title, cls in ROOTS.items():
        parts += [f"### {title}\n", _table(cls)]
    parts.append("## Sections\n")
    seen: set[type] = set(ROOTS.values())
    waiting = [cls for root in ROOTS.values() for cls in _nested(root)]
    while waiting:
        cls = waiting.pop(0)
        if cls not in seen:
            seen.add(cls)
            waiting += _nested(cls)
            parts += [f"### {cls.__name__}\n", _summary(cls) + "\n", _table(cls)]
    return "\n".join(parts)


def _table(cls: type) -> str:
    meanings = dict(_meanings(cls))
    hints = typing.get_type_hints(cls)
    rows = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for field in dataclasses.fields(cls):
        cells = (f"`{field.name}`", _type(hints[field.name]), _default(field), meanings.get(field.name, ""))
        rows.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _meanings(cls: type) -> Iterator[tuple[str, str]]:
    """The strings below the fields, those of parents too; a child's win."""
    for ancestor in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(ancestor):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(ancestor))).body[0].body
        for field, below in itertools.pairwise(body):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    yield name, inspect.cleandoc(text)


def _summary(cls: type) -> str:
    return (cls.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")


def _nested(cls: type) -> list[type]:
    return [part for hint in typing.get_type_hints(cls).values() for part in _classes(hint)]


def _classes(hint: Any) -> list[type]:
    if dataclasses.is_dataclass(hint):
        return [hint]
    return [cls for inner in typing.get_args(hint) for cls in _classes(inner)]


def _type(hint: Any) -> str:
    """A type as a reader of YAML would say it."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    if hint is type(None):
        return "null"
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(part) for part in inner)
    if origin is typing.Annotated:
        return _type(inner[0])
    if origin in (tuple, list, Sequence):
        kinds = list(dict.fromkeys(_type(part) for part in inner if part is not Ellipsis))
        length = f"{len(inner)} times " if origin is tuple and Ellipsis not in inner else ""
        return f"list of {length}{' or '.join(kinds)}"
    if origin is not None and inner:
        return f"mapping of {' to '.join(_type(part) for part in inner)}"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " or ".join(f"`{member.value}`" for member in hint)
    return _PLAIN_TYPES.get(hint, getattr(hint, "__name__", str(hint)))


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "**required**"
    return _value(value)


def _value(value: Any) -> str:
    """A default in YAML; of a section only what differs from the section's own defaults."""
    if dataclasses.is_dataclass(value):
        own = [f for f in dataclasses.fields(value) if getattr(value, f.name) != _own_default(f)]
        return "`{" + ", ".join(f"{f.name}: {_plain(getattr(value, f.name))}" for f in own) + "}`" if own else "`{}`"
    return f"`{_plain(value)}`"


def _own_default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _plain(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_plain(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_plain(item)}" for key, item in value.items()) + "}"
    if dataclasses.is_dataclass(value):
        return _value(value).strip("`")
    return str(value.value if isinstance(value, Enum) else value)
