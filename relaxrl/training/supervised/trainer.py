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
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from relaxrl.checkpoint import load_checkpoint, save_checkpoint
from relaxrl.config import to_dict
from relaxrl.errors import CheckpointError, ConfigError
from relaxrl.metrics import CSVSink, MetricSink
from relaxrl.seeding import Generators
from relaxrl.training.interrupt import Interrupt
from relaxrl.training.progress import TrainingProgress
from relaxrl.training.supervised.batches import BatchSource
from relaxrl.training.supervised.best import BestCheckpoints
from relaxrl.training.supervised.config import TrainerConfig
from relaxrl.training.supervised.early_stopping import EarlyStopping
from relaxrl.training.supervised.log import LossLog
from relaxrl.training.supervised.measures import EpochErrors, check_targets
from relaxrl.training.supervised.optimizer import build_optimizer
from relaxrl.training.supervised.parameters import KIND, exported, fill, load_parameters, select_trained
from relaxrl.training.supervised.rates import LearningRate
from relaxrl.training.supervised.result import SupervisedResult
from relaxrl.typing import StateDict

B = TypeVar("B")

LossTerms = Callable[[nn.Module, B], Mapping[str, tuple[Tensor, Tensor]]]
"""From a model and a batch to prediction and label of each target."""

LAST = "last"
"""What the checkpoint of the last epoch is called, where the best ones have numbers."""
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
        self.progress = progress or TrainingProgress("training", enabled=False)
        state = self._resumed()
        if state is None and config.ckpt_file is not None:
            load_parameters(model, config.ckpt_file)
        self.model = model.to(device)
        self._trained = select_trained(model, config.finetune_modules)
        self.generators = Generators(secrets.randbits(32) if config.seed is None else config.seed)
        self._dropout = self.generators.torch("dropout").get_state()
        self._device = next(self.model.parameters()).device
        self.average = None
        if config.ema_decay is not None:
            blend = get_ema_multi_avg_fn(config.ema_decay)  # type: ignore[no-untyped-call]  # torch's lacks types
            self.average = AveragedModel(self.model, multi_avg_fn=blend)
        self.optimizer = build_optimizer(config.optimizer, self._trained, config.max_lr, config.optimizer_kwargs)
        self.rate = LearningRate(config, self.optimizer, len(train))
        self.best = BestCheckpoints(config.best_k)
        self.stopping = EarlyStopping(config.early_stoppings, config.early_stopping_mode)
        self.epoch = self.step = 0
        self.metrics: dict[str, float] = {}
        self._checked = False
        self._log = LossLog(self.folder / config.log_file)
        self._log_size = self._log.size
        if state is not None:
            self.load_state_dict(state)

    @property
    def exported(self) -> nn.Module:
        """The model that is validated and exported: the averaged one, unless there is no average."""
        return self.model if self.average is None else self.average.module

    def checkpoint_file(self, which: int | str) -> Path:
        """Path of a checkpoint: slot 0, 1, ... of the best ones, or `last`."""
        return self.folder / f"{self.config.run_name}_{which}.pt"

    @property
    def metrics_file(self) -> Path:
        """Numbers of each epoch, by optimizer steps."""
        return self.folder / f"{self.config.run_name}_metrics.csv"

    def run(self) -> SupervisedResult:
        """From where the run stands to its end, or to Ctrl-C."""
        self._log.truncate(self._log_size)
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
            self._tell(result)
        return result

    def state_dict(self) -> StateDict:
        """All that a resumed run needs to go on bit for bit, as it was after the last whole epoch."""
        return {
            "config": to_dict(self.config),
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rate": self.rate.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "best": self.best.state_dict(),
            "stopping": self.stopping.state_dict(),
            "metrics": self.metrics,
            "generators": self.generators.state_dict(),
            "dropout": self._dropout,
            "log_size": self._log_size,
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a state made by `state_dict`.

        Raises:
            CheckpointError: It is of another architecture.
            ConfigError: It is of a run that was asked for something else.
        """
        self._check_same(state["config"])
        source = str(resume_source(self.config))
        fill(self.model, state["model"], source)
        if self.average is not None:
            fill(self.average.module, exported(state), source)
            self.average.n_averaged.copy_(state["average"]["n_averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rate.load_state_dict(state["rate"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.best.load_state_dict(state["best"])
        self.stopping.load_state_dict(state["stopping"])
        self.metrics = state["metrics"]
        self.generators.load_state_dict(state["generators"])
        self._dropout = state["dropout"]
        self._log_size = state["log_size"]

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
                self._write(self.epoch + 1, {"lr": self.rate.rate} | errors.metrics("train"))
            if number < last:
                self.rate.step()
        used = self.rate.rate
        validated = self._validate()
        self.rate.step(validated.loss)
        self.epoch += 1
        self.stopping.update(validated.targets)
        self.metrics = {"lr": used} | errors.metrics("train") | validated.metrics("validation")
        # Rows before checkpoints: those that a checkpoint doesn't know are written anew by the run that goes on.
        sink.write(self.step, {"epoch": self.epoch} | self.metrics)
        if self.epoch % self.config.log_epochs == 0:
            self._write(self.epoch, self.metrics)
        slot = self.best.offer(validated.loss, self.epoch)
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
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's signature lacks types
        if self.config.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(self._trained, self.config.grad_clip)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.step += 1

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
        if self.stopping.met:
            return "early stopping"
        if self.rate.exhausted:
            return f"the learning rate fell below `min_lr` = {self.config.min_lr}"
        return "`max_epochs`" if self.epoch >= self.config.max_epochs else None

    def _result(self, reason: str, interrupted: bool) -> SupervisedResult:
        best = self.best.best
        file = None if best is None else self.checkpoint_file(best.slot)
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

    def _tell(self, result: SupervisedResult) -> None:
        name = "none" if result.best_file is None else result.best_file.name
        text = (
            f"training ended after epoch {result.epochs} ({result.reason}); best checkpoint: {name} "
            f"(epoch {result.best_epoch}, validation loss {result.best_error:.6g})"
        )
        self._log.line(text)
        self.progress.line(text)

    def _write(self, epoch: int, values: Mapping[str, float]) -> None:
        self._log.metrics(f"epoch {epoch}/{self.config.max_epochs} step {self.step}", values)

    def _save(self, which: list[int | str]) -> None:
        self._dropout = torch.get_rng_state() if self._device.type == "cpu" else torch.cuda.get_rng_state(self._device)
        self._log_size = self._log.size
        state = self.state_dict()
        for name in which:
            save_checkpoint(self.checkpoint_file(name), KIND, state)

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
        last = self.checkpoint_file(LAST)
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
            if key not in _CHANGEABLE and before.get(key) != value and not drawn:
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
