"""One candidate of a set: drawn, relaxed to a true minimum, given a start and frames; or why it came to nothing."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from relaxrl.checkpoint import write_atomically
from relaxrl.config import to_dict
from relaxrl.errors import CalculatorError, StructureError
from relaxrl.potentials import CountedCalculator, EvaluationCounter
from relaxrl.seeding import Generators
from relaxrl.structures.alloys import strained
from relaxrl.structures.archive import Entry, archive_arrays, entries_from
from relaxrl.structures.crystal import perturb
from relaxrl.structures.curvature import surface
from relaxrl.structures.draw import Drawable, draw
from relaxrl.structures.frame_making import FramesRecipe, make_frames
from relaxrl.structures.frames import Frame, frame_arrays, frames_from
from relaxrl.structures.minima import MinimumConfig, search_minimum
from relaxrl.structures.relaxation import NotRelaxedError, energy_and_forces, relax
from relaxrl.typing import FloatArray

OUTCOME_ENDING = ".outcome"
"""Of the files of the cache; no format of structures, so that the folder can be read as one of sets."""

_DIGITS = 8
"""Decimals (Å, eV) kept of minima and starts: far below any tolerance, and above the noise between machines."""

_START_DRAWS = 5
"""Starts drawn for a minimum before it is given up."""

_VERSION = 1
"""Of the cooking: what was cooked by another one is cooked again."""


@dataclass(frozen=True)
class Candidate:
    """A draw that may become an entry, with all that decides what becomes of it.

    Attributes:
        stream: Name of its random streams.
        seed: Of the set.
        drawn: What it is drawn from.
        calculator: What it is to be a minimum of.
        minimum: How it is found.
        rattle: Å, range of a start's displacement; None where there is no start.
        start_strain: Largest component of a start's strain.
        start_fmax: eV/Å; a start counts only if it relaxes to this.
        frames: Which frames are made of it.
    """

    stream: str
    seed: int
    drawn: Drawable
    calculator: str
    minimum: MinimumConfig
    rattle: tuple[float, float] | None
    start_strain: float
    start_fmax: float
    frames: FramesRecipe | None

    @property
    def fingerprint(self) -> str:
        """The same for candidates that lead to the same outcome."""
        told = {
            "version": _VERSION,
            "stream": self.stream,
            "seed": self.seed,
            "drawn": [type(self.drawn).__name__, to_dict(self.drawn)],
            "calculator": self.calculator,
            "minimum": to_dict(self.minimum),
            "start": None if self.rattle is None else [self.rattle, self.start_strain, self.start_fmax],
            "frames": None if self.frames is None else to_dict(self.frames),
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Outcome:
    """What became of a candidate.

    Attributes:
        entry: The minimum, with its start; None if it came to nothing.
        reason: Why it did; empty if it did not.
        evaluations: Force evaluations spent on it.
        source: Package, version and licence of the crystal it was made from; empty for this package's own.
        frames: Made of it.
    """

    entry: Entry | None
    reason: str
    evaluations: int
    source: str = ""
    frames: tuple[Frame, ...] = ()


def cook(candidate: Candidate, cache: Path | None = None) -> Outcome:
    """What becomes of a candidate.

    Args:
        candidate: The draw.
        cache: Folder in which it is looked up first, and written down afterwards.
    """
    if cache is None:
        return _cook(candidate)
    file = cache / f"{candidate.fingerprint}{OUTCOME_ENDING}"
    if file.exists():
        known = read_outcome(file)
        if known is not None:
            return known
    outcome = _cook(candidate)
    write_outcome(file, candidate.stream, outcome)
    return outcome


def write_outcome(file: Path, stream: str, outcome: Outcome) -> None:
    """Write an outcome to a file that appears complete or not at all."""
    told = {
        "stream": stream,
        "reason": outcome.reason,
        "evaluations": outcome.evaluations,
        "source": outcome.source,
    }
    arrays = {"outcome": np.array(json.dumps(told))}
    if outcome.entry is not None:
        arrays |= {f"entry_{name}": array for name, array in archive_arrays([outcome.entry]).items()}
    if outcome.frames:
        arrays |= {f"frames_{name}": array for name, array in frame_arrays(outcome.frames).items()}
    content = BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    write_atomically(file, content.getvalue())


def read_outcome(file: Path) -> Outcome | None:
    """What `write_outcome` wrote; None if the file is damaged."""
    try:
        with np.load(BytesIO(file.read_bytes()), allow_pickle=False) as stored:
            arrays = dict(stored)
        told = json.loads(str(arrays["outcome"]))
        entries = entries_from(_part(arrays, "entry_")) if "entry_sizes" in arrays else [None]
        frames = frames_from(_part(arrays, "frames_")) if "frames_sizes" in arrays else []
        return Outcome(entries[0], told["reason"], told["evaluations"], told["source"], tuple(frames))
    except (OSError, EOFError, ValueError, KeyError, IndexError, zipfile.BadZipFile):
        return None


def _part(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _cook(candidate: Candidate) -> Outcome:
    generators = Generators(candidate.seed)
    made, hessian = surface(candidate.calculator)
    counter = EvaluationCounter()
    calculator = CountedCalculator(made, counter, candidate.stream)
    source = ""
    try:
        try:
            drawn = draw(candidate.drawn, generators.numpy(candidate.stream), calculator)
        except StructureError as error:
            raise NotRelaxedError("no volume of lowest energy") from error
        source = drawn.source
        minimum = search_minimum(
            drawn.atoms, calculator, hessian, generators.numpy(f"{candidate.stream}/minimum"), candidate.minimum
        )
        atoms = minimum.atoms
        atoms.info = {}
        atoms.set_cell(np.round(atoms.cell.array, _DIGITS))
        atoms.positions[:] = np.round(atoms.positions, _DIGITS)
        energy = round(minimum.energy, _DIGITS)
        start = cell = None
        if candidate.rattle is not None:
            start, cell = _start(
                candidate, atoms, minimum.energy, calculator, generators.numpy(f"{candidate.stream}/start")
            )
        frames: list[Frame] = []
        if candidate.frames is not None:
            generator = generators.numpy(f"{candidate.stream}/frames")
            who = candidate.stream, drawn.parent, candidate.calculator
            frames = make_frames(atoms, energy, calculator, candidate.frames, generator, *who)
    except NotRelaxedError as failure:
        return Outcome(None, str(failure), counter.count, source)
    except CalculatorError:  # of one geometry: it has been made
        return Outcome(None, "the calculator failed", counter.count, source)
    entry = Entry(atoms, energy, drawn.parent, drawn.prototype, start, candidate.calculator, cell)
    return Outcome(entry, "", counter.count, source, tuple(frames))


def _start(
    candidate: Candidate, minimum: Atoms, energy: float, calculator: Calculator, generator: np.random.Generator
) -> tuple[FloatArray, FloatArray | None]:
    """Positions displaced from a minimum, (n_atoms, 3), Å, that lie above it and relax; and their cell, if strained."""
    assert candidate.rattle is not None  # who calls this wants a start
    strains = candidate.start_strain > 0
    for _ in range(_START_DRAWS):
        start = strained(minimum, candidate.start_strain, generator) if strains else minimum
        try:
            start = perturb(start, candidate.rattle, generator)
        except StructureError:
            continue
        start.set_cell(np.round(start.cell.array, _DIGITS))
        start.positions[:] = np.round(start.positions, _DIGITS)
        if energy_and_forces(start, calculator)[0] <= energy:
            continue
        if relax(start, calculator, candidate.start_fmax, candidate.minimum.steps, strains) is not None:
            return np.array(start.positions), start.cell.array.copy() if strains else None
    raise NotRelaxedError("no start that relaxes")
