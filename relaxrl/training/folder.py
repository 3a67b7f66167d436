"""The run folder: what a run leaves behind, and what a resumed one finds."""

from __future__ import annotations

import json
import time
from pathlib import Path

from relaxrl.checkpoint import load_checkpoint, save_checkpoint, write_atomically
from relaxrl.errors import CheckpointError, ConfigError
from relaxrl.metrics import CSVSink, FanOut, MetricSink, TensorBoardSink
from relaxrl.provenance import versions
from relaxrl.typing import StateDict

KIND = "training"
"""Kind of the checkpoints in a run folder."""

KEPT = 2
"""Checkpoints kept: the last one, and the one before in case the disk damages the last."""


class RunFolder:
    """Paths of a run folder.

    ::

        config.yaml     the resolved configuration, every default written out
        versions.json   versions of relaxrl, Python and libraries, and the commit
        metrics.csv     one row per logging or evaluation, by environment steps
        tensorboard/    the same for `tensorboard --logdir`
        plots/          diagnostic figures and learning curve
        checkpoints/    all that `--resume` needs
        best/, last/    the agent with the best evaluation, and the one at the end

    Args:
        path: The folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.versions = self.path / "versions.json"
        self.metrics = self.path / "metrics.csv"
        self.baseline = self.path / "bfgs.json"
        self.plots = self.path / "plots"
        self.best = self.path / "best"
        self.last = self.path / "last"
        self._checkpoints = self.path / "checkpoints"

    @classmethod
    def create(cls, pattern: str, seed: int) -> RunFolder:
        """A new run folder.

        Args:
            pattern: Its path; `{seed}` and `{time}` are replaced.
            seed: Of the run.

        Raises:
            ConfigError: There is something in it already, or it can't be made.
        """
        path = Path(pattern.replace("{seed}", str(seed)).replace("{time}", time.strftime("%Y%m%d-%H%M%S")))
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ConfigError(
                f"run.dir: `{path}` is not empty, and a run starts at step 0 in a folder of its own; choose another "
                f"(`run.dir=...`), or continue the run in it with `relaxrl train --resume {path}`"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"run.dir: can't make `{path}`: {error.strerror}") from error
        return cls(path)

    @classmethod
    def existing(cls, path: str | Path) -> RunFolder:
        """The folder of a run to be resumed.

        Raises:
            CheckpointError: It is no run folder.
        """
        folder = cls(path)
        if not folder.config.is_file():
            raise CheckpointError(f"{path}: not a run folder: it has no config.yaml; give the folder that `train` made")
        return folder

    def sinks(self) -> MetricSink:
        """Where the run's numbers go."""
        return FanOut([CSVSink(self.metrics), TensorBoardSink(self.path / "tensorboard")])

    def save(self, state: StateDict, t_total: int) -> Path:
        """Write a checkpoint and drop the oldest ones."""
        path = self._checkpoints / f"{t_total:010d}.pt"
        save_checkpoint(path, KIND, state)
        for stale in self.checkpoints()[:-KEPT]:
            stale.unlink()
        return path

    def load(self) -> StateDict:
        """The newest checkpoint.

        Raises:
            CheckpointError: There is none, or it is damaged.
        """
        files = self.checkpoints()
        if not files:
            raise CheckpointError(f"{self._checkpoints}: no checkpoint was written before the run ended; start anew")
        try:
            return load_checkpoint(files[-1], KIND)
        except CheckpointError as error:
            hint = "; delete it to continue from the one before" if len(files) > 1 else ""
            raise CheckpointError(f"{error}{hint}") from error

    def checkpoints(self) -> list[Path]:
        """Files, oldest first."""
        return sorted(self._checkpoints.glob("*.pt"))

    def write_versions(self) -> None:
        """Record what the run was made with."""
        write_atomically(self.versions, (json.dumps(versions(), indent=2) + "\n").encode())
