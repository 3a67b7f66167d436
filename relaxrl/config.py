"""Typed configuration: frozen dataclasses read from YAML, with errors that name key, file and the nearest spelling."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, dataclass_transform

import yaml
from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from relaxrl.errors import ConfigError

T = TypeVar("T")

_MISSING = ("missing", "missing_keyword_only_argument", "missing_argument", "union_tag_not_found")
"""Pydantic's names for a key that must be given; the last one for the key that tells the members of a union apart."""

_MAPPING = "a mapping of keys to values"

_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
"""Pydantic's names for a key that a class doesn't have."""


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,))
def configclass(cls: type[T]) -> type[T]:
    """Declare a configuration: a frozen keyword-only dataclass that checks its types and refuses unknown keys.

    Examples:
        >>> @configclass
        ... class Walk:
        ...     steps: int = 3
        >>> from_dict(Walk, {"steps": 5}).steps
        5
        >>> from_dict(Walk, {"stepz": 5})
        Traceback (most recent call last):
        relaxrl.errors.ConfigError: mapping: unknown key `stepz`; did you mean `steps`?
    """
    return cast("type[T]", dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))(cls))


def with_defaults(**defaults: Any) -> BeforeValidator:
    """For `Annotated`: what keys of a nested configuration are where this field has other defaults than its class.

    Without it, a file that sets one of the keys would lose the field's defaults of all others.

    Examples:
        ::

            run: Annotated[Run, with_defaults(updates=4000)] = field(default_factory=lambda: Run(updates=4000))
    """
    return BeforeValidator(lambda value: defaults | dict(value) if isinstance(value, Mapping) else value)


def load_config(cls: type[T], path: str | Path, overrides: Sequence[str] = ()) -> T:
    """Read a configuration from a YAML file.

    Args:
        cls: A class declared with `configclass`.
        path: The file: a mapping; keys that are left out keep their defaults.
        overrides: `key=value` each; nested keys with dots (`td3.gamma=0.9`), values in YAML. They win over the file.

    Raises:
        ConfigError: The file can't be read, or a key or a value in it or in an override is wrong.
    """
    return from_dict(cls, read_mapping(path), overrides=overrides, source=str(path))


def read_mapping(path: str | Path) -> dict[str, Any]:
    """The keys and values of a YAML file, unchecked; `ConfigError` if it can't be read or holds something else."""
    source = str(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: can't read the configuration: {_reason(error)}") from error
    raw = _parse_yaml(text, source)
    if raw is None:
        raise ConfigError(f"{source}: expected keys and values in YAML, got an empty file")
    if not isinstance(raw, dict):
        raise ConfigError(f"{source}: expected a mapping of keys to values, got {_describe(raw)}")
    return raw


def from_dict(cls: type[T], values: Mapping[str, Any], overrides: Sequence[str] = (), source: str = "mapping") -> T:
    """A configuration from nested mappings; `source` is what errors call them. Raises `ConfigError`."""
    raw = _copied(values)
    places = {}
    for override in overrides:
        key, value = _parse_override(override)
        _insert(raw, key, value, override)
        places[key] = override
    try:
        return TypeAdapter(cls).validate_python(raw)
    except ValidationError as error:
        items = [(*_locate(cls, item), item) for item in error.errors(include_url=False)]
        # A union without a key that tells its members apart reports those of the right one as unknown to the others.
        real = [found for found in items if found[2]["type"] not in _UNKNOWN or found[0][-1] not in found[1]]
        messages = [
            f"{_place(where, places, source)}: {_sentence(cls, where, known, item)}"
            for where, known, item in real or items
        ]
        raise ConfigError("\n".join(dict.fromkeys(messages))) from error


def to_dict(config: object) -> dict[str, Any]:
    """A configuration as nested plain mappings and lists, every default written out."""
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"expected a configuration declared with `configclass`, got {type(config).__name__}")
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def dump_config(config: object, path: str | Path) -> None:
    """Write a configuration, every default included, as YAML that `load_config` reads back to an equal one."""
    text = yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
    Path(path).write_text(text, encoding="utf-8")


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key given twice, which plain YAML lets pass in silence."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """The mapping as it is written, before `<<` has put other keys into it."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key `{key.value}` is given twice", key.start_mark
                    )
                seen.add(key.value)
        return node


