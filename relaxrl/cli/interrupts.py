"""What a long command does when it is stopped."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """SIGTERM, by which batch systems end jobs, raises `KeyboardInterrupt` for the length of a block."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def is_read(out: Path, files: Sequence[str]) -> bool:
    """Whether the same command would read what is written to `out`, and find other structures than it began with."""
    places = [Path(name).resolve() for file in files for name in (file, file.rpartition("@")[0]) if name]
    return any(place == out.resolve() or (place.is_dir() and place in out.resolve().parents) for place in places)


def collected(
    made: Iterable[tuple[int, T]], total: int, out: str, files: Sequence[str], write: Callable[[str, dict[int, T]], str]
) -> dict[int, T]:
    """All results by their number. Whatever ends it before: what is done is kept, before workers are waited for.

    Args:
        made: Numbers and results, as they come.
        total: How many there will be.
        out: Where they are to be written in the end; a file beside it is used where the input is read from there.
        files: What the input was read from.
        write: Writes results to a file, and says what was written.
    """
    found: dict[int, T] = {}
    try:
        found.update(made)
    except BaseException:
        if found:
            path = Path(out)
            place = str(path.with_name(f"interrupted-{path.name}")) if is_read(path, files) else out
            print(f"relaxrl: stopped after {len(found)} of {total}; {write(place, found)}", file=sys.stderr)
        raise
    return found
