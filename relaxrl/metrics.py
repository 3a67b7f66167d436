"""Where a run's numbers go: CSV for scripts, TensorBoard for eyes, or both.

Names follow the habit of RL libraries: `rollout/ep_rew_mean`, `train/critic_loss`, `time/fps`, `eval/...`, and
`relax/*` for what is special to relaxation. The step is always the true count of environment steps, `t_total`.
"""

from __future__ import annotations

import csv
import io
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from relaxrl.checkpoint import write_atomically
from relaxrl.errors import ResultsError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

STEP = "t_total"
"""Name of the step column: environment steps since the start of the run."""


class MetricSink(ABC):
    """Takes named numbers by step. Usable as a context manager, which closes it."""

    @abstractmethod
    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record the values of one step; names may appear that were never there before."""

    @abstractmethod
    def truncate(self, step: int) -> None:
        """Forget all that was recorded after `step`: the run goes on from there."""

    @abstractmethod
    def close(self) -> None:
        """Write out what is held back and release files."""

    def __enter__(self) -> MetricSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class CSVSink(MetricSink):
    """One row per call of `write`, one column per name; columns grow as names appear. Every row is on disk at once.

    Args:
        path: The file. An existing one is continued; a last line cut off by a crash is dropped.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.columns: list[str] = [STEP]
        if self.path.exists():
            self.columns, rows = _read(self.path)
            self._rewrite(rows)
        else:
            self._rewrite([])

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append a row; the file is written anew when columns are added."""
        added = [name for name in values if name not in self.columns]
        if added:
            rows = _read(self.path)[1]
            self.columns += added
            self._rewrite(rows)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            row = {STEP: step} | {name: repr(float(value)) for name, value in values.items()}
            csv.DictWriter(file, self.columns, restval="", lineterminator="\n").writerow(row)

    def truncate(self, step: int) -> None:
        """Drop the rows after `step`."""
        self._rewrite([row for row in _read(self.path)[1] if int(row[STEP]) <= step])

    def close(self) -> None:
        """Nothing is held back."""

    def _rewrite(self, rows: Sequence[Mapping[str, str]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.path, text.getvalue().encode())


class TensorBoardSink(MetricSink):
    """Scalars for `tensorboard --logdir FOLDER`.

    Args:
        folder: Of the event files.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._writer: SummaryWriter | None = None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record scalars."""
        writer = self._open()
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    def truncate(self, step: int) -> None:
        """Tell TensorBoard to hide what was recorded after `step`."""
        self.close()
        self._open(purge_step=step + 1)

    def close(self) -> None:
        """Write out and close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self, purge_step: int | None = None) -> SummaryWriter:
        if self._writer is None:
            # Imported late: TensorBoard takes a second to load.
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.folder), purge_step=purge_step)
        return self._writer


class FanOut(MetricSink):
    """Passes everything on to several sinks."""

    def __init__(self, sinks: Sequence[MetricSink]) -> None:
        self.sinks = list(sinks)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record in each."""
        for sink in self.sinks:
            sink.write(step, values)

    def truncate(self, step: int) -> None:
        """Truncate each."""
        for sink in self.sinks:
            sink.truncate(step)

    def close(self) -> None:
        """Close each."""
        for sink in self.sinks:
            sink.close()


def read_metrics(path: str | Path) -> dict[str, list[float]]:
    """Columns of a file that `CSVSink` wrote; NaN where a row has no value.

    Raises:
        ResultsError: The file can't be read, or a line in it is broken; names the line.
    """
    try:
        whole = _whole_lines(Path(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ResultsError(f"{path}: can't be read: {error}") from error
    reader = csv.reader(io.StringIO(whole, newline=""))
    names = next(reader, [STEP])
    columns: dict[str, list[float]] = {name: [] for name in names}
    for cells in reader:
        if len(cells) != len(names):
            raise ResultsError(
                f"{path}, line {reader.line_num}: expected {len(names)} cells, one for each column, got {len(cells)}; "
                "mend or delete the line"
            )
        for name, cell in zip(names, cells, strict=True):
            try:
                columns[name].append(float(cell) if cell or name == STEP else math.nan)
            except ValueError as error:
                raise ResultsError(
                    f"{path}, line {reader.line_num}: expected a number in column {name!r}, got {cell!r}; mend or "
                    "delete the line"
                ) from error
    return columns


def _read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    reader = csv.DictReader(io.StringIO(_whole_lines(path), newline=""))
    columns = list(reader.fieldnames or [STEP])
    return columns, [{name: row.get(name) or "" for name in columns} for row in reader]


def _whole_lines(path: Path) -> str:
    """The text of a file, without a last line that a crash has cut off."""
    text = path.read_text(encoding="utf-8")
    return text[: text.rfind("\n") + 1]
