"""The loop of every run by gradient descent on an explicit loss: update, average, judge, keep the best, checkpoint."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from torch import Tensor, nn

from relaxrl.agents import Agent
from relaxrl.checkpoint import load_checkpoint, save_checkpoint
from relaxrl.device import torch_device
from relaxrl.errors import CheckpointError
from relaxrl.graph import AtomGraph
from relaxrl.io import graph_from_atoms
from relaxrl.metrics import MetricSink
from relaxrl.potentials import Potential, PotentialSource
from relaxrl.seeding import Generators
from relaxrl.training.beginning import begin_with
from relaxrl.training.crystals import load_crystals, odds, require_minima
from relaxrl.training.development import bfgs_evaluations, development_starts
from relaxrl.training.folder import RunFolder
from relaxrl.training.gradient_config import GradientConfig
from relaxrl.training.held_out import hold_out
from relaxrl.training.interrupt import Interrupt
from relaxrl.training.meters import Meters
from relaxrl.training.plots import plot_learning_curve
from relaxrl.training.progress import TrainingProgress
from relaxrl.training.relaxations import judge_as_optimizer
from relaxrl.training.result import TrainResult
from relaxrl.training.straining import displaced, log_uniform
from relaxrl.training.supervised.book import LAST, EpochBook
from relaxrl.training.supervised.engine import Engine
from relaxrl.training.supervised.measures import TargetErrors
from relaxrl.training.supervised.parameters import KIND
from relaxrl.training.supervised.plots import plot_losses
from relaxrl.typing import StateDict

C = TypeVar("C", bound=GradientConfig)

SETTLED = 0.3
"""Share of `fmax` below which a state teaches nothing: no relaxation goes on from there."""


@dataclass(frozen=True)
class Validation:
    """What a module is worth on the development set.

    Attributes:
        loss: The method's loss there.
        targets: Errors of the quantities that `early_stoppings` may name.
    """

    loss: float = math.nan
    targets: Mapping[str, TargetErrors] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        """`validation/loss`, and of each target `validation/TARGET_mae` and `validation/TARGET_rmse`."""
        values = {"validation/loss": self.loss}
        for name, errors in self.targets.items():
            values |= {f"validation/{name}_mae": errors.mae, f"validation/{name}_rmse": errors.rmse}
        return values


class GradientTrainer(ABC, Generic[C]):
    """One run; `run` does everything. A method gives the module, its loss, and the agent that it makes.

    Args:
        config: What to do.
        folder: Where.
        progress: Tells the user; a silent one if None.

    Raises:
        ConfigError: A training crystal is not known to be a minimum, or `trainer.finetune_modules` fits no parameter.
        CheckpointError: `trainer.ckpt_file` can't be used.
    """

    method: str
    """Name of the method in configurations and in the metadata of agents."""

    def __init__(self, config: C, folder: RunFolder, progress: TrainingProgress | None = None) -> None:
        self.config = config
        self.folder = folder
        self.progress = progress or TrainingProgress(self.method, enabled=False)
        device = torch_device(config.run.device, "run.device")
        self.generators = Generators(config.run.seed)
        self.potentials = PotentialSource(config.calculator)
        train, self.development = load_crystals(
            config.structures, config.kind, config.calculator, config.evaluation, self.generators.numpy("split")
        )
        require_minima(train, f"method: `{self.method}`", "use `method=td3` with `expert.name=bfgs`")
        self.minima = [crystal.atoms for crystal in train]
        self._odds = None if config.weights is None else odds(train, config.structures, config.weights)
        self.starts = development_starts(
            self.development, config.evaluation.count, config.rattle, np.random.default_rng(config.evaluation.seed)
        )
        n, total = config.updates_per_epoch, config.total_updates
        self.book = EpochBook(config.trainer, folder.path, folder.path / "checkpoints", -(-total // n))
        module = self.build()
        if config.trainer.ckpt_file is not None and not self.book.checkpoint_file(LAST).exists():
            begin_with(module, config.trainer.ckpt_file)
        self.engine = Engine(config.trainer, module.to(device), n, total)
        self.held_out = hold_out(self.development, self.starts, self.potentials, SETTLED * config.fmax)
        self.meters, self.epoch_meters = Meters(), Meters()
        self.best_score = math.inf
        self.last_metrics: dict[str, float] = {}
        self._seconds = 0.0  # before a resume
        self._started = time.monotonic()

    @abstractmethod
    def build(self) -> nn.Module:
        """What is trained, with parameters from `generators.torch(...)`."""

    @abstractmethod
    def loss(self) -> tuple[Tensor, dict[str, float]]:
        """The loss of one batch, a scalar with gradient, and numbers for `metrics.csv`."""

    @abstractmethod
    def agent(self, module: nn.Module, metadata: dict[str, Any]) -> Agent:
        """The agent that a trained module makes."""

    @abstractmethod
    def validation(self, module: nn.Module) -> Validation:
        """The loss, and the errors it is about, of a module's first step from the held-out starts."""

    def validate(self) -> dict[str, float]:
        """What a method measures besides, before relaxations are judged; nothing here."""
        return {}

    @property
    def module(self) -> nn.Module:
        """What is trained."""
        return self.engine.model

    @property
    def potential(self) -> Potential:
        """What evaluates all crystals; `CalculatorError` where each names its own."""
        return self.potentials.one

    @property
    def updates(self) -> int:
        """Updates so far."""
        return self.engine.step

    @property
    def t_total(self) -> int:
        """Crystals displaced so far."""
        return self.updates * self.config.batch_size

    @property
    def seconds(self) -> float:
        """Time that the run took, that before a resume included."""
        return self._seconds + time.monotonic() - self._started

    @property
    def schedule(self) -> float:
        """Share of all updates that is done; what weights follow."""
        return self.updates / self.config.total_updates

    def run(self) -> TrainResult:
        """From where the run stands to its end, or to Ctrl-C."""
        self.book.rewind_log()
        with self.folder.sinks() as sinks, self.progress, Interrupt() as interrupt:
            sinks.truncate(self.t_total)
            self._started = time.monotonic()
            self._tell_length()
            if not self.last_metrics:
                self._record(sinks, self._judged())
            while (reason := self._end()) is None and not interrupt.requested:
                self._step(sinks)
                self.progress.update(self._fraction(), self.t_total)
            self._checkpoint()
        ended_early = interrupt.requested and reason is None
        if reason is not None:
            self.progress.line(self.book.tell_end(reason))
        return TrainResult(
            self.folder.path, self.t_total, self.updates, self.last_metrics, self.best_score, ended_early
        )

    def _tell_length(self) -> None:
        asked, total = self.config.run.updates, self.config.total_updates
        if asked is not None and total < asked:
            epochs, each = self.config.trainer.max_epochs, self.config.updates_per_epoch
            self.progress.line(
                f"{total} updates, not the {asked} of `run.updates`: `trainer.max_epochs` is {epochs}, and an epoch "
                f"{each} updates; raise it for more"
            )

    def update(self) -> dict[str, float]:
        """One update of the parameters and of their average; the rate of the next one remains to be set."""
        rate = self.engine.rate.rate
        loss, metrics = self.loss()
        norm = self.engine.update(loss)
        return metrics | {"train/loss": float(loss.detach()), "train/grad_norm": norm, "train/lr": rate}

    def resume(self) -> None:
        """Continue from the folder's last checkpoint.

        Raises:
            CheckpointError: There is none, or it can't be used.
        """
        last = self.book.checkpoint_file(LAST)
        if not last.exists():
            raise CheckpointError(f"{last}: no checkpoint was written before the run ended; start anew")
        self.load_state_dict(load_checkpoint(last, KIND))

    def state_dict(self) -> StateDict:
        """All that a resumed run needs to go on bit for bit."""
        return {
            **self.engine.state_dict(),
            **self.book.state_dict(),
            "generators": self.generators.state_dict(),
            "meters": self.meters.state_dict(),
            "epoch_meters": self.epoch_meters.state_dict(),
            "best_score": self.best_score,
            "last_metrics": self.last_metrics,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a state made by `state_dict`."""
        self.engine.load_state_dict(state, str(self.book.checkpoint_file(LAST)))
        self.book.load_state_dict(state)
        self.generators.load_state_dict(state["generators"])
        self.meters.load_state_dict(state["meters"])
        self.epoch_meters.load_state_dict(state["epoch_meters"])
        self.best_score = state["best_score"]
        self.last_metrics, self._seconds = state["last_metrics"], state["seconds"]

    def draw(self) -> tuple[list[int], AtomGraph]:
        """A batch of training crystals displaced from their minima, and which of `minima` they are."""
        generator = self.generators.numpy("draw")
        chosen = self.choose(generator)
        sizes = log_uniform(self.config.rattle, len(chosen), generator)
        moved = [displaced(self.minima[k], size, generator) for k, size in zip(chosen, sizes, strict=True)]
        return chosen, graph_from_atoms(moved)

    def choose(self, generator: np.random.Generator) -> list[int]:
        """Which of `minima` the next batch is made of."""
        return self.pick(self.config.batch_size, generator)

    def pick(self, n: int, generator: np.random.Generator) -> list[int]:
        """Some of `minima`, as often as their files' weights say."""
        number = len(self.minima)
        drawn = generator.integers(number, size=n) if self._odds is None else generator.choice(number, n, p=self._odds)
        chosen: list[int] = drawn.tolist()
        return chosen

    def current_agent(self) -> Agent:
        """The agent as it stands, of the averaged parameters where there is an average."""
        metadata: dict[str, Any] = {
            "method": self.method,
            "structures": self.config.structures,
            "calculator": self.config.calculator,
            "elements": sorted({symbol for atoms in self.minima for symbol in atoms.symbols}),
            "seed": self.config.run.seed,
            "updates": self.updates,
        }
        return self.agent(self.engine.exported, metadata)

    def _step(self, sinks: MetricSink) -> None:
        """An update, and what is due after it: log, validation at the end of an epoch, relaxations, checkpoints."""
        metrics = self.update()
        self.meters.add(metrics)
        self.epoch_meters.add(metrics)
        ends = self.updates % self.config.updates_per_epoch == 0 or self.updates == self.config.total_updates
        row, slot = self._close_epoch() if ends else ({}, None)
        if not ends:
            self.engine.next_rate()
            if self.updates % self.config.trainer.log_steps == 0:
                self.book.write(self.book.epoch + 1, self.updates, self.epoch_meters.means)
        if self._passed(self.config.evaluation.every) or self._end() is not None:
            self._record(sinks, row | self._judged(), slot)
        elif row or self._passed(self.config.run.log_every):
            sinks.write(self.t_total, {"time/seconds": self.seconds} | self.meters.flush() | row)
            if ends:
                self._checkpoint(slot)

    def _close_epoch(self) -> tuple[dict[str, float], int | None]:
        """Numbers of the epoch, and the slot of its checkpoint if it is among the best."""
        validation = self.validation(self.engine.exported)
        slot = None
        if math.isfinite(validation.loss):
            slot = self.book.close_epoch(validation.loss, validation.targets)
        else:  # nothing is held out, or nothing can be said of it
            self.book.epoch += 1
        self.engine.next_rate(validation.loss)
        means = self.epoch_meters.flush()
        validated = validation.metrics()
        if self.book.epoch % self.config.trainer.log_epochs == 0:
            self.book.write(self.book.epoch, self.updates, means | validated)
        return {"epoch": self.book.epoch, "train/epoch_loss": means["train/loss"]} | validated, slot

    def _judged(self) -> dict[str, float]:
        """Judge the agent as users will use it, and keep the best one."""
        self.progress.update(self._fraction(), self.t_total, "evaluation")
        agent = self.current_agent()
        fmax, steps = self.config.fmax, self.config.evaluation.steps
        bfgs = bfgs_evaluations(self.starts, self.potentials, fmax, 10 * steps, self.folder.baseline)
        measured = self.validate()
        self.last_metrics = measured | judge_as_optimizer(agent, self.starts, self.potentials, fmax, steps, bfgs)
        ratio = self.last_metrics["eval/ratio_to_bfgs"]
        if ratio < self.best_score:
            self.best_score = ratio
            agent.save(self.folder.best)
        note = f"{ratio:.3f} of BFGS's evaluations, {self.last_metrics['eval/converged']:.0%} converged"
        self.progress.line(f"{self.updates} updates, {self.seconds:.0f} s: {note}")
        self.progress.update(self._fraction(), self.t_total, note)
        return self.last_metrics

    def _record(self, sinks: MetricSink, row: dict[str, float], slot: int | None = None) -> None:
        """Write a row with what the agent was judged by, draw the curves, checkpoint."""
        sinks.write(self.t_total, {"time/seconds": self.seconds} | self.meters.flush() | row)
        plot_learning_curve(self.folder.metrics, self.folder.plots)
        plot_losses(self.folder.metrics, self.folder.plots / "loss.png")
        self._checkpoint(slot)

    def _checkpoint(self, slot: int | None = None) -> None:
        """Write the last state, and that of a slot of the best ones."""
        self.book.mark_log()
        state = self.state_dict()
        for which in (LAST,) if slot is None else (slot, LAST):
            save_checkpoint(self.book.checkpoint_file(which), KIND, state)
        self.current_agent().save(self.folder.last)

    def _end(self) -> str | None:
        """Why training is over; None if it is not."""
        if self.book.stopping.met:
            return "early stopping"
        if self.engine.rate.exhausted:
            return f"the learning rate fell below `min_lr` = {self.config.trainer.min_lr}"
        return None if self._fraction() < 1.0 else "its length"

    def _passed(self, interval: int) -> bool:
        """Whether the last update crossed a multiple of `interval`."""
        return self.t_total // interval > (self.t_total - self.config.batch_size) // interval

    def _fraction(self) -> float:
        run = self.config.run
        done = [self.schedule]
        if run.minutes is not None:
            done.append(self.seconds / (60 * run.minutes))
        if run.steps is not None:
            done.append(self.t_total / run.steps)
        return max(done)
