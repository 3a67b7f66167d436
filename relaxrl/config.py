"""Typed configuration: frozen dataclasses, read from YAML, with errors that name the key, the file and a better spelling."""

from __future__ import annotations

from typing import TypeVar, dataclass_transform

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def configclass(cls: type[T]) -> type[T]:
    """Declare a configuration: a frozen keyword-only dataclass that checks its types and refuses unknown keys."""
    return dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))(cls)
