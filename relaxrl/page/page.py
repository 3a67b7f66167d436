"""A page from a template, data and scripts."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from relaxrl.checkpoint import write_atomically

_HERE = Path(__file__).parent
_VENDOR = _HERE / "vendor"

VIEWER = ("3Dmol-2.5.5.min.js", "3Dmol-2.5.5.LICENSE.txt")
"""3Dmol.js and its licence, unchanged from the npm package `3dmol`: BSD-3-Clause, half a megabyte. A copy goes into
each page that shows structures, since a page must open without a network and years later."""

_FORBIDDEN = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026", 0x2028: "\\u2028", 0x2029: "\\u2029"}
"""What could end a script element, or a line in one, as JSON's own escapes."""


def write_page(
    path: Path,
    template: str,
    context: Mapping[str, Any],
    data: Mapping[str, Any],
    scripts: Sequence[str],
    library: tuple[str, str] | None = None,
) -> None:
    """Write a page.

    Args:
        path: Of the page, `.html`.
        template: Name of a file in `templates`; text in it is escaped.
        context: What the template names.
        data: What the scripts read: the JSON in the element `#data`.
        scripts: Names of files in `assets`, in the order to be run.
        library: Script and licence in `vendor`, run first.
    """
    page = _environment().get_template(template)
    text = page.render(
        **context,
        style=Markup(_asset("page.css")),
        scripts=[Markup(_asset(name)) for name in scripts],
        library=None if library is None else Markup(_vendored(library[0])),
        licence=None if library is None else _vendored(library[1]),
        data=Markup(data_json(data)),
    )
    write_atomically(path, text.encode())


def data_json(data: Any) -> str:
    r"""JSON that may stand in a script element, whatever its strings say; numbers that are not finite are null.

    Examples:
        >>> data_json({"name": "</script>", "fmax": float("nan")})
        '{"name":"\\u003c/script\\u003e","fmax":null}'
    """
    text = json.dumps(_plain(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(_FORBIDDEN)


def rounded(values: Iterable[float], digits: int = 4) -> list[float | None]:
    """Numbers to so many significant digits, which is what a curve can show; None where they are not finite."""
    return [float(f"{value:.{digits}g}") if math.isfinite(value) else None for value in values]


def _plain(value: Any) -> Any:
    """As JSON knows it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = _with_code
    environment.filters["breakable"] = _breakable
    return environment


def _breakable(name: str) -> Markup:
    """A name escaped, that may be broken where its words meet: `BFGSLineSearch`, `agent:metals`, `same/lower`."""
    parts = re.split(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[:/_])", name)
    return Markup("<wbr>").join(parts)


def _with_code(text: str) -> Markup:
    """Escaped text whose `words in backticks` look like code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


@cache
def _asset(name: str) -> str:
    return (_HERE / "assets" / name).read_text(encoding="utf-8")


@cache
def _vendored(name: str) -> str:
    return (_VENDOR / name).read_text(encoding="utf-8")
