"""Potential files of LAMMPS: which pair style reads them, which elements they know, and the commands that load them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ase.data import atomic_numbers, chemical_symbols

from relaxrl.errors import CalculatorError
from relaxrl.potentials.eam_file import read_eam
from relaxrl.potentials.parameter_files import find_parameter_file

_STYLES = {
    ".eam.alloy": "eam/alloy",
    ".alloy": "eam/alloy",
    ".eam.fs": "eam/fs",
    ".fs": "eam/fs",
    ".eam.he": "eam/he",
    ".eam": "eam",
    ".adp": "adp",
    ".sw": "sw",
    ".tersoff": "tersoff",
    ".tersoff.mod": "tersoff/mod",
    ".tersoff.modc": "tersoff/mod/c",
    ".tersoff.zbl": "tersoff/zbl",
    ".vashishta": "vashishta",
    ".gw": "gw",
    ".gw.zbl": "gw/zbl",
    ".extep": "extep",
    ".eim": "eim",
    ".meam": "meam",
}
"""Pair styles by the ending of a file's name."""

_HEADERS = {
    "stillinger-weber": "sw",
    "modified tersoff": "tersoff/mod",
    "tersoff": "tersoff",
    "vashishta": "vashishta",
    "gao-weber": "gw",
    "extep": "extep",
    "element:": "eim",
}
"""Pair styles by words among the first lines of a file whose name says nothing."""

_SETFL = ("eam/alloy", "eam/fs", "eam/he", "adp")
_HEADER_LINES = 12
_SETFL_NAMES = 3
"""Lines of comment before the elements' names in a setfl file."""
_LIBRARY = "library.meam"
_SYMBOL = re.compile(r"[A-Z][a-z]?")


@dataclass(frozen=True)
class LammpsFile:
    """A potential file and how LAMMPS reads it.

    Attributes:
        path: The file.
        style: The pair style, such as `tersoff` or `eam/alloy`.
        names: What the file calls each element it knows, in its order: `{"Al": "AlS"}`; the symbol, but for
            some of MEAM and EIM.
        library: The library that goes with a MEAM file; None for other styles.
    """

    path: Path
    style: str
    names: dict[str, str]
    library: Path | None = None

    @property
    def elements(self) -> frozenset[int]:
        """Atomic numbers it knows."""
        return frozenset(atomic_numbers[symbol] for symbol in self.names)

    def commands(self, symbols: Sequence[str]) -> list[str]:
        """LAMMPS commands that load it.

        Args:
            symbols: Elements of the atom types 1, 2, ..., all of them in `names`.
        """
        path = f'"{self.path.resolve()}"'
        types = " ".join(self.names[symbol] for symbol in symbols)
        if self.style == "eam":  # a file of one element, given type by type
            coefficients = [f"pair_coeff {k + 1} {k + 1} {path}" for k in range(len(symbols))]
        elif self.style == "eim":
            coefficients = [f"pair_coeff * * {types} {path} {types}"]
        elif self.library is not None:
            known = " ".join(self.names.values())
            coefficients = [f'pair_coeff * * "{self.library.resolve()}" {known} {path} {types}']
        else:
            coefficients = [f"pair_coeff * * {path} {types}"]
        return [f"pair_style {self.style}", *coefficients]


def read_lammps_file(
    file: str | Path, style: str | None = None, elements: Sequence[str] | None = None, library: str | None = None
) -> LammpsFile:
    """What a potential file holds, without running LAMMPS.

    Args:
        file: A path, or the name of a file that LAMMPS ships.
        style: Its pair style; by the name's ending or the header if None.
        elements: What its elements are called, in the file's order; read from it if None. A MEAM file does not say
            that: they are taken from the comment that says how to use it, else from its name.
        library: The library of a MEAM file; the one that the file's comment names, else `library.meam`, if None.

    Raises:
        CalculatorError: The file is missing, of unknown style or without elements.

    Examples:
        >>> read_lammps_file("no_such/Si.sw")
        Traceback (most recent call last):
        ...
        relaxrl.errors.CalculatorError: can't read the potential file no_such/Si.sw: No such file or directory
    """
    path = find_parameter_file(str(file))
    lines = _lines(path)
    style = _style(path, lines) if style is None else style
    if isinstance(elements, str):
        raise CalculatorError(f"`elements` must be a list such as ['Si','C'], got {elements!r}")
    if style == "meam":
        return _read_meam(path, lines, elements, library)
    if library is not None:
        raise CalculatorError(f"`library` goes with files of MEAM, got {library!r} for {path}, pair style {style}")
    if style == "eim" and elements is None:
        return LammpsFile(path, style, _eim_names(path, lines))
    symbols = _symbols(path, style, lines) if elements is None else list(elements)
    for symbol in symbols:
        if symbol not in atomic_numbers:
            raise CalculatorError(f"{path}: expected symbols of elements, got {symbol!r}")
    if not symbols:
        raise CalculatorError(
            f"{path}: found no elements in this file of pair style `{style}`; name them in its order: "
            "elements=['Si','C']"
        )
    return LammpsFile(path, style, {symbol: symbol for symbol in symbols})


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise CalculatorError(f"can't read the potential file {path}: {error.strerror}") from error


