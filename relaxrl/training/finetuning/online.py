"""An agent that gets better while a campaign goes on."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import shutil
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from relaxrl.agents import Agent, find_agent
from relaxrl.checkpoint import write_atomically
from relaxrl.config import from_dict, to_dict
from relaxrl.errors import CheckpointError, ConfigError, RelaxRLError
from relaxrl.nn import HessianActor
from relaxrl.optimize import Conditions, Relaxed
from relaxrl.structures.frames import Frame
from relaxrl.training.finetuning.batches import RelaxationBatches
from relaxrl.training.finetuning.config import OnlineConfig
from relaxrl.training.finetuning.examples import frames_of, relative_error
from relaxrl.training.finetuning.origin import adapted, hessian_actor, load_learner, load_replay
from relaxrl.training.finetuning.terms import mean_loss, total
from relaxrl.training.supervised.config import FitConfig
from relaxrl.training.supervised.engine import Engine

STATE_FILE, VERSIONS = "learning.json", "versions"
HELD_OUT = 5
"""Each fifth relaxation is never trained on; new agents are judged by these."""


@dataclass(frozen=True)
class Round:
    """One attempt to improve the agent.

    Attributes:
        taken: Structures finished by then.
        version: Of the agent that goes on; 0 is the one that the campaign began with.
        accepted: Whether it is a new one.
        error_before: One step's error as a part of the way, on held-out relaxations.
        error: The same of the attempt.
        updates: Of the parameters.
        seconds: That it took.
    """

    taken: int
    version: int
    accepted: bool
    error_before: float
    error: float
    updates: int
    seconds: float

    @property
    def text(self) -> str:
        """What the user reads of it."""
        outcome = f"from now on version {self.version}" if self.accepted else "not better, not taken"
        if not math.isfinite(self.error):
            return f"learned from {self.taken} structures: training diverged, the agent stays as it was"
        return (
            f"learned from {self.taken} structures, {self.updates} updates in {self.seconds:.1f} s: error of one step "
            f"{self.error_before:.1%} before, {self.error:.1%} now: {outcome}"
        )


class OnlineLearning:
    """Improves the agent of a campaign after every few structures; for `Campaign(..., learn=OnlineLearning())`.

    A new agent is taken only if its steps from points of held-out relaxations are not worse than those of the old one.
    It is saved in `folder`, where `--agent` finds it after the campaign, too. With the campaign's journal learning goes
    on after a kill.

    Args:
        folder: For the agents; None for `NAME.agent` beside a journal `NAME.journal`. Without either the agent stays in
            memory: enough for one worker.
        **settings: Keys of `OnlineConfig`.

    Raises:
        ConfigError: A setting is wrong.

    Attributes:
        rounds: What was tried.
    """

    def __init__(self, folder: str | Path | None = None, **settings: Any) -> None:
        self.config = from_dict(OnlineConfig, settings, source="learn")
        self.folder = None if folder is None else Path(folder)
        self.rounds: list[Round] = []
        self._taken = self._version = 0
        self._ahead, self._place = 1, ""
        self._train: deque[list[Frame]] = deque(maxlen=self.config.memory)
        self._held_out: deque[list[Frame]] = deque(maxlen=max(1, self.config.memory // (HELD_OUT - 1)))
        self._replay: list[Frame] = []

    @property
    def settings(self) -> dict[str, Any]:
        """See `relaxrl.optimize.learner.Learner`."""
        return to_dict(self.config)

    @property
    def policy(self) -> Agent:
        """The agent as it has become."""
        return self._current

    @property
    def version(self) -> int:
        """Of the agent; 0 is the one that the campaign began with."""
        return self._version

    @property
    def agent(self) -> str:
        """Folder of the agent as it has become, or its name where it is still the first."""
        if not self._version or self.folder is None:
            return self._name
        return str(self.folder / VERSIONS / self._place)

    def begin(self, conditions: Conditions, journal: Path | None, before: Sequence[Relaxed]) -> None:
        """See `relaxrl.optimize.learner.Learner`.

        Raises:
            ConfigError: The agent can't be adapted, or would be overwritten.
            CheckpointError: The folder is damaged, or the journal is not the one that goes with it.
        """
        if self.folder is None and journal is not None:
            self.folder = journal.with_name(f"{journal.name.removesuffix('.journal')}.agent")
        self._conditions, self._name = conditions, str(conditions.agent)
        self._parent = self._current = load_learner(conditions.agent)
        self._replay = load_replay(self._name, self.config.replay)
        here = None if self.folder is None else self.folder.resolve()
        if here is not None and Path(self._name).exists() and find_agent(self._name).resolve() == here:
            raise ConfigError(
                f"the agent {self._name} lies where the improved one is written; move it, or choose other results"
            )
        if self.folder is not None and self.folder.exists() and not self.folder.is_dir():
            raise ConfigError(f"{self.folder}: expected a folder for the improved agent, got a file; move it away")
        state = self._read() if before else None
        if state is None and self.folder is not None:
            self._clear(self.folder)
        if state is not None:
            self.rounds = [Round(**one) for one in state["rounds"]]
            self._version, self._place = int(state["version"]), str(state["place"])
        if self._version:
            self._current = load_learner(self.agent)
        judged = self.rounds[-1].taken if self.rounds else 0
        for done in before:
            self._remember(done)
            if self._taken > judged:
                self._learn_if_due()

    def expect(self, n: int) -> None:
        """See `relaxrl.optimize.learner.Learner`.

        Raises:
            ConfigError: There is no folder where other processes could find the agent.
        """
        if self.folder is None:
            raise ConfigError(
                "several workers find the agent in a folder: give OnlineLearning(folder=...), or the campaign a journal"
            )
        self._ahead = n

    def take(self, done: Relaxed) -> None:
        """See `relaxrl.optimize.learner.Learner`."""
        self._remember(done)
        self._learn_if_due()

    def finish(self) -> None:
        """The campaign is over: keep its last agent alone. Without improvement there is none."""
        if self.folder is None:
            return
        shutil.rmtree(self.folder / VERSIONS, ignore_errors=True)
        (self.folder / STATE_FILE).unlink(missing_ok=True)
        if not self._version and self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _remember(self, done: Relaxed) -> None:
        self._taken += 1
        calculator = self._conditions.calculator.of(done.atoms, done.name).text if done.path else ""
        if frames := frames_of(done, calculator, self._conditions.fmax):
            # By the place among all, so that it does not depend on which failed.
            (self._held_out if self._taken % HELD_OUT == 0 else self._train).append(frames)

    def _learn_if_due(self) -> None:
        if self._taken % self.config.every == 0 and self._train and self._held_out:
            self._learn()

    def _learn(self) -> None:
        began = time.monotonic()
        before = mean_loss(hessian_actor(self._current), self._held_out)
        attempt, updates = self._attempt(began)
        after = math.inf if attempt is None else mean_loss(hessian_actor(attempt), self._held_out)
        accepted = after <= before  # so that NaN is none
        if attempt is not None and accepted:
            self._current, self._version = attempt, self._version + 1
        self.rounds.append(
            Round(
                taken=self._taken,
                version=self._version,
                accepted=accepted,
                error_before=relative_error(before),
                error=relative_error(after),
                updates=updates,
                seconds=time.monotonic() - began,
            )
        )
        if self.folder is not None:
            self._write(accepted)

    def _attempt(self, began: float) -> tuple[Agent | None, int]:
        """An agent trained from the present one, None if that diverged, and how many updates there was time for."""
        config = self.config
        actor = copy.deepcopy(hessian_actor(self._current)).train().requires_grad_(True)
        generator = torch.Generator().manual_seed(
            int(np.random.default_rng([config.seed, self._taken]).integers(2**62))
        )
        batches = RelaxationBatches(self._train, self._replay, config.batch_size, config.replay_size)
        rates = FitConfig(
            optimizer="Adam",
            max_lr=config.learning_rate,
            warmup_scheduler="linear",
            warmup_epochs=1,
            ema_decay=0.99,
            ema_warmup=True,
            grad_clip=5.0,
        )
        engine = Engine(rates, actor, max(1, config.updates // 10), config.updates)
        while engine.step < config.updates:
            for batch in batches.epoch(generator):
                if engine.step >= config.updates or time.monotonic() - began > config.seconds:
                    break
                try:
                    engine.update(total(actor, batch))
                except RelaxRLError:  # a campaign does not end because of what was only to make it shorter
                    return None, engine.step
                engine.next_rate()
            else:
                continue
            break
        made = engine.exported
        assert isinstance(made, HessianActor)
        elements = {symbol for frames in (*self._train, *self._held_out) for symbol in frames[0].atoms.symbols}
        metadata = adapted(
            self._parent,
            self._name,
            elements,
            description=f"{self._name}, improved during a campaign under {self._conditions.calculator.text}",
            method="online",
            calculator=self._conditions.calculator.text,
            relaxations=self._taken,
            seed=config.seed,
        )
        return Agent(made.eval().requires_grad_(False), self._parent.max_step, metadata), engine.step

    def _write(self, accepted: bool) -> None:
        """A new agent first, then the state that names it: a kill in between repeats the round."""
        assert self.folder is not None
        if accepted:
            # By what is in it, too: a worker that outlives the campaign must not take another one's for it.
            self._place = f"{self._version}-{self._fingerprint()}"
            self._current.save(self.folder / VERSIONS / self._place)
            self._current.save(self.folder)
        state = {"version": self._version, "place": self._place, "rounds": [asdict(one) for one in self.rounds]}
        write_atomically(self.folder / STATE_FILE, (json.dumps(state, indent=1) + "\n").encode())
        # Workers may still hold structures that were handed out with the versions before.
        oldest = self._version - 1 - -(-self._ahead // self.config.every)
        for stale in (self.folder / VERSIONS).glob("*-*"):
            if int(stale.name.partition("-")[0]) <= oldest:
                shutil.rmtree(stale)

    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for tensor in self._current.actor.state_dict().values():
            digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()[:8]

    def _read(self) -> dict[str, Any] | None:
        """The state of an interrupted campaign; None where no round was over."""
        if self.folder is None or not (self.folder / STATE_FILE).is_file():
            return None
        try:
            state: dict[str, Any] = json.loads((self.folder / STATE_FILE).read_text(encoding="utf-8"))
            state["version"], state["place"], state["rounds"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{self.folder / STATE_FILE}: damaged ({error}); delete the file, and begin anew"
            ) from error
        return state

    @staticmethod
    def _clear(folder: Path) -> None:
        """What an earlier campaign has left, and nothing else."""
        if folder.is_dir():
            shutil.rmtree(folder / VERSIONS, ignore_errors=True)
            (folder / STATE_FILE).unlink(missing_ok=True)
