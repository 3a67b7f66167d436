"""The training loop: act, store, update, evaluate, checkpoint."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from relaxrl.agents import (
    TD3,
    Agent,
    CandidateRanking,
    MixedReplay,
    MixedSample,
    PrioritizedReplay,
    ReplayBuffer,
    SizeCurriculum,
    default_capacity,
    difficulty_weights,
    load_agent,
    start_from,
    train_only_heads,
)
from relaxrl.device import torch_device
from relaxrl.envs import RelaxationEnv
from relaxrl.metrics import MetricSink
from relaxrl.nn import Actor, RankedActor, RankedActorConfig, build_actor, build_critic
from relaxrl.potentials import Potential, parse_calculator
from relaxrl.seeding import Generators
from relaxrl.structures import Crystal
from relaxrl.training.config import TrainConfig
from relaxrl.training.crystals import check_expert, load_crystals
from relaxrl.training.development import DevelopmentSet, bfgs_evaluations, development_starts
from relaxrl.training.diagnostics import Figures, diagnose
from relaxrl.training.folder import RunFolder
from relaxrl.training.interrupt import Interrupt
from relaxrl.training.meters import Meters
from relaxrl.training.plots import plot_figures, plot_learning_curve
from relaxrl.training.progress import TrainingProgress
from relaxrl.training.result import TrainResult
from relaxrl.training.rollout import Rollout
from relaxrl.typing import StateDict


class Trainer:
    """One run. `run` does everything; the methods it calls are the phases.

    Args:
        config: What to do.
        folder: Where; its checkpoint is loaded by `resume`.
        progress: Tells the user; a silent one if None.
    """

    def __init__(self, config: TrainConfig, folder: RunFolder, progress: TrainingProgress | None = None) -> None:
        self.config = config
        self.folder = folder
        self.progress = progress or TrainingProgress("training", enabled=False)
        device = torch_device(config.run.device, "run.device")
        self.generators = Generators(config.run.seed)
        potential: Potential = parse_calculator(config.calculator).potential()
        train, development = load_crystals(
            config.structures, config.kind, config.calculator, config.evaluation, self.generators.numpy("split")
        )
        check_expert(config.expert, train)
        self.crystals: list[Crystal] = train

        env_config = config.env.on(config.run.device)
        env = RelaxationEnv(train, potential, env_config, self.generators.numpy("env"), config.run.n_envs)
        starts = development_starts(
            development, config.evaluation.count, config.env.rattle, np.random.default_rng(config.evaluation.seed)
        )
        self.development = DevelopmentSet(starts, potential, env_config, config.evaluation.steps)

        self.actor = build_actor(config.actor, self.generators.torch("actor")).to(device)
        if config.init_agent is not None:
            start_from(self.actor, load_agent(config.init_agent), config.init_agent)
        if config.trained == "heads":
            train_only_heads(self.actor)
        self.critic = build_critic(config.critic, self.generators.torch("critic")).to(device)
        self.policy: Actor | RankedActor = self.actor
        if config.candidates is None:
            self.learner = TD3(self.actor, self.critic, config.td3)
        else:
            sizes = RankedActorConfig(actor=config.actor, critic=config.critic, candidates=config.candidates)
            self.policy = RankedActor(sizes, self.actor.requires_grad_(False), self.critic)
            self.learner = CandidateRanking(self.policy, config.td3)
        self.replay = _build_replay(config, float(np.mean([len(crystal.atoms) for crystal in train])))
        self.curriculum = SizeCurriculum(config.curriculum, [len(crystal.atoms) for crystal in train])
        self.meters = Meters()
        self.rollout = Rollout(
            env,
            self.learner,
            config.expert,
            config.exploration,
            config.replay.n_step,
            choices=self.generators.numpy("driver"),
            noise=self.generators.torch("exploration"),
            meters=self.meters,
        )
        self.remaining_fmax = np.full(len(train), config.env.fmax)  # eV/Å, after each crystal's last episode
        self.history: list[Figures] = []
        self.t_total = 0
        self.episodes = 0
        self.best_score = float("inf")
        self.last_metrics: dict[str, float] = {}
        self._agent_acts = False  # not yet while the expert warms up
        self._owed_updates = 0.0
        self._seconds = 0.0  # before a resume
        self._started = time.monotonic()
        self._weigh()

    def run(self) -> TrainResult:
        """From where the run stands to its end, or to Ctrl-C."""
        with self.folder.sinks() as sinks, self.progress, Interrupt() as interrupt:
            sinks.truncate(self.t_total)
            self._started = time.monotonic()
            if not self.history:
                if self.t_total == 0:
                    self._checkpoint()  # a run killed in its warm-up can be resumed too
                self._warm_up(interrupt)
                if not interrupt.requested:
                    self._evaluate(sinks)
            while not self._finished() and not interrupt.requested:
                self._collect()
                self._learn()
                if self._passed(self.config.evaluation.every):
                    self._evaluate(sinks)
                elif self._passed(self.config.run.log_every):
                    self._log(sinks, {})
                self.progress.update(self._fraction(), self.t_total)
            if not interrupt.requested and self.history[-1].t_total != self.t_total:
                self._evaluate(sinks)
            self._checkpoint()
        best = float(np.exp(self.best_score))
        return TrainResult(
            self.folder.path, self.t_total, self.learner.updates, self.last_metrics, best, interrupt.requested
        )

    def resume(self) -> None:
        """Continue from the folder's last checkpoint."""
        state = self.folder.load()
        self.generators.load_state_dict(state["generators"])
        self.learner.load_state_dict(state["learner"])
        self.replay.load_state_dict(state["replay"])
        self.rollout.load_state_dict(state["rollout"])
        self.curriculum.load_state_dict(state["curriculum"])
        self.meters.load_state_dict(state["meters"])
        self.remaining_fmax = state["remaining_fmax"].copy()
        self.history = [Figures(**figures) for figures in state["history"]]
        self.t_total, self.episodes = state["t_total"], state["episodes"]
        self.best_score, self.last_metrics = state["best_score"], state["last_metrics"]
        self._owed_updates, self._seconds = state["owed_updates"], state["seconds"]
        self._agent_acts = state["agent_acts"]

    def state_dict(self) -> StateDict:
        """All that `resume` needs to go on bit for bit."""
        return {
            "generators": self.generators.state_dict(),
            "learner": self.learner.state_dict(),
            "replay": self.replay.state_dict(),
            "rollout": self.rollout.state_dict(),
            "curriculum": self.curriculum.state_dict(),
            "meters": self.meters.state_dict(),
            "remaining_fmax": self.remaining_fmax,
            "history": [vars(figures) for figures in self.history],
            "t_total": self.t_total,
            "episodes": self.episodes,
            "best_score": self.best_score,
            "last_metrics": self.last_metrics,
            "owed_updates": self._owed_updates,
            "agent_acts": self._agent_acts,
            "seconds": self.seconds,
        }

    @property
    def seconds(self) -> float:
        """Time that the run took, that before a resume included."""
        return self._seconds + time.monotonic() - self._started

    def _warm_up(self, interrupt: Interrupt) -> None:
        """Fill the expert's buffer, imitate, and let the untrained agent act, as far as configured."""
        config = self.config.warm_up
        if config.expert_steps or config.cloning_updates or config.agent_steps:
            self.progress.line(
                f"warming up: {config.expert_steps} steps of the expert, {config.cloning_updates} updates that imitate "
                f"it, {config.agent_steps} steps of the agent before it learns"
            )
        self.progress.update(0.0, 0, "the expert fills its buffer")
        if config.expert_steps and self.t_total == 0:
            self.rollout.begin(self.t_total, expert_only=True)
        while self.t_total < config.expert_steps and not interrupt.requested:
            self._collect(expert_only=True)
        updates = config.cloning_updates if len(self.replay.expert) else 0
        if self.config.run.updates is not None:
            updates = min(updates, self.config.run.updates)
        while self.learner.updates < updates and not interrupt.requested:
            self._update(cloning_only=True)
            self.progress.update(self._fraction(), self.t_total, f"imitation {self.learner.updates}/{updates}")
        if interrupt.requested:
            return
        if not self._agent_acts:
            self.rollout.begin(self.t_total)
            self._agent_acts = True
        while self.t_total < config.expert_steps + config.agent_steps and not interrupt.requested:
            self._collect()
        self._owed_updates = 0.0

    def _collect(self, expert_only: bool = False) -> None:
        """One step of every slot into the buffers."""
        experience = self.rollout.step(self.t_total, expert_only)
        if experience.agent is not None:
            self.replay.add(experience.agent, is_expert=False)
        if experience.expert is not None:
            self.replay.add(experience.expert, is_expert=True)
        for index, _, fmax in experience.ended:
            self.remaining_fmax[index] = fmax
        self.curriculum.record([converged for _, converged, _ in experience.ended])
        if experience.ended:
            self._weigh()
        self.episodes += len(experience.ended)
        self.t_total += self.config.run.n_envs
        self._owed_updates += self.config.run.updates_per_step * self.config.run.n_envs

    def _learn(self) -> None:
        """The updates that the last steps have earned."""
        while self._owed_updates >= 1.0:
            self._owed_updates -= 1.0
            self._update()

    def _update(self, cloning_only: bool = False) -> None:
        size, draws = self.config.replay.batch_size, self.generators.numpy("replay")
        if cloning_only:
            sample = MixedSample(None, self.replay.expert.sample(size, draws, self.t_total))
        else:
            sample = self.replay.sample(size, draws, self.t_total)
        metrics = self.learner.update(
            sample.agent, sample.expert, self.generators.torch("smoothing"), self.t_total, cloning_only=cloning_only
        )
        self.replay.update_priorities(sample, self.learner.agent_td_errors, self.learner.expert_td_errors)
        self.meters.add({f"train/{name}": value for name, value in metrics.items()})

    def _weigh(self) -> None:
        """Draw what the curriculum has unlocked, hard crystals more often."""
        config = self.config.sampling
        weights = difficulty_weights(self.remaining_fmax, self.config.env.fmax, config.power, config.largest_ratio)
        self.rollout.env.weights = weights * self.curriculum.unlocked()

    def _evaluate(self, sinks: MetricSink) -> None:
        """Judge the policy, keep the best one, diagnose, plot, checkpoint."""
        self.progress.update(self._fraction(), self.t_total, "evaluation")
        bfgs = bfgs_evaluations(
            self.development.starts,
            self.development.potential,
            self.config.env.fmax,
            10 * self.config.evaluation.steps,
            self.folder.baseline,
        )
        judgement = self.development.judge(self.learner, self.actor, self.critic, bfgs, self.t_total)
        self.history.append(judgement.figures)
        self.last_metrics = judgement.metrics
        self._log(sinks, judgement.metrics)
        if judgement.score < self.best_score:
            self.best_score = judgement.score
            self._save_agent(self.folder.best)
        plot_figures(self.history, self.folder.plots)
        plot_learning_curve(self.folder.metrics, self.folder.plots)
        self._report(judgement.metrics)
        self._checkpoint()

    def _report(self, metrics: Mapping[str, float]) -> None:
        """A line for the user, and a warning for each abnormal figure."""
        note = (
            f"{metrics['eval/ratio_to_bfgs']:.2f} of BFGS's evaluations, {metrics['eval/converged']:.0%} converged, "
            f"F_max down to {metrics['eval/fmax_after_3']:.1%} after 3 steps"
        )
        self.progress.line(f"t_total {self.t_total}, {self.learner.updates} updates, {self.seconds:.0f} s: {note}")
        for diagnosis in diagnose(self.history, self.config.diagnosis):
            self.progress.line(f"  {diagnosis.figure}: {diagnosis.message}", style="yellow")
        self.progress.update(self._fraction(), self.t_total, note)

    def _log(self, sinks: MetricSink, values: Mapping[str, float]) -> None:
        """One row of metrics."""
        counters = {
            "time/seconds": self.seconds,
            "time/fps": self.t_total / max(self.seconds, 1e-9),
            "rollout/episodes": self.episodes,
            "train/n_updates": self.learner.updates,
            "relax/curriculum_stage": self.curriculum.stage,
            "replay/agent_size": len(self.replay.agent),
            "replay/expert_size": len(self.replay.expert),
        }
        sinks.write(self.t_total, counters | self.meters.flush() | dict(values))

    def _checkpoint(self) -> None:
        self.folder.save(self.state_dict(), self.t_total)
        self._save_agent(self.folder.last)

    def _save_agent(self, folder: Path) -> None:
        agent = Agent(self.policy, self.learner.config.max_step, self._description())
        agent.save(folder)

    def _description(self) -> dict[str, Any]:
        """What an agent should say of its origin."""
        return {
            "feature_names": list(self.config.env.features),
            "structures": self.config.structures,
            "calculator": self.config.calculator,
            "init_agent": self.config.init_agent,
            "seed": self.config.run.seed,
            "t_total": self.t_total,
            "updates": self.learner.updates,
        }

    def _passed(self, interval: int) -> bool:
        """Whether the last step crossed a multiple of `interval`."""
        before = self.t_total - self.config.run.n_envs
        return self.t_total // interval > before // interval

    def _finished(self) -> bool:
        return self._fraction() >= 1.0

    def _fraction(self) -> float:
        """How much of the run is done, by whichever limit is nearest."""
        run = self.config.run
        done = [0.0]
        if run.steps is not None:
            done.append(self.t_total / run.steps)
        if run.updates is not None:
            done.append(self.learner.updates / run.updates)
        if run.minutes is not None:
            done.append(self.seconds / (60 * run.minutes))
        return max(done)


def _build_replay(config: TrainConfig, mean_atoms: float) -> MixedReplay:
    """Two buffers of the configured kind and capacity."""
    capacity = config.replay.capacity or default_capacity(max(mean_atoms, 1.0))
    agent, expert = (
        ReplayBuffer(capacity)
        if config.replay.priority is None
        else PrioritizedReplay(capacity, config.replay.priority)
        for _ in range(2)
    )
    return MixedReplay(agent, expert, config.replay.expert_share)
