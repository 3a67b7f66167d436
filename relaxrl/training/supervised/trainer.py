"""The loop of every supervised stage: epochs of updates, each judged on validation data and checkpointed."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from relaxrl.checkpoint import load_checkpoint, save_checkpoint
from relaxrl.config import to_dict
from relaxrl.errors import CheckpointError, ConfigError
from relaxrl.metrics import CSVSink, MetricSink
from relaxrl.seeding import Generators
from relaxrl.training.interrupt import Interrupt
from relaxrl.training.progress import TrainingProgress
from relaxrl.training.supervised.batches import BatchSource
from relaxrl.training.supervised.book import LAST, EpochBook
from relaxrl.training.supervised.config import TrainerConfig
from relaxrl.training.supervised.engine import Engine
from relaxrl.training.supervised.measures import EpochErrors, check_targets
from relaxrl.training.supervised.parameters import KIND, load_parameters
from relaxrl.training.supervised.result import SupervisedResult
from relaxrl.typing import StateDict

B = TypeVar("B")

LossTerms = Callable[[nn.Module, B], Mapping[str, tuple[Tensor, Tensor]]]
"""From a model and a batch to prediction and label of each target."""

_CHANGEABLE = (
    *("resume", "ckpt_file", "save_dir", "max_epochs", "early_stoppings", "early_stopping_mode"),
    *("log_file", "log_steps", "log_epochs", "num_workers"),
)
"""Keys that may change when a run is resumed."""


def resume_source(config: TrainerConfig) -> Path:
    """The checkpoint that `resume` goes on from.

    The run's last one; `ckpt_file` if it belongs to this run, or if the run has none yet. A `ckpt_file` from elsewhere
    is what a run began with: it must not begin anew when it is resumed by the same configuration.
    """
    folder = Path(config.save_dir)
    last = folder / f"{config.run_name}_{LAST}.pt"
    if config.ckpt_file is None:
        return last
    given = Path(config.ckpt_file)
    return last if last.exists() and given.resolve().parent != folder.resolve() else given


class SupervisedTrainer(Generic[B]):
    """One run; `run` does everything.

    On a CPU a run that was interrupted, or killed, and resumed gives the numbers of one that was left alone: it goes on
    from its last whole epoch with all its state, the order of the data and the generator of dropout included.

    Args:
        config: What to do; see `TrainerConfig`.
        model: Trained in place. The averaged copy is `exported`.
        loss_terms: Prediction and label of each target. Called with the model in training mode in updates, with the
            averaged one in evaluation mode and without gradients in validation.
        train: Batches of training data.
        validation: Batches of validation data; their mean loss decides which checkpoints are kept.
        device: Where the model is moved to. Batches are moved by `loss_terms`.
        progress: Tells the user; a silent one if None.

    Raises:
        ConfigError: A key fits neither the model nor the run that is to be resumed, or a new run would overwrite one.
        CheckpointError: A checkpoint is missing, damaged, or of another architecture.
    """

    def __init__(
        self,
        config: TrainerConfig,
        model: nn.Module,
        loss_terms: LossTerms[B],
        train: BatchSource[B],
        validation: BatchSource[B],
        device: str = "cpu",
        progress: TrainingProgress | None = None,
    ) -> None:
        self.config = config
        self.folder = Path(config.save_dir)
        self.loss_terms = loss_terms
        self.train, self.validation = train, validation
        self.book = EpochBook(config, self.folder, self.folder)
        self.progress = progress or TrainingProgress("training", enabled=False)
        state = self._resumed()
        if state is None and config.ckpt_file is not None:
            load_parameters(model, config.ckpt_file)
        self.model = model.to(device)
        self.generators = Generators(secrets.randbits(32) if config.seed is None else config.seed)
        self._dropout = self.generators.torch("dropout").get_state()
        self._device = next(self.model.parameters()).device
        self.engine = Engine(config, self.model, len(train))
        self.metrics: dict[str, float] = {}
        self._checked = False
        if state is not None:
            self.load_state_dict(state)

    @property
    def exported(self) -> nn.Module:
        """The model that is validated and exported: the averaged one, unless there is no average."""
        return self.engine.exported

    @property
    def step(self) -> int:
        """Optimizer steps so far."""
        return self.engine.step

    @property
    def epoch(self) -> int:
        """Whole epochs so far."""
        return self.book.epoch

    def checkpoint_file(self, which: int | str) -> Path:
        """Path of a checkpoint: slot 0, 1, ... of the best ones, or `last`."""
        return self.book.checkpoint_file(which)

    @property
    def metrics_file(self) -> Path:
        """Numbers of each epoch, by optimizer steps."""
        return self.folder / f"{self.config.run_name}_metrics.csv"

    def run(self) -> SupervisedResult:
        """From where the run stands to its end, or to Ctrl-C."""
        self.book.rewind_log()
        with self.progress, Interrupt() as interrupt, CSVSink(self.metrics_file) as sink, self._own_randomness():
            sink.truncate(self.step if self.epoch else -1)
            if not self.epoch:
                self._save([LAST])  # a run that is killed in its first epoch can be resumed as well
            while (reason := self._end()) is None and not interrupt.requested:
                if not self._run_epoch(sink, interrupt):
                    break
                self.progress.update(self.epoch / self.config.max_epochs, self.step, f"epoch {self.epoch}")
        result = self._result(reason or "interrupted", interrupt.requested and reason is None)
        if reason is not None:
            self.progress.line(self.book.tell_end(reason))
        return result

    def state_dict(self) -> StateDict:
        """All that a resumed run needs to go on bit for bit, as it was after the last whole epoch."""
        return {
            **self.engine.state_dict(),
            **self.book.state_dict(),
            "config": to_dict(self.config),
            "metrics": self.metrics,
            "generators": self.generators.state_dict(),
            "dropout": self._dropout,
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a state made by `state_dict`.

        Raises:
            CheckpointError: It is of another architecture.
            ConfigError: It is of a run that was asked for something else.
        """
        self._check_same(state["config"])
        self.engine.load_state_dict(state, str(resume_source(self.config)))
        self.book.load_state_dict(state)
        self.metrics = state["metrics"]
        self.generators.load_state_dict(state["generators"])
        self._dropout = state["dropout"]

    def _run_epoch(self, sink: MetricSink, interrupt: Interrupt) -> bool:
        """One epoch of updates, its validation and its checkpoints; False if it was interrupted."""
        errors = EpochErrors(self.config.lossfn, self.config.losses_weight)
        self.model.train()
        last = len(self.train)
        batches = self.train.epoch(self.generators.torch("order"), self.config.num_workers)
        for number, batch in enumerate(batches, start=1):
            if interrupt.requested:
                return False
            self._update(errors, batch)
            if self.step % self.config.log_steps == 0:
                self.book.write(self.epoch + 1, self.step, {"lr": self.engine.rate.rate} | errors.metrics("train"))
            if number < last:
                self.engine.next_rate()
        used = self.engine.rate.rate
        validated = self._validate()
        self.engine.next_rate(validated.loss)
        slot = self.book.close_epoch(validated.loss, validated.targets)
        self.metrics = {"lr": used} | errors.metrics("train") | validated.metrics("validation")
        # Rows before checkpoints: those that a checkpoint doesn't know are written anew by the run that goes on.
        sink.write(self.step, {"epoch": self.epoch} | self.metrics)
        if self.epoch % self.config.log_epochs == 0:
            self.book.write(self.epoch, self.step, self.metrics)
        self._save([LAST] if slot is None else [slot, LAST])
        return True

    def _update(self, errors: EpochErrors, batch: B) -> None:
        terms = self.loss_terms(self.model, batch)
        if not self._checked:
            check_targets(terms, self.config.losses_weight, "losses_weight", all_of_them=True)
            check_targets(terms, self.config.early_stoppings, "early_stoppings", all_of_them=False)
            self._checked = True
        loss = errors.add(terms)
        errors.require_finite(f"epoch {self.epoch + 1}, step {self.step + 1}")
        self.engine.update(loss)

    @torch.no_grad()
    def _validate(self) -> EpochErrors:
        errors = EpochErrors(self.config.lossfn, self.config.losses_weight)
        model = self.exported
        training = model.training
        model.eval()
        for batch in self.validation.epoch(None, self.config.num_workers):
            errors.add(self.loss_terms(model, batch))
        model.train(training)
        errors.require_finite(f"validation after epoch {self.epoch + 1}")
        return errors

    def _end(self) -> str | None:
        """Why training is over; None if it is not."""
        if self.book.stopping.met:
            return "early stopping"
        if self.engine.rate.exhausted:
            return f"the learning rate fell below `min_lr` = {self.config.min_lr}"
        return "`max_epochs`" if self.epoch >= self.config.max_epochs else None

    def _result(self, reason: str, interrupted: bool) -> SupervisedResult:
        best = self.book.best.best
        file = None if best is None else self.book.checkpoint_file(best.slot)
        return SupervisedResult(
            epochs=self.epoch,
            steps=self.step,
            best_file=file,
            best_epoch=0 if best is None else best.epoch,
            best_error=math.inf if best is None else best.error,
            reason=reason,
            metrics=self.metrics,
            interrupted=interrupted,
        )

    def _save(self, which: list[int | str]) -> None:
        self._dropout = torch.get_rng_state() if self._device.type == "cpu" else torch.cuda.get_rng_state(self._device)
        self.book.mark_log()
        state = self.state_dict()
        for name in which:
            save_checkpoint(self.book.checkpoint_file(name), KIND, state)

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """Lend torch's global generator, which dropout draws from, to this run, and restore it."""
        cuda = self._device.type == "cuda"
        with torch.random.fork_rng(devices=[self._device] if cuda else []):
            if cuda and not self.epoch:
                torch.cuda.manual_seed(self.generators.seed)
            elif cuda:
                torch.cuda.set_rng_state(self._dropout, self._device)
            else:
                torch.set_rng_state(self._dropout)
            yield

    def _resumed(self) -> StateDict | None:
        """The state to go on from; None for a new run."""
        if self.config.resume:
            path = resume_source(self.config)
            if not path.exists():
                raise CheckpointError(f"{path}: there is no such checkpoint to resume; start anew with `resume: false`")
            return load_checkpoint(path, KIND)
        last = self.book.checkpoint_file(LAST)
        if last.exists():
            raise ConfigError(
                f"`{last}` belongs to an earlier run; continue it with `resume: true`, or choose another `run_name` or "
                "`save_dir`"
            )
        return None

    def _check_same(self, before: Mapping[str, object]) -> None:
        source, now = resume_source(self.config), to_dict(self.config)
        for key, value in now.items():
            drawn = key == "seed" and value is None
            if key not in _CHANGEABLE and before.get(key, value) != value and not drawn:
                raise ConfigError(
                    f"`{key}` is {value!r}, but the run in {source} was started with {before.get(key)!r}; a "
                    f"resumed run keeps all keys but {', '.join(_CHANGEABLE)}"
                )
        if before["lr_scheduler"] != "reduce_on_plateau" and before["max_epochs"] != now["max_epochs"]:
            kwargs = now["lr_scheduler_kwargs"]
            if now["lr_scheduler"] == "cosine_annealing" and "T_max" not in kwargs:
                raise ConfigError(
                    f"`max_epochs` is {now['max_epochs']}, but the cosine of the run in {source} ends at "
                    f"{before['max_epochs']}; only a run with its own `lr_scheduler_kwargs.T_max` can be prolonged"
                )
