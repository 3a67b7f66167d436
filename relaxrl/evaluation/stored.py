"""The results of an evaluation on disk, and back: what a report is made of."""

from __future__ import annotations

import csv
import json
import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from relaxrl.checkpoint import write_atomically
from relaxrl.errors import ResultsError
from relaxrl.evaluation.compare import Comparison
from relaxrl.evaluation.film import Film
from relaxrl.evaluation.run import Limits, RunRecord

RUNS, SUMMARY, TRACES, FILMS = "runs.csv", "summary.json", "traces.csv", "trajectories.npz"
"""Files of an evaluation's folder."""

_TRACE_COLUMNS = ("structure", "method", "evaluation", "fmax", "energy")
_ARRAYS = ("numbers", "pbc", "start", "moves", "cells", "evaluations")
_COUNTS = "evaluations_"
_V = TypeVar("_V")


def write_details(folder: Path, records: Sequence[RunRecord]) -> list[Path]:
    """Write `traces.csv`, fmax and energy of each force evaluation, and `trajectories.npz`, the geometries kept.

    Returns:
        The files.
    """
    text = StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_TRACE_COLUMNS)
    for record in records:
        energies = record.energies or [math.nan] * len(record.trace)
        writer.writerows(
            (record.structure, record.method, number, _number(fmax, 6), _number(energy, 10))
            for number, (fmax, energy) in enumerate(zip(record.trace, energies, strict=True), start=1)
        )
    write_atomically(folder / TRACES, text.getvalue().encode())
    write_films(folder / FILMS, records)
    return [folder / TRACES, folder / FILMS]


def write_films(path: Path, records: Sequence[RunRecord]) -> None:
    """Write the films of all records that have one, as arrays joined end to end and an index of their shapes."""
    filmed = [(record, record.film) for record in records if record.film is not None]
    index = [[record.structure, record.method, len(film.numbers), len(film.moves)] for record, film in filmed]
    arrays = {
        name: np.concatenate([getattr(film, name).ravel() for _, film in filmed]) if filmed else np.zeros(0)
        for name in _ARRAYS
    }
    content = BytesIO()
    np.savez_compressed(content, allow_pickle=False, index=np.array(json.dumps(index)), **arrays)
    write_atomically(path, content.getvalue())


