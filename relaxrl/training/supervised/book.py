"""What is kept of epochs: the log, the best checkpoints, the criteria that end training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from relaxrl.training.supervised.best import BestCheckpoints
from relaxrl.training.supervised.config import FitConfig
from relaxrl.training.supervised.early_stopping import EarlyStopping
from relaxrl.training.supervised.log import LossLog
from relaxrl.training.supervised.measures import TargetErrors
from relaxrl.typing import StateDict

LAST = "last"
"""What the checkpoint of the last epoch is called, where the best ones have numbers."""


class EpochBook:
    """Counts epochs, and judges by their validation which checkpoints stay and whether training is over.

    Args:
        config: Names, numbers and criteria.
        folder: Of the log.
        checkpoints: Folder of the checkpoints.
        max_epochs: That the log speaks of; those of the configuration if None.

    Attributes:
        epoch: Whole epochs so far.
    """

    def __init__(self, config: FitConfig, folder: Path, checkpoints: Path, max_epochs: int | None = None) -> None:
        self.config = config
        self.epoch = 0
        self.best = BestCheckpoints(config.best_k)
        self.stopping = EarlyStopping(config.early_stoppings, config.early_stopping_mode)
        self._checkpoints = checkpoints
        self._max_epochs = config.max_epochs if max_epochs is None else max_epochs
        self._log = LossLog(folder / config.log_file)
        self._log_size = self._log.size

    def checkpoint_file(self, which: int | str) -> Path:
        """Path of a checkpoint: slot 0, 1, ... of the best ones, or `last`."""
        return self._checkpoints / f"{self.config.run_name}_{which}.pt"

    def close_epoch(self, error: float, targets: Mapping[str, TargetErrors]) -> int | None:
        """Count an epoch; the slot that its checkpoint is to be written to, None if it is not among the best.

        Args:
            error: The validation loss.
            targets: Validation errors that `early_stoppings` may name.
        """
        self.epoch += 1
        self.stopping.update(targets)
        return self.best.offer(error, self.epoch)

    def rewind_log(self) -> None:
        """Forget lines that a run which was killed has written after its last checkpoint."""
        self._log.truncate(self._log_size)

    def mark_log(self) -> None:
        """Take all lines so far as belonging to the checkpoint that comes."""
        self._log_size = self._log.size

    def write(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """Write a line of the log about an epoch or a part of it."""
        self._log.metrics(f"epoch {epoch}/{self._max_epochs} step {step}", values)

    def tell_end(self, reason: str) -> str:
        """Write the log's last line, which names the best checkpoint, and return it."""
        best = self.best.best
        name = "none" if best is None else self.checkpoint_file(best.slot).name
        judged = "" if best is None else f" (epoch {best.epoch}, validation loss {best.error:.6g})"
        text = f"training ended after epoch {self.epoch} ({reason}); best checkpoint: {name}{judged}"
        self._log.line(text)
        return text

    def state_dict(self) -> StateDict:
        """Epochs, heap, criteria, and the length of the log."""
        return {
            "epoch": self.epoch,
            "best": self.best.state_dict(),
            "stopping": self.stopping.state_dict(),
            "log_size": self._log_size,
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a state made by `state_dict`, which may hold more."""
        self.epoch = state["epoch"]
        self.best.load_state_dict(state["best"])
        self.stopping.load_state_dict(state["stopping"])
        self._log_size = state["log_size"]
