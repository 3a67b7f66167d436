"""The long jobs of `relaxrl structures`: sets from recipes, and labelled frames of minima."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from relaxrl.cli.interrupts import collected, sigterm_as_ctrl_c

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from relaxrl.structures import Crystal
    from relaxrl.structures.cooking import Outcome
    from relaxrl.structures.frames import Frame

_SAY_EVERY = 10.0
"""Seconds between lines of progress where there is no terminal to show bars in."""


def run_make(args: argparse.Namespace) -> int:
    """Make a set from a recipe."""
    from relaxrl.checkpoint import write_atomically
    from relaxrl.config import load_config
    from relaxrl.structures.archive import save_archive
    from relaxrl.structures.card import set_card
    from relaxrl.structures.frames import FRAMES_ENDING, save_frames
    from relaxrl.structures.jobs import worker_pool
    from relaxrl.structures.recipe import SetRecipe, cook_set

    recipe = load_config(SetRecipe, args.recipe, args.overrides)
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    tally = _Tally(recipe.name)
    with worker_pool(args.jobs) as executor, progress_bars() as progress:
        tally.show_in(progress)
        parts = cook_set(recipe, executor, tally.made, folder / "cache", tally.outcome)
    for name, outcomes in parts.items():
        file = folder / f"{recipe.name}-{name}.npz"
        entries = [outcome.entry for outcome in outcomes if outcome.entry is not None]
        save_archive(file, entries)
        sizes = [len(entry.minimum) for entry in entries]
        kind = "minima" if entries[0].start is None else "starts and their minima"
        print(f"{file}: {len(entries)} {kind}, {min(sizes)} to {max(sizes)} atoms")
        frames = [frame for outcome in outcomes for frame in outcome.frames]
        if frames:
            file = folder / f"{recipe.name}-{name}{FRAMES_ENDING}"
            save_frames(file, frames)
            print(f"{file}: {len(frames)} labelled frames")
    card = set_card(recipe, parts, tally.failures, tally.evaluations, getattr(args, "command", None))
    write_atomically(folder / f"{recipe.name}.md", card.encode())
    print(f"{folder / f'{recipe.name}.md'}: what is in it")
    for name, reasons in tally.failures.items():
        if reasons:
            print(f"{name}: left out {_counts(reasons)}")
    return 0


class _Tally:
    """What became of the candidates so far, as bars in a terminal, else as a line now and then."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.failures: dict[str, Counter[str]] = {}
        self.evaluations: Counter[str] = Counter()
        self._tasks: dict[str, TaskID] = {}
        self._progress: Progress | None = None
        self._said = time.monotonic()

    def show_in(self, progress: Progress) -> None:
        self._progress = progress

    def outcome(self, split: str, outcome: Outcome) -> None:
        reasons = self.failures.setdefault(split, Counter())
        self.evaluations[split] += outcome.evaluations
        if outcome.entry is None:
            reasons[outcome.reason] += 1

    def made(self, split: str, made: int, wanted: int) -> None:
        assert self._progress is not None
        lost = _counts(self.failures[split])
        if split not in self._tasks:
            self._tasks[split] = self._progress.add_task(f"{self.name}:{split}", total=wanted)
        description = f"{self.name}:{split}" + (f" (left out {lost})" if lost else "")
        self._progress.update(self._tasks[split], completed=made, description=description)
        if not self._progress.console.is_terminal and time.monotonic() - self._said > _SAY_EVERY:
            self._said = time.monotonic()
            print(f"{description}: {made} of {wanted}", file=sys.stderr, flush=True)


def _counts(reasons: Counter[str]) -> str:
    return ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common())


def run_frames(args: argparse.Namespace) -> int:
    """Label frames of minima; exit status 1 if some of them gave none."""
    from relaxrl.config import from_dict
    from relaxrl.errors import StructureError
    from relaxrl.structures import read_structures
    from relaxrl.structures.frame_making import FramesRecipe, frames_of
    from relaxrl.structures.frames import FRAMES_ENDING
    from relaxrl.structures.jobs import worker_pool
    from relaxrl.structures.write import make_folder_of

    if not args.out.endswith(FRAMES_ENDING):
        raise StructureError(f"--out {args.out}: expected a name that ends in {FRAMES_ENDING}")
    low, _, high = args.rattle.partition("-")
    try:
        rattle = [float(low), float(high or low)]
    except ValueError as error:
        raise StructureError(f"--rattle: expected MIN-MAX in Å, such as 0.02-0.4, got {args.rattle!r}") from error
    settings = {name: getattr(args, name) for name in ("displacements", "strain", "relaxations", "fmax")}
    recipe = from_dict(FramesRecipe, settings | {"rattle": rattle}, source="options")
    crystals = read_structures(args.files, kind="minimum", parents=args.parents, cif_column=args.cif_column)
    make_folder_of(args.out)
    with worker_pool(args.jobs) as executor, progress_bars() as progress, sigterm_as_ctrl_c():
        made = frames_of(crystals, args.calculator, recipe, args.seed, executor)
        tracked = progress.track(made, total=len(crystals), description="frames")
        found = collected(tracked, len(crystals), args.out, args.files, partial(_write_frames, crystals))
    print(_write_frames(crystals, args.out, found))
    return 1 if any(isinstance(outcome, str) for outcome in found.values()) else 0


def _write_frames(crystals: Sequence[Crystal], out: str, found: dict[int, list[Frame] | str]) -> str:
    """Name what was left out, write the others' frames in order of the crystals, and say what was written."""
    from relaxrl.structures.frames import save_frames

    labelled = []
    for number, outcome in sorted(found.items(), key=lambda item: item[0]):
        if isinstance(outcome, str):
            print(f"{crystals[number].id}: left out: {outcome}")
        else:
            labelled.append(outcome)
    if not labelled:
        return f"{out}: not written, there are no frames"
    frames = [frame for of_one in labelled for frame in of_one]
    save_frames(out, frames)
    return f"{out}: {len(frames)} labelled frames of {len(labelled)} minima"


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """A progress bar with rate and time left, on standard error, so that output can be piped."""
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield progress
