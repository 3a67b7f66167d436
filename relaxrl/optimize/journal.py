"""What a campaign has finished, one line per structure, safe against a kill at any moment."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.jsonio import decode, encode

from relaxrl.checkpoint import write_atomically
from relaxrl.config import to_dict
from relaxrl.errors import CheckpointError
from relaxrl.optimize.recording import Evaluated
from relaxrl.potentials.specs import CALCULATOR_KEY

if TYPE_CHECKING:
    from relaxrl.optimize.campaign import Conditions, Relaxed

FORMAT = "relaxrl-journal-1"


class Journal:
    """The file; its first line says what campaign it belongs to.

    Args:
        path: Made with the first structure that is done.
        structures: Names and starts of the whole campaign.
        conditions: How they are relaxed.
        settings: What else must not change between a kill and going on, as JSON can hold it.

    Raises:
        CheckpointError: It exists, and belongs to another campaign.
    """

    def __init__(
        self,
        path: Path,
        structures: Sequence[tuple[str, Atoms]],
        conditions: Conditions,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = path
        self._header = {
            "format": FORMAT,
            "agent": conditions.agent,
            "calculator": f"{conditions.calculator.name} {conditions.calculator.arguments}",
            "fmax": conditions.fmax,
            "steps": conditions.steps,
            **({} if conditions.cell is None else {"cell": json.loads(json.dumps(to_dict(conditions.cell)))}),
            **(settings or {}),
            "structures": _fingerprint(structures),
        }
        if path.exists():
            self._check(self._lines()[:1])

    def read(self) -> list[Relaxed]:
        """What is done, without the starts' `info`; a last line that a kill has cut off does not count."""
        from relaxrl.optimize.campaign import Relaxed

        if not self.path.exists():
            return []
        done = []
        for line in self._lines()[1:]:
            entry = decode(line)
            atoms = _with_results(entry.pop("atoms"), entry.pop("results"))
            path = tuple(Evaluated(**one) for one in entry.pop("path", ()))
            done.append(Relaxed(atoms=atoms, path=path, **entry))
        return done

    def write(self, done: Relaxed) -> None:
        """Append a structure; on the disk when this returns."""
        calculator = done.atoms.calc
        results = {} if calculator is None else dict(calculator.results)
        bare = done.atoms.copy()
        bare.info = {}  # may hold what JSON can't; the start has it
        entry = {**vars(done), "atoms": bare, "results": results, "path": [vars(one) for one in done.path]}
        if not done.path:
            del entry["path"]
        line = encode(entry)
        if self.path.exists():
            self._cut_off_half_a_line()
        else:
            # A kill must not leave half of the first line: it says what the file is.
            write_atomically(self.path, (json.dumps(self._header) + "\n").encode())
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """The results are safe elsewhere."""
        self.path.unlink(missing_ok=True)

    def _lines(self) -> list[str]:
        """Whole lines."""
        text = self.path.read_text(encoding="utf-8")
        return text[: text.rfind("\n") + 1].splitlines()

    def _cut_off_half_a_line(self) -> None:
        with self.path.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)

    def _check(self, first: list[str]) -> None:
        """Raise where the file belongs to another campaign."""
        try:
            found = json.loads(first[0]) if first else {}
        except json.JSONDecodeError:
            found = {}
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise CheckpointError(f"{self.path}: expected the journal of a campaign; move the file away, or delete it")
        for key in {**self._header, **found}:
            value = self._header.get(key)
            if found.get(key) != value:
                what = "are others" if key == "structures" else f"was {found.get(key)}, now it is {value}"
                raise CheckpointError(
                    f"{self.path} remembers relaxations, and their {key} {what}; go on with what it was, or delete "
                    "the file (`relaxrl relax --restart` does) and begin anew"
                )


def _fingerprint(structures: Sequence[tuple[str, Atoms]]) -> str:
    """The same for the same names, elements, positions, moments, charges, cells, constraints and calculators."""
    digest = hashlib.sha256()
    for name, atoms in structures:
        digest.update(name.encode())
        own = {key: atoms.arrays[key] for key in sorted(atoms.arrays) if atoms.arrays[key].dtype != object}
        for key, array in (*own.items(), ("cell", atoms.cell.array), ("pbc", atoms.pbc)):
            digest.update(key.encode() + array.tobytes())
        constraints = [constraint.todict() for constraint in atoms.constraints]
        digest.update(repr((constraints, atoms.info.get(CALCULATOR_KEY))).encode())
    return digest.hexdigest()[:16]


def _with_results(atoms: Atoms, results: dict[str, Any]) -> Atoms:
    atoms.calc = SinglePointCalculator(atoms, **results) if results else None
    return atoms
