"""Arguments written as text; misspelt names, and keyword arguments that a calculator would swallow in silence."""

from __future__ import annotations

import ast
import difflib
import inspect
import re
import warnings
from collections.abc import Callable, Collection, Iterable
from typing import Any

from ase.calculators.calculator import Calculator, FileIOCalculator
from ase.calculators.genericfileio import GenericFileIOCalculator

_LIKENESS, _LIKENESS_SHORT, _SHORT = 0.75, 0.6, 4
"""How like a known name a word must be (`difflib`), that it is taken for a slip; one slip in three letters is a lot."""


_ARGUMENT = re.compile(r",\s*(?=[A-Za-z_]\w*\s*=)")
"""The commas between arguments; those inside a list or a tuple have no `key=` after them."""
_CONSTANTS = {"true": True, "false": False, "none": None}


def split_arguments(text: str) -> tuple[str, dict[str, Any]]:
    """What is named, and its keyword arguments: Python literals, and text where they are none.

    Examples:
        >>> split_arguments("lj,sigma=3.4,smooth=true")
        ('lj', {'sigma': 3.4, 'smooth': True})
    """
    target, *given = (part.strip() for part in _ARGUMENT.split(text.strip()))
    return target, dict(map(_key_and_value, given))


def nearest(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'NAME'?)` where the word is a slip for a known name, in whatever case; else nothing.

    Slips rarely hit the first letter: another one makes another word.

    Examples:
        >>> nearest("EMTT", ["emt", "lj"]), nearest("mace", ["ace"])
        (" (did you mean 'emt'?)", '')
    """
    alike = {name.lower(): name for name in known if name[:1].lower() == word[:1].lower()}
    cutoff = _LIKENESS_SHORT if len(word) < _SHORT else _LIKENESS
    close = difflib.get_close_matches(word.lower(), alike, n=1, cutoff=cutoff)
    return f" (did you mean {alike[close[0]]!r}?)" if close else ""


def warn_of_unknown_arguments(factory: Callable[..., Any], given: Collection[str], name: str) -> None:
    """Warn of arguments that `factory` takes only because it takes any: a misspelt one would change nothing.

    ASE's calculators do so and say in `default_parameters` which they know. Those that hand their arguments to an
    external program, and functions, may know what they don't name: there, only slips for a named argument are told.

    Args:
        factory: Class or function that makes a calculator.
        given: Names of the arguments.
        name: What the warning calls it.
    """
    known, takes_any = _arguments_of(factory)
    if not takes_any:
        return
    complete = isinstance(factory, type) and _says_what_it_knows(factory)
    for key in given:
        hint = nearest(key, known)
        if key not in known and (complete or hint):
            says = ", ".join(sorted(known - _arguments_of(Calculator)[0])) or "none of its own"
            warnings.warn(
                f"calculator `{name}` names no argument {key!r}{hint} and may ignore it; it names {says}", stacklevel=3
            )


def _says_what_it_knows(cls: Any) -> bool:
    runs_a_program = issubclass(cls, FileIOCalculator | GenericFileIOCalculator)
    return issubclass(cls, Calculator) and not runs_a_program and bool(cls.default_parameters)


def _arguments_of(factory: Callable[..., Any]) -> tuple[set[str], bool]:
    """Names of the arguments that a class or function declares, and whether it takes others as well."""
    classes = factory.__mro__ if isinstance(factory, type) else ()
    makers = [vars(cls)["__init__"] for cls in classes if "__init__" in vars(cls)]
    known: set[str] = set(getattr(factory, "default_parameters", None) or ())
    takes_any = False
    for number, maker in enumerate(makers or [factory]):
        try:
            parameters = list(inspect.signature(maker).parameters.values())
        except (TypeError, ValueError):  # written in C
            return known, False
        known |= {one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
        any_here = any(one.kind is one.VAR_KEYWORD for one in parameters)
        takes_any |= any_here and number == 0
        if not any_here:
            break  # nothing is handed on to the classes above
    return known - {"self"}, takes_any


def _key_and_value(text: str) -> tuple[str, Any]:
    key, _, value = (part.strip() for part in text.partition("="))
    if value.lower() in _CONSTANTS:
        return key, _CONSTANTS[value.lower()]
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value
