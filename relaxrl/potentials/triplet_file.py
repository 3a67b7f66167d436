"""Files of three-body parameters, as LAMMPS reads them for Stillinger-Weber and Tersoff potentials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from ase.data import atomic_numbers, chemical_symbols
from torch import Tensor

from relaxrl.errors import CalculatorError

_MESSAGE_LIMIT = 3
"""Missing entries that an error lists."""


@dataclass(frozen=True)
class TripletParameters:
    """Parameters of all ordered triplets of some elements.

    Attributes:
        elements: Atomic numbers, n of them.
        values: (n³, n_parameters), float64; row (a n + b) n + c belongs to the centre a with neighbours b and c.
        names: What the columns are.
    """

    elements: tuple[int, ...]
    values: Tensor
    names: tuple[str, ...]

    def column(self, name: str) -> Tensor:
        """One parameter of all triplets, (n³,)."""
        return self.values[:, self.names.index(name)]

    def pairs(self) -> Tensor:
        """Rows of `values` that serve the pair (a, b), where c = b: (n²,), int64."""
        n = len(self.elements)
        centre, neighbour = torch.arange(n).repeat_interleave(n), torch.arange(n).repeat(n)
        return (centre * n + neighbour) * n + neighbour


def read_triplets(path: str | Path, names: Sequence[str], elements: Sequence[str] | None = None) -> TripletParameters:
    """The parameters in a file of entries `element1 element2 element3 value value ...`, over any number of lines.

    Args:
        path: The file; what follows a `#` is a comment.
        names: The values of an entry, in order.
        elements: Symbols to read entries of; all elements in the file if None.

    Raises:
        CalculatorError: The file is missing or malformed, or lacks an entry; says which.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise CalculatorError(f"can't read the parameter file {path}: {error.strerror}") from error
    entries = _entries(path, [word for line in lines for word in line.split("#")[0].split()], names)
    found = list(dict.fromkeys(symbol for triplet in entries for symbol in triplet if symbol in atomic_numbers))
    symbols = found if elements is None else list(elements)
    if not symbols:
        raise CalculatorError(f"{path}: expected entries of at least one element, got {len(entries)} of none")
    for symbol in symbols:
        if symbol not in found:
            raise CalculatorError(f"{path}: there are no entries of {symbol!r}; the file has {', '.join(found)}")
    triplets = [(a, b, c) for a in symbols for b in symbols for c in symbols]
    missing = [" ".join(triplet) for triplet in triplets if triplet not in entries]
    if missing:
        more = f" and {len(missing) - _MESSAGE_LIMIT} more" if len(missing) > _MESSAGE_LIMIT else ""
        raise CalculatorError(
            f"{path}: there is no entry for {', '.join(missing[:_MESSAGE_LIMIT])}{more}; "
            "choose elements with all entries: elements=['Si','C']"
        )
    values = torch.tensor([entries[triplet] for triplet in triplets], dtype=torch.float64)
    return TripletParameters(tuple(atomic_numbers[symbol] for symbol in symbols), values, tuple(names))


def triplet_name(parameters: TripletParameters, row: int) -> str:
    """The elements that a row of the parameters belongs to, such as `Si C C`."""
    n = len(parameters.elements)
    places = (row // n**2, row // n % n, row % n)
    return " ".join(chemical_symbols[parameters.elements[place]] for place in places)


def require(path: str | Path, parameters: TripletParameters, name: str, least: float) -> None:
    """Raise where a parameter is below `least`.

    Raises:
        CalculatorError: Names file, elements, parameter and value.
    """
    column = parameters.column(name)
    if bool((column < least).any()):
        row = int(column.argmin())
        where = triplet_name(parameters, row)
        raise CalculatorError(f"{path}: {name} of {where} must be at least {least:g}, got {float(column[row]):g}")


def _entries(path: Path, words: list[str], names: Sequence[str]) -> dict[tuple[str, str, str], list[float]]:
    size = 3 + len(names)
    if not words or len(words) % size:
        raise CalculatorError(
            f"{path}: expected entries of 3 elements and {len(names)} numbers ({', '.join(names)}), got {len(words)} "
            f"words, which is no multiple of {size}"
        )
    entries: dict[tuple[str, str, str], list[float]] = {}
    for first in range(0, len(words), size):
        a, b, c, *rest = words[first : first + size]
        values = [_number(path, f"{name} of {a} {b} {c}", word) for name, word in zip(names, rest, strict=True)]
        entries[(a, b, c)] = values
    return entries


def _number(path: Path, what: str, word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise CalculatorError(f"{path}: expected {what}, a finite number, got {word!r}")
    return value