def _parse_yaml(text: str, source: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{source}{line}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {error}") from error


def _parse_override(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise ConfigError(f"override `{override}`: expected `key=value`, for example `td3.gamma=0.9`")
    return key, _parse_yaml(text, f"override `{override}`")


def _insert(raw: dict[str, Any], key: str, value: Any, override: str) -> None:
    *parents, last = key.split(".")
    for depth, parent in enumerate(parents):
        below = raw.get(parent)
        if below is None:
            below = raw[parent] = {}
        if not isinstance(below, dict):
            above = ".".join(parents[: depth + 1])
            raise ConfigError(f"override `{override}`: `{above}` is {_describe(below)}, it has no keys below it")
        raw = below
    if isinstance(raw.get(last), dict) and isinstance(value, dict):
        raw[last].update(value)
    else:
        raw[last] = value


def _copied(value: Any) -> Any:
    return {key: _copied(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _locate(cls: type, item: Any) -> tuple[tuple[str, ...], list[str]]:
    """The user's keys in pydantic's location, which also names members of unions; and those known beside the last."""
    path: list[str] = []
    known: list[str] = []
    kind: str | None = None  # of the member that the user chose, in a union with a key for that
    for part in item["loc"]:
        if isinstance(part, int):
            path.append(str(part))
            continue
        owners = [owner for owner in _classes(_type_at(cls, path)) if kind is None or kind in _kinds(owner)]
        known = [field.name for owner in owners for field in dataclasses.fields(owner)]
        if part in known:
            path.append(part)
        elif kind is None and len(owners) > 1 and any(part in _kinds(owner) for owner in owners):
            kind = part
            continue
        elif part not in {owner.__name__ for owner in owners} and not _is_tag(part):
            path.append(part)
        else:
            continue
        kind = None
    if item["type"].startswith("union_tag"):
        path.append(item["ctx"]["discriminator"].strip("'"))
    return tuple(path), known


def _kinds(owner: type) -> set[str]:
    """What keys such as `kind: Literal["direct"]` must hold in this class: they tell the members of a union apart."""
    hints = [hint for hint in typing.get_type_hints(owner).values() if typing.get_origin(hint) is typing.Literal]
    return {str(typing.get_args(hint)[0]) for hint in hints if len(typing.get_args(hint)) == 1}


def _is_tag(part: str) -> bool:
    """Whether pydantic made this name (`int`, `constrained-str`, `literal[...]`) for a member of a union."""
    return "[" in part or "-" in part or part in {"int", "float", "str", "bool", "none", "tuple", "list", "dict"}


def _type_at(cls: Any, path: Sequence[str]) -> Any:
    """The annotation of the field at `path`; None where there is none."""
    current: Any = cls
    for name in path:
        hints = [typing.get_type_hints(owner) for owner in _classes(current)]
        found = [hint[name] for hint in hints if name in hint]
        if found:
            current = found[0]
        else:
            arguments = [item for item in typing.get_args(current) if item is not Ellipsis]
            current = arguments[-1] if arguments else None
    return current


def _classes(annotation: Any) -> Iterator[type]:
    """The configuration classes in an annotation, unions opened."""
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        yield annotation
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        for argument in typing.get_args(annotation):
            yield from _classes(argument)


def _place(where: tuple[str, ...], overrides: Mapping[str, str], source: str) -> str:
    """Where a wrong value came from: the file, an override, or both together."""
    for key, override in overrides.items():
        parts = tuple(key.split("."))
        if where[: len(parts)] == parts:
            return f"override `{override}`"
        if parts[: len(where)] == where:
            return f"{source} with override `{override}`"
    return source


def _sentence(cls: type, where: tuple[str, ...], known: Sequence[str], item: Any) -> str:
    """One error of pydantic's in the words of this package."""
    key, kind, got = ".".join(where), item["type"], item.get("input")
    if kind in _UNKNOWN:
        return f"unknown key `{key}`; {_suggestion(where, known)}"
    if kind in _MISSING:
        return f"key `{key}` is missing; give it a value"
    if kind in ("value_error", "assertion_error"):
        reason = str(item["ctx"]["error"])
        return f"in `{key}`: {reason}" if key else reason
    expected = item["msg"].removeprefix("Input should be ").partition(", unable to parse")[0]
    if kind in ("literal_error", "union_tag_invalid"):
        choices = [str(choice) for choice in typing.get_args(_type_at(cls, where))]
        if kind == "union_tag_invalid":
            expected, got = f"one of {item['ctx']['expected_tags']}", item["ctx"]["tag"]
            choices = expected.split("'")[1::2]
        near = difflib.get_close_matches(str(got), choices, n=1)
        hint = f"; did you mean `{near[0]}`?" if near else ""
        return f"`{key}` must be {expected}, got {_describe(got)}{hint}"
    expected = {"dataclass_type": _MAPPING, "model_attributes_type": _MAPPING, "tuple_type": "a list"}.get(
        kind, expected
    )
    name = f"`{key}`" if key else "the configuration"
    hint = _member(cls, where, got) if expected == _MAPPING else ""
    return f"{name} must be {expected}, got {_describe(got)}{hint}"


def _member(cls: type, where: tuple[str, ...], got: Any) -> str:
    """A hint for who gave the value of a key such as `kind` alone, in place of the mapping that holds it."""
    for owner in _classes(_type_at(cls, where)):
        for name, annotation in typing.get_type_hints(owner).items():
            choices = typing.get_args(annotation) if typing.get_origin(annotation) is typing.Literal else ()
            near = difflib.get_close_matches(str(got), [str(choice) for choice in choices], n=1)
            if near and isinstance(got, str):
                return f"; did you mean `{where[-1] if where else name}: {{{name}: {near[0]}}}`?"
    return ""


def _suggestion(where: tuple[str, ...], known: Sequence[str]) -> str:
    near = difflib.get_close_matches(where[-1], known, n=1, cutoff=0.5)
    if near:
        return f"did you mean `{'.'.join((*where[:-1], near[0]))}`?"
    above = f" of `{'.'.join(where[:-1])}`" if len(where) > 1 else ""
    return f"the keys{above} are {', '.join(f'`{name}`' for name in known)}"


def _describe(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
