"""A progress bar with rate and time left."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text


class TrainingProgress:
    """Bar, rate (environment steps per second), elapsed and remaining time, and the last evaluation beside it.

    Usable as a context manager. Where the output is no terminal (a log file), the bar is left out and only the lines
    given to `line` are printed.

    Args:
        title: What is going on.
        enabled: Whether to print anything.
        console: Where to; standard error if None, so that standard output stays free for results.
    """

    def __init__(self, title: str, enabled: bool = True, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, quiet=not enabled)
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            _RateColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=not enabled or not self.console.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task(title, total=1.0, note="", steps=0, started=time.monotonic(), offset=None)

    def __enter__(self) -> TrainingProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, fraction: float, steps: int, note: str | None = None) -> None:
        """Move the bar.

        Args:
            fraction: Of the whole run, 0 to 1.
            steps: Environment steps so far, for the rate.
            note: Replaces the text beside the bar.
        """
        fields = self._progress.tasks[0].fields
        offset = steps if fields["offset"] is None else fields["offset"]
        beside = fields["note"] if note is None else note
        self._progress.update(self._task, completed=min(fraction, 1.0), steps=steps, offset=offset, note=beside)

    def line(self, text: str, style: str | None = None) -> None:
        """Print a line above the bar."""
        self.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


class _RateColumn(ProgressColumn):
    """Environment steps per second since the bar started."""

    def render(self, task: Task) -> Text:
        """The rate as text."""
        seconds = max(time.monotonic() - task.fields["started"], 1e-9)
        done = task.fields["steps"] - (task.fields["offset"] or 0)
        return Text(f"{done / seconds:.0f} steps/s")
