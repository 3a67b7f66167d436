"""The loop of every run by gradient descent on an explicit loss: update, average, judge, keep the best, checkpoint."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from relaxrl.agents import Agent
from relaxrl.device import torch_device
from relaxrl.graph import AtomGraph
from relaxrl.io import graph_from_atoms
from relaxrl.metrics import MetricSink
from relaxrl.potentials import parse_calculator
from relaxrl.seeding import Generators
from relaxrl.structures import perturb
from relaxrl.training.crystals import load_crystals, require_minima
from relaxrl.training.development import bfgs_evaluations, development_starts
from relaxrl.training.folder import RunFolder
from relaxrl.training.gradient_config import GradientConfig
from relaxrl.training.interrupt import Interrupt
from relaxrl.training.meters import Meters
from relaxrl.training.plots import plot_learning_curve
from relaxrl.training.progress import TrainingProgress
from relaxrl.training.relaxations import judge_as_optimizer
from relaxrl.training.result import TrainResult
from relaxrl.typing import StateDict

C = TypeVar("C", bound=GradientConfig)


class GradientTrainer(ABC, Generic[C]):
    """One run; `run` does everything. A method gives the module, its loss, and the agent that it makes.

    Args:
        config: What to do.
        folder: Where.
        progress: Tells the user; a silent one if None.

    Raises:
        ConfigError: A training crystal is not known to be a minimum.
    """

    method: str
    """Name of the method in configurations and in the metadata of agents."""

    def __init__(self, config: C, folder: RunFolder, progress: TrainingProgress | None = None) -> None:
        self.config = config
        self.folder = folder
        self.progress = progress or TrainingProgress(self.method, enabled=False)
        device = torch_device(config.run.device, "run.device")
        self.generators = Generators(config.run.seed)
        self.potential = parse_calculator(config.calculator).potential()
        train, self.development = load_crystals(
            config.structures, config.kind, config.calculator, config.evaluation, self.generators.numpy("split")
        )
        require_minima(train, f"method: `{self.method}`", "use `method=td3` with `expert.name=bfgs`")
        self.minima = [crystal.atoms for crystal in train]
        self.starts = development_starts(
            self.development, config.evaluation.count, config.rattle, np.random.default_rng(config.evaluation.seed)
        )
        self.module = self.build().to(device)
        self.average = _average(self.module, config.ema_decay)
        self.optimizer = torch.optim.Adam(self.module.parameters(), config.learning_rate)
        self.meters = Meters()
        self.updates = 0
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

    def validate(self) -> dict[str, float]:
        """What a method measures on the development set besides relaxations, before they are judged; nothing here."""
        return {}

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
        """Share of `run.updates` that is done; what rates and weights follow."""
        return self.updates / (self.config.run.updates or 1)

    def run(self) -> TrainResult:
        """From where the run stands to its end, or to Ctrl-C."""
        with self.folder.sinks() as sinks, self.progress, Interrupt() as interrupt:
            sinks.truncate(self.t_total)
            self._started = time.monotonic()
            if not self.last_metrics:
                self._evaluate(sinks)
            while self._fraction() < 1.0 and not interrupt.requested:
                self.meters.add(self.update())
                if self._passed(self.config.evaluation.every) or self._fraction() >= 1.0:
                    self._evaluate(sinks)
                elif self._passed(self.config.run.log_every):
                    sinks.write(self.t_total, {"time/seconds": self.seconds} | self.meters.flush())
                self.progress.update(self._fraction(), self.t_total)
            self._checkpoint()
        return TrainResult(
            self.folder.path, self.t_total, self.updates, self.last_metrics, self.best_score, interrupt.requested
        )

    def update(self) -> dict[str, float]:
        """One update of the parameters and of their average."""
        config = self.config
        rate = config.learning_rate * min(1.0, (self.updates + 1) / config.warm_up) * _cosine(self.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss, metrics = self.loss()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's signature lacks types
        norm = torch.nn.utils.clip_grad_norm_(self.module.parameters(), config.grad_clip)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.module)
        self.updates += 1
        return metrics | {"train/grad_norm": float(norm), "train/lr": rate}

    def resume(self) -> None:
        """Continue from the folder's last checkpoint."""
        self.load_state_dict(self.folder.load())

    def state_dict(self) -> StateDict:
        """All that a resumed run needs to go on bit for bit."""
        return {
            "generators": self.generators.state_dict(),
            "module": self.module.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "meters": self.meters.state_dict(),
            "updates": self.updates,
            "best_score": self.best_score,
            "last_metrics": self.last_metrics,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a state made by `state_dict`."""
        self.generators.load_state_dict(state["generators"])
        self.module.load_state_dict(state["module"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.meters.load_state_dict(state["meters"])
        self.updates, self.best_score = state["updates"], state["best_score"]
        self.last_metrics, self._seconds = state["last_metrics"], state["seconds"]

    def draw(self) -> tuple[list[int], AtomGraph]:
        """A batch of training crystals displaced from their minima, and which of `minima` they are."""
        generator = self.generators.numpy("draw")
        chosen = generator.integers(len(self.minima), size=self.config.batch_size).tolist()
        low, high = np.log(self.config.rattle)
        sizes = np.exp(generator.uniform(low, high, size=len(chosen))).tolist()
        moved = [perturb(self.minima[k], size, generator) for k, size in zip(chosen, sizes, strict=True)]
        return chosen, graph_from_atoms(moved)

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
        return self.agent(self.module if self.average is None else self.average.module, metadata)

    def _evaluate(self, sinks: MetricSink) -> None:
        """Judge the agent as users will use it, keep the best one, checkpoint."""
        self.progress.update(self._fraction(), self.t_total, "evaluation")
        agent = self.current_agent()
        fmax, steps = self.config.fmax, self.config.evaluation.steps
        bfgs = bfgs_evaluations(self.starts, self.potential, fmax, 10 * steps, self.folder.baseline)
        measured = self.validate()
        self.last_metrics = measured | judge_as_optimizer(agent, self.starts, self.potential, fmax, steps, bfgs)
        sinks.write(self.t_total, {"time/seconds": self.seconds} | self.meters.flush() | self.last_metrics)
        ratio = self.last_metrics["eval/ratio_to_bfgs"]
        if ratio < self.best_score:
            self.best_score = ratio
            agent.save(self.folder.best)
        plot_learning_curve(self.folder.metrics, self.folder.plots)
        note = f"{ratio:.3f} of BFGS's evaluations, {self.last_metrics['eval/converged']:.0%} converged"
        self.progress.line(f"{self.updates} updates, {self.seconds:.0f} s: {note}")
        self.progress.update(self._fraction(), self.t_total, note)
        self._checkpoint()

    def _checkpoint(self) -> None:
        self.folder.save(self.state_dict(), self.t_total)
        self.current_agent().save(self.folder.last)

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


def _average(module: nn.Module, decay: float | None) -> AveragedModel | None:
    """The moving average of a module's parameters, with a memory that is shorter while there is little to remember."""
    if decay is None:
        return None

    def blend(average: Tensor, new: Tensor, count: Tensor | int) -> Tensor:
        weight = 1.0 - min(decay, (1.0 + float(count)) / (10.0 + float(count)))
        return average.lerp(new, weight)

    return AveragedModel(module, avg_fn=blend)


def _cosine(progress: float) -> float:
    """From 1 to 0.01 as progress goes from 0 to 1."""
    return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