def read_films(path: Path) -> dict[tuple[str, str], Film]:
    """Films by structure and method.

    Raises:
        ResultsError: The file is broken.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            index = json.loads(str(stored["index"]))
            arrays = {name: stored[name] for name in _ARRAYS}
        films: dict[tuple[str, str], Film] = {}
        places = dict.fromkeys(_ARRAYS, 0)
        for structure, method, natoms, frames in index:
            shapes = {
                "numbers": (natoms,),
                "pbc": (3,),
                "start": (natoms, 3),
                "moves": (frames, natoms, 3),
                "cells": (frames, 3, 3),
                "evaluations": (frames,),
            }
            parts: dict[str, Any] = {}
            for name, shape in shapes.items():
                first, places[name] = places[name], places[name] + math.prod(shape)
                parts[name] = arrays[name][first : places[name]].reshape(shape)
            films[structure, method] = Film(**parts)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ResultsError(
            f"{path}: can't be read ({' '.join(str(error).split())}); delete it to make a report without 3-D views, or "
            "evaluate again"
        ) from error
    return films


def read_comparison(folder: str | Path) -> Comparison:
    """The evaluation whose results are in a folder, as far as they were stored.

    Args:
        folder: With `runs.csv` and `summary.json`; `traces.csv` and `trajectories.npz` may be missing.

    Raises:
        ResultsError: A file is missing or broken; names the line.
    """
    path = Path(folder)
    if not (path / RUNS).is_file():
        raise ResultsError(f"{path}: no results of an evaluation: it has no {RUNS}; give the folder after --out")
    if not (path / SUMMARY).is_file():
        raise ResultsError(
            f"{path}: the evaluation was interrupted before it wrote {SUMMARY}; run `relaxrl evaluate` again"
        )
    summary = _summary(path / SUMMARY)
    records = _records(path / RUNS)
    if not records:
        raise ResultsError(f"{path / RUNS}: expected one row for each structure and method, got none; evaluate again")
    traces = _traces(path / TRACES) if (path / TRACES).is_file() else {}
    films = read_films(path / FILMS) if (path / FILMS).is_file() else {}
    full = []
    for record in records:
        key = record.structure, record.method
        fmaxs, energies = traces.get(key, ([], []))
        full.append(replace(record, trace=fmaxs, energies=energies, film=films.get(key)))
    try:
        settings, origin = summary["settings"], summary.get("provenance", {})
        limits = Limits(settings["fmax"], settings["steps"], settings.get("seconds"), tuple(settings["also"]))
        limits = replace(limits, cell=bool(settings.get("cell", False)))  # older results have none
        return Comparison(
            full,
            settings["calculator"],
            limits,
            settings["rattle"],
            settings["seed"],
            command=origin.get("command"),
            versions=origin.get("versions", {}),
            created=origin.get("created"),
            strain=settings.get("strain", 0.0),  # older results have none
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ResultsError(
            f"{path / SUMMARY}: expected the settings of an evaluation, and there is something wrong with {error}; "
            "evaluate again"
        ) from error


def _summary(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path}: expected JSON, got: {error}; evaluate again") from error
    if not isinstance(content, dict):
        raise ResultsError(f"{path}: expected an object, got {type(content).__name__}; evaluate again")
    return content


def _records(path: Path) -> list[RunRecord]:
    return [_record(row) for row in _rows(path)]


class _Row:
    """One line of a table; its cells as what they should be, or an error that names the line."""

    def __init__(self, path: Path, line: int, cells: dict[str, str]) -> None:
        self.path, self.line, self.cells = path, line, cells

    def text(self, column: str) -> str:
        if column not in self.cells:
            raise ResultsError(f"{self.path}: expected a column {column!r}, got {', '.join(self.cells)}")
        return self.cells[column]

    def value(self, column: str, kind: Callable[[str], _V], what: str) -> _V:
        text = self.text(column)
        try:
            return kind(text)
        except ValueError as error:
            raise ResultsError(
                f"{self.path}, line {self.line}: expected {what} in column {column!r}, got {text!r}"
            ) from error

    def whole(self, column: str) -> int:
        return self.value(column, int, "a whole number")

    def number(self, column: str) -> float:
        """NaN where it is empty."""
        return self.value(column, lambda text: float(text) if text else math.nan, "a number")


def _rows(path: Path) -> Iterator[_Row]:
    """Rows of a CSV file with their line numbers.

    Raises:
        ResultsError: A line has too few or too many cells.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path}: can't be read: {error}") from error
    reader = csv.reader(StringIO(text, newline=""))
    columns = next(reader, [])
    for cells in reader:
        if len(cells) != len(columns):
            raise ResultsError(
                f"{path}, line {reader.line_num}: expected {len(columns)} cells, got {len(cells)}; mend the line, or "
                "evaluate again"
            )
        yield _Row(path, reader.line_num, dict(zip(columns, cells, strict=True)))


def _record(row: _Row) -> RunRecord:
    def flag(text: str) -> bool:
        if text not in ("True", "False"):
            raise ValueError(text)
        return text == "True"

    levels = [name for name in row.cells if name.startswith(_COUNTS)]
    return RunRecord(
        structure=row.text("structure"),
        collection=row.text("set"),
        formula=row.text("formula"),
        natoms=row.whole("natoms"),
        method=row.text("method"),
        converged=row.value("converged", flag, "True or False"),
        reason=row.text("reason"),
        force_evaluations=row.whole("force_evaluations"),
        distinct_evaluations=row.whole("distinct_evaluations"),
        evaluations={float(name.removeprefix(_COUNTS)): row.whole(name) if row.text(name) else None for name in levels},
        seconds=row.number("seconds"),
        fmax=row.number("fmax"),
        energy=row.number("energy"),
        handover=row.text("handover"),
        trace=[],
    )


def _traces(path: Path) -> dict[tuple[str, str], tuple[list[float], list[float]]]:
    """Fmax and energy of each force evaluation, by structure and method."""
    traces: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
    for row in _rows(path):
        fmaxs, energies = traces.setdefault((row.text("structure"), row.text("method")), ([], []))
        fmaxs.append(row.number("fmax"))
        energies.append(row.number("energy"))
    return traces


def _number(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}g}"
