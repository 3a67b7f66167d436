"""The log file: lines that a resumed run continues as if it had never ended."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


class LossLog:
    """Appends lines, each on disk at once.

    Args:
        path: The file; another run's lines in it are left alone.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    @property
    def size(self) -> int:
        """Bytes written so far; for `truncate`."""
        return self.path.stat().st_size if self.path.exists() else 0

    def truncate(self, size: int) -> None:
        """Forget all that was written after the file had this size."""
        if self.size > size:
            os.truncate(self.path, size)

    def line(self, text: str) -> None:
        """Write a line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")

    def metrics(self, head: str, values: Mapping[str, float]) -> None:
        """Write a line of numbers after its head."""
        self.line(" | ".join([head, *(f"{name} {value:.6g}" for name, value in values.items())]))