def _style(path: Path, lines: list[str]) -> str:
    endings = [ending for ending in _STYLES if path.name.endswith(ending)]
    if endings:
        return _STYLES[max(endings, key=len)]
    header = " ".join(lines[:_HEADER_LINES]).lower()
    for word, style in _HEADERS.items():
        if word in header:
            return style
    for form in ("alloy", "fs"):
        if _looks_like_setfl(lines):
            try:
                read_eam(path, form)
            except CalculatorError:
                continue
            return f"eam/{form}"
    raise CalculatorError(
        f"can't tell the pair style of {path} from its name or first lines; expected a name that ends in "
        f"{', '.join(_STYLES)}, or the argument style=STYLE"
    )


def _looks_like_setfl(lines: list[str]) -> bool:
    words = lines[_SETFL_NAMES].split() if len(lines) > _SETFL_NAMES else []
    return bool(words) and words[0].isdigit() and len(words) == int(words[0]) + 1


def _symbols(path: Path, style: str, lines: list[str]) -> list[str]:
    if style in _SETFL:
        if not _looks_like_setfl(lines):
            got = lines[_SETFL_NAMES].strip()[:60] if len(lines) > _SETFL_NAMES else "the end of the file"
            raise CalculatorError(f"{path}: expected the number of elements and their names in line 4, got {got!r}")
        return lines[_SETFL_NAMES].split()[1:]
    if style == "eam":
        words = lines[1].split() if len(lines) > 1 else []
        if not words or not words[0].isdigit() or not 0 < int(words[0]) < len(chemical_symbols):
            raise CalculatorError(f"{path}: expected an atomic number in line 2, got {' '.join(words)[:60]!r}")
        return [chemical_symbols[int(words[0])]]
    words = [word for line in lines for word in line.split("#")[0].split()]
    return list(dict.fromkeys(word for word in words if word in atomic_numbers))


def _eim_names(path: Path, lines: list[str]) -> dict[str, str]:
    """Names by element, from the lines `element: NAME ATOMIC-NUMBER ...`; iodine is called `Id`."""
    entries = [line.split()[1:3] for line in lines if line.strip().startswith("element:")]
    numbers = [(words[0], int(words[1])) for words in entries if len(words) > 1 and words[1].isdigit()]
    names = {chemical_symbols[number]: name for name, number in numbers if 0 < number < len(chemical_symbols)}
    if not names:
        raise CalculatorError(f"{path}: expected lines `element: NAME ATOMIC-NUMBER ...`, got none")
    return names


def _read_meam(path: Path, lines: list[str], given: Sequence[str] | None, library: str | None) -> LammpsFile:
    named, says = _how_to_use(path, lines)
    beside = library or named or _LIBRARY
    found = path.parent / beside
    place = found if found.is_file() else find_parameter_file(beside)
    known = set(re.findall(r"^'(\w+)'", "\n".join(_lines(place)), re.MULTILINE))
    stem = path.name.removesuffix(".meam")
    names = list(given or says or ([stem] if stem in known else _SYMBOL.findall(stem)))
    if not names or not set(names) <= known:
        raise CalculatorError(
            f"{path}: can't tell its elements, got {', '.join(names) or 'none'} from the comment or the name; expected "
            f"entries of {place}, in the order that the file numbers them: elements=['Si','C']"
        )
    return LammpsFile(path, "meam", {_symbol_of(name): name for name in names}, place)


def _how_to_use(path: Path, lines: list[str]) -> tuple[str | None, list[str]]:
    """Library and names in a comment: `use with A B from LIBRARY`, or `pair_coeff * * LIBRARY A B FILE`."""
    header = "\n".join(lines[:_HEADER_LINES])
    match = re.search(r"use with ((?:\w+ )+)from (\S+)", header)
    if match:
        return match[2], match[1].split()
    match = re.search(rf"pair_coeff \* \* (\S+) ((?:\w+ )+){re.escape(path.name)}", header)
    if match:
        return match[1] if match[1].endswith(".meam") else f"{match[1]}.meam", match[2].split()
    return None, []


def _symbol_of(name: str) -> str:
    """The element of a library's entry: Al of `AlS`, W of `WL`, H of `Hni`."""
    for size in (2, 1):
        if name[:size] in atomic_numbers:
            return name[:size]
    raise CalculatorError(f"can't tell the element of the library's entry {name!r}")
