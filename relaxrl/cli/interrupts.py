"""What a long command does when it is stopped."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


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


def unfinished(out: str, files: Sequence[str]) -> str:
    """Where a part of the result is kept: `out`, or a file beside it where the input is read from there."""
    path = Path(out)
    return str(path.with_name(f"interrupted-{path.name}")) if is_read(path, files) else out
