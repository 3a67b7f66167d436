"""CSV tables with the text of a CIF file in one column, as data sets of crystals are published."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence

import ase.io
from ase import Atoms
from ase.io.formats import open_with_compression

from relaxrl.errors import StructureError

_USUAL_NAMES = ("cif", "structure", "cif_text", "cif_string")
_SIGN_OF_CIF = "_cell_length_a"


def read_cif_table(file: str, column: str | None = None) -> list[Atoms]:
    """The structure of each row.

    Args:
        file: A CSV file with a header line, compressed or not.
        column: Header of the column with CIF text; None takes the one whose first cell is CIF text.

    Returns:
        The structures; short cells of the other columns are in their `info`.

    Raises:
        StructureError: The file can't be read, has no rows or no such column, or the text of a row is no CIF.
    """
    csv.field_size_limit(sys.maxsize)  # the default of 128 KiB is less than the CIF of a large cell
    try:
        with open_with_compression(file, "rt") as handle:
            table = csv.DictReader(handle)
            header = list(table.fieldnames or [])
            rows: list[dict[str, str | None]] = [{name: row[name] for name in header} for row in table]
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise StructureError(f"{file}: can't be read as a CSV table ({type(error).__name__}: {error})") from error
    if not rows:
        raise StructureError(f"{file}: the table has no rows; expected a header line and one structure a row")
    chosen = _find_column(file, header, rows) if column is None else column
    if chosen not in header:
        raise StructureError(f"{file}: has no column {chosen!r}; its columns are {', '.join(header)}")
    return [_structure(file, index, chosen, row) for index, row in enumerate(rows)]


def _find_column(file: str, header: Sequence[str], rows: Sequence[dict[str, str | None]]) -> str:
    candidates = [name for name in header if any(_SIGN_OF_CIF in (row[name] or "").lower() for row in rows[:20])]
    for name in sorted(candidates, key=lambda name: name.lower() not in _USUAL_NAMES):
        return name
    raise StructureError(
        f"{file}: no column holds CIF text; its columns are {', '.join(header)}. "
        "Name the column if it is one of them, or convert the table to extxyz"
    )


def _structure(file: str, index: int, column: str, row: dict[str, str | None]) -> Atoms:
    text = row[column] or ""
    if not text.strip():
        raise StructureError(f"{file}, row {index}: column {column!r} is empty; fill or remove the row")
    if "\n" not in text.strip() and "\\n" in text:
        text = text.replace("\\n", "\n")  # tables written with escaped line ends
    try:
        atoms = ase.io.read(io.StringIO(text), format="cif")
    except Exception as error:  # the CIF reader raises what it likes
        raise StructureError(
            f"{file}, row {index}: column {column!r} is not CIF text ({type(error).__name__}: {error})"
        ) from error
    for name, value in row.items():
        if name and name != column and value and len(value) < 200:
            atoms.info.setdefault(name, value)
    return atoms
