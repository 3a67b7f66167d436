"""Files of embedded-atom tables, as LAMMPS and ASE read them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from ase.units import Bohr, Hartree

from relaxrl.errors import CalculatorError
from relaxrl.typing import FloatArray

FORMS = ("alloy", "fs", "eam")
_COMMENT_LINES = {"alloy": 3, "fs": 3, "eam": 1}
_FEWEST_POINTS = 5
"""Points of a table that both kinds of interpolation need."""


@dataclass(frozen=True)
class EAMTables:
    """What an EAM file holds.

    Attributes:
        elements: Atomic numbers, n of them.
        embedding: (n, n_rho), eV, at densities 0, `rho_spacing`, ...
        density: (n, n, n_r); `density[a, b]` is what an atom of element a brings to one of element b.
        r_times_pair: (n, n, n_r), eV Å; symmetric.
        rho_spacing: In the file's units of density.
        r_spacing: Å.
        cutoff: Å.
    """

    elements: tuple[int, ...]
    embedding: FloatArray
    density: FloatArray
    r_times_pair: FloatArray
    rho_spacing: float
    r_spacing: float
    cutoff: float


def read_eam(path: str | Path, form: str | None = None) -> EAMTables:
    """The tables of a file.

    Args:
        path: The file.
        form: `alloy` (setfl), `fs` (Finnis-Sinclair setfl) or `eam` (funcfl, one element); by the file's last suffix if
            None.

    Raises:
        CalculatorError: The file is missing, of another form, truncated or malformed; says where and what was read.
    """
    path = Path(path)
    form = path.suffix.removeprefix(".") if form is None else form
    if form not in FORMS:
        raise CalculatorError(
            f"{path}: can't tell the form of this EAM file from {form!r}; expected a name that ends in .alloy, .fs or "
            ".eam, or the argument form=alloy, form=fs or form=eam"
        )
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise CalculatorError(f"can't read the EAM file {path}: {error.strerror}") from error
    words = _Words(path, lines[_COMMENT_LINES[form] :])
    tables = _read_funcfl(words) if form == "eam" else _read_setfl(words, finnis_sinclair=form == "fs")
    words.end(form)
    return tables


class _Words:
    """The words of a file in order, with errors that say which one was wrong."""

    def __init__(self, path: Path, lines: list[str]) -> None:
        self.path = path
        self._words: Iterator[str] = iter([word for line in lines for word in line.split()])
        self._read = 0

    def word(self, what: str) -> str:
        found = next(self._words, None)
        if found is None:
            raise CalculatorError(f"{self.path} is truncated: it ends after {self._read} words, before {what}")
        self._read += 1
        return found

    def end(self, form: str) -> None:
        """Raise where more numbers follow: tables of another form, read as this one, would be nonsense."""
        found = next(self._words, "")
        if found[-1:].isdigit():
            raise CalculatorError(
                f"{self.path}: expected the end of a file of the form {form!r} after {self._read} words, got "
                f"{found!r}; is it of another form?"
            )

    def real(self, what: str) -> float:
        word = self.word(what)
        try:
            return float(word.replace("D", "E").replace("d", "e"))  # Fortran's exponents
        except ValueError:
            raise CalculatorError(f"{self.path}: expected {what}, a number, got {word!r}") from None

    def positive(self, what: str) -> float:
        value = self.real(what)
        if not (np.isfinite(value) and value > 0.0):
            raise CalculatorError(f"{self.path}: {what} must be positive, got {value:g}")
        return value

    def count(self, what: str, at_least: int) -> int:
        word = self.word(what)
        if not word.isdigit() or int(word) < at_least:
            raise CalculatorError(f"{self.path}: {what} must be a whole number of at least {at_least}, got {word!r}")
        return int(word)

    def element(self, what: str) -> int:
        word = self.word(what)
        if word not in atomic_numbers or atomic_numbers[word] == 0:
            raise CalculatorError(f"{self.path}: expected {what}, the symbol of an element, got {word!r}")
        return int(atomic_numbers[word])

    def table(self, what: str, size: int) -> FloatArray:
        values = np.array([self.real(f"value {k + 1} of {size} of {what}") for k in range(size)])
        if not np.isfinite(values).all():
            place = int(np.flatnonzero(~np.isfinite(values))[0])
            raise CalculatorError(
                f"{self.path}: value {place + 1} of {what} is {values[place]}, expected a finite number"
            )
        return values


def _read_setfl(words: _Words, finnis_sinclair: bool) -> EAMTables:
    n = words.count("the number of elements", 1)
    elements = tuple(words.element(f"element {k + 1} of {n}") for k in range(n))
    n_rho, d_rho, n_r, d_r, cutoff = _grid(words)
    embedding = np.empty((n, n_rho))
    density = np.empty((n, n, n_r))
    for a, number in enumerate(elements):
        symbol = chemical_symbols[number]
        for what in ("atomic number", "mass", "lattice constant"):
            words.real(f"the {what} of {symbol}")
        words.word(f"the lattice of {symbol}")
        embedding[a] = words.table(f"the embedding function of {symbol}", n_rho)
        if finnis_sinclair:
            for b, other in enumerate(elements):
                density[a, b] = words.table(f"the density of {symbol} at {chemical_symbols[other]}", n_r)
        else:
            density[a] = words.table(f"the density of {symbol}", n_r)
    r_times_pair = np.empty((n, n, n_r))
    for a in range(n):
        for b in range(a + 1):
            names = f"{chemical_symbols[elements[a]]}-{chemical_symbols[elements[b]]}"
            r_times_pair[a, b] = r_times_pair[b, a] = words.table(f"the pair function {names}", n_r)
    return EAMTables(elements, embedding, density, r_times_pair, d_rho, d_r, cutoff)


def _read_funcfl(words: _Words) -> EAMTables:
    number = words.count("the atomic number", 1)
    if number >= len(chemical_symbols):
        raise CalculatorError(f"{words.path}: there is no element with atomic number {number}")
    symbol = chemical_symbols[number]
    for what in ("mass", "lattice constant"):
        words.real(f"the {what} of {symbol}")
    words.word(f"the lattice of {symbol}")
    n_rho, d_rho, n_r, d_r, cutoff = _grid(words)
    embedding = words.table(f"the embedding function of {symbol}", n_rho)
    charge = words.table(f"the effective charge of {symbol}", n_r)
    density = words.table(f"the density of {symbol}", n_r)
    r_times_pair = Hartree * Bohr * charge**2
    return EAMTables((number,), embedding[None], density[None, None], r_times_pair[None, None], d_rho, d_r, cutoff)


def _grid(words: _Words) -> tuple[int, float, int, float, float]:
    return (
        words.count("the number of densities", _FEWEST_POINTS),
        words.positive("the spacing of densities"),
        words.count("the number of distances", _FEWEST_POINTS),
        words.positive("the spacing of distances"),
        words.positive("the cutoff"),
    )
