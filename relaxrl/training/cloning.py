"""Cloning the way to the minimum: an actor learns the displacement that ends the relaxation, from known minima.

No reward and no critic: crystals are displaced from their minima, and the actor's relative error is followed down, over
the step that it takes from there and the steps after it. For an actor that emits a Hessian the gradient flows through
the solve.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from relaxrl.agents import Agent, limit_radially
from relaxrl.graph import AtomGraph, scatter_mean
from relaxrl.io import graph_from_atoms
from relaxrl.losses import cloning_loss
from relaxrl.metrics import MetricSink
from relaxrl.nn import build_actor
from relaxrl.potentials import parse_calculator
from relaxrl.seeding import Generators
from relaxrl.structures import perturb
from relaxrl.training.cloning_config import CloningConfig
from relaxrl.training.crystals import load_crystals, require_minima
from relaxrl.training.development import bfgs_evaluations, development_starts
from relaxrl.training.folder import RunFolder
from relaxrl.training.interrupt import Interrupt
from relaxrl.training.meters import Meters
from relaxrl.training.plots import plot_learning_curve
from relaxrl.training.progress import TrainingProgress
from relaxrl.training.relaxations import judge_as_optimizer
from relaxrl.training.result import TrainResult
from relaxrl.typing import StateDict


class Cloner:
    """One run; `run` does everything.

    Args:
        config: What to do.
        folder: Where.
        progress: Tells the user; a silent one if None.

    Raises:
        ConfigError: A training crystal is not known to be a minimum.
    """

    def __init__(self, config: CloningConfig, folder: RunFolder, progress: TrainingProgress | None = None) -> None:
        self.config = config
        self.folder = folder
        self.progress = progress or TrainingProgress("cloning", enabled=False)
        self.generators = Generators(config.run.seed)
        self.potential = parse_calculator(config.calculator).potential()
        train, development = load_crystals(
            config.structures, config.kind, config.calculator, config.evaluation, self.generators.numpy("split")
        )
        require_minima(train, "method: `cloning`", "use `method=td3` with `expert.name=bfgs`")
        self.minima = [crystal.atoms for crystal in train]
        self.starts = development_starts(
            development, config.evaluation.count, config.rattle, np.random.default_rng(config.evaluation.seed)
        )
        self.actor = build_actor(config.actor, self.generators.torch("actor")).to(config.run.device)
        self.optimizer = torch.optim.Adam(self.actor.parameters(), config.learning_rate)
        self.meters = Meters()
        self.updates = 0
        self.best_score = math.inf
        self.last_metrics: dict[str, float] = {}
        self._seconds = 0.0  # before a resume
        self._started = time.monotonic()

    @property
    def t_total(self) -> int:
        """Crystals displaced so far."""
        return self.updates * self.config.batch_size

    @property
    def seconds(self) -> float:
        """Time that the run took, that before a resume included."""
        return self._seconds + time.monotonic() - self._started

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
        """One update of the actor."""
        config = self.config
        progress = self.updates / (config.run.updates or 1)
        rate = config.learning_rate * min(1.0, (self.updates + 1) / config.warm_up) * _cosine(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        minima, graph = self._draw()
        steps = config.unroll if progress >= config.unroll_from else 1
        losses = []
        for _ in range(steps):
            evaluated = self.potential.evaluate(graph)
            usable = ~evaluated.failed
            graph = graph.replace(forces=torch.nan_to_num(evaluated.forces), energy=evaluated.energy)
            action = self.actor(graph.to(config.run.device)).to(graph.positions)
            target = _without_drift(minima - graph.positions, graph)
            losses.append(cloning_loss(action, target, graph.graph_index, usable, "relative").mean())
            graph = graph.replace(positions=graph.positions + limit_radially(action.detach(), config.actor.max_step))
        loss = torch.stack(losses).mean()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's signature lacks types
        norm = torch.nn.utils.clip_grad_norm_(self.actor.parameters(), config.grad_clip)
        self.optimizer.step()
        self.updates += 1
        return {"train/cloning_loss": float(losses[0].detach()), "train/grad_norm": float(norm), "train/lr": rate}

    def resume(self) -> None:
        """Continue from the folder's last checkpoint."""
        state = self.folder.load()
        self.generators.load_state_dict(state["generators"])
        self.actor.load_state_dict(state["actor"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.meters.load_state_dict(state["meters"])
        self.updates, self.best_score = state["updates"], state["best_score"]
        self.last_metrics, self._seconds = state["last_metrics"], state["seconds"]

    def state_dict(self) -> StateDict:
        """All that `resume` needs to go on bit for bit."""
        return {
            "generators": self.generators.state_dict(),
            "actor": self.actor.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "meters": self.meters.state_dict(),
            "updates": self.updates,
            "best_score": self.best_score,
            "last_metrics": self.last_metrics,
            "seconds": self.seconds,
        }

    def _draw(self) -> tuple[Tensor, AtomGraph]:
        """Positions (n_atoms, 3) of some minima, and a graph of the same crystals displaced."""
        generator = self.generators.numpy("draw")
        chosen = generator.integers(len(self.minima), size=self.config.batch_size)
        low, high = np.log(self.config.rattle)
        sizes = np.exp(generator.uniform(low, high, size=len(chosen)))
        minima = graph_from_atoms([self.minima[k] for k in chosen])
        moved = [perturb(self.minima[k], size, generator) for k, size in zip(chosen, sizes.tolist(), strict=True)]
        return minima.positions, graph_from_atoms(moved)

    def _evaluate(self, sinks: MetricSink) -> None:
        """Judge the agent as users will use it, keep the best one, checkpoint."""
        self.progress.update(self._fraction(), self.t_total, "evaluation")
        agent = self._agent()
        fmax, steps = self.config.fmax, self.config.evaluation.steps
        bfgs = bfgs_evaluations(self.starts, self.potential, fmax, 10 * steps, self.folder.baseline)
        self.last_metrics = judge_as_optimizer(agent, self.starts, self.potential, fmax, steps, bfgs)
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

    def _agent(self) -> Agent:
        origin: dict[str, Any] = {
            "method": "cloning",
            "structures": self.config.structures,
            "calculator": self.config.calculator,
            "seed": self.config.run.seed,
            "updates": self.updates,
        }
        return Agent(self.actor, self.config.actor.max_step, origin)

    def _checkpoint(self) -> None:
        self.folder.save(self.state_dict(), self.t_total)
        self._agent().save(self.folder.last)

    def _passed(self, interval: int) -> bool:
        """Whether the last update crossed a multiple of `interval`."""
        return self.t_total // interval > (self.t_total - self.config.batch_size) // interval

    def _fraction(self) -> float:
        run = self.config.run
        done = [self.updates / (run.updates or 1)]
        if run.minutes is not None:
            done.append(self.seconds / (60 * run.minutes))
        if run.steps is not None:
            done.append(self.t_total / run.steps)
        return max(done)


def _cosine(progress: float) -> float:
    """From 1 to 0.01 as progress goes from 0 to 1."""
    return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


def _without_drift(displacement: Tensor, graph: AtomGraph) -> Tensor:
    """Less the mean over each structure: a rigid translation is no relaxation, and no force asks for it."""
    return displacement - scatter_mean(displacement, graph.graph_index, graph.n_graphs)[graph.graph_index]
