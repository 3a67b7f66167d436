"""Adapt an agent to a system and its calculator: relax, learn from every point of the relaxations, save."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from relaxrl.agents import Agent, load_agent
from relaxrl.checkpoint import MODEL_FILE, load_checkpoint, write_atomically
from relaxrl.config import dump_config, from_dict, load_config, to_dict
from relaxrl.errors import CheckpointError, ConfigError
from relaxrl.nn import HessianActor
from relaxrl.optimize import Campaign, Conditions, RelaxCell, Relaxed
from relaxrl.optimize.policy import check_size
from relaxrl.potentials import CalculatorSpec, parse_calculator
from relaxrl.structures import Crystal, Kind, read_structures
from relaxrl.structures.frames import Frame, save_frames
from relaxrl.training.finetuning.batches import RelaxationBatches
from relaxrl.training.finetuning.card import write_card
from relaxrl.training.finetuning.config import FinetuneConfig
from relaxrl.training.finetuning.examples import relative_error
from relaxrl.training.finetuning.online import OnlineLearning
from relaxrl.training.finetuning.origin import (
    REPLAY_FILE,
    adapted,
    fingerprint,
    for_the_next_time,
    hessian_actor,
    load_learner,
    load_replay,
)
from relaxrl.training.finetuning.relaxing import Lessons, learned, starts
from relaxrl.training.finetuning.terms import loss_terms, mean_loss
from relaxrl.training.progress import TrainingProgress
from relaxrl.training.supervised import SupervisedTrainer, TrainerConfig
from relaxrl.training.supervised.book import LAST
from relaxrl.training.supervised.parameters import KIND, exported, fill

CONFIG_FILE, JOURNAL_FILE = "finetune.yaml", "relaxations.journal"
ON_THE_WAY, TRAINING, PREVIOUS = "on-the-way", "training", "previous"
"""Folders of the agent while relaxations go on, of the training after them, and of the agent of an earlier training."""
_OF_TRAINING = ("updates", "batch_size", "replay", "replay_size", "secants", "held_out", "trainer")
"""Keys that the relaxations don't depend on: with others the agent is trained anew, on the same relaxations."""
_UNBOUNDED = 1e6
"""Seconds."""


@dataclass(frozen=True)
class FinetuneResult:
    """What fine-tuning led to.

    Attributes:
        folder: Of the agent; a name for `--agent` and `load_agent`.
        agent: The agent.
        relaxations: That were made.
        converged: Of these.
        force_evaluations: That they cost, all together.
        seconds: Their wall-clock time, summed over all of them.
        learned_from: Relaxations trained on.
        held_out: Relaxations that it was judged by.
        replay: Frames of earlier training.
        updates: Of the parameters.
        error_before: One step's error as a part of the way, geometric mean over the points of held-out relaxations.
        error: The same of the agent that is saved.
        improved: Whether that is less; otherwise the agent that is saved is the one it began with.
        interrupted: Whether training was ended before its time by Ctrl-C; the same call goes on.
    """

    folder: Path
    agent: Agent
    relaxations: int
    converged: int
    force_evaluations: int
    seconds: float
    learned_from: int
    held_out: int
    replay: int
    updates: int
    error_before: float
    error: float
    improved: bool
    interrupted: bool = False


def finetune(
    agent: str | Path,
    structures: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Sequence[Crystal] | Sequence[Atoms],
    calculator: str | CalculatorSpec | Callable[..., Any],
    out: str | Path,
    *,
    kind: Kind | None = None,
    workers: int = 1,
    executor: Callable[[], Executor] | None = None,
    progress: TrainingProgress | None = None,
    overrides: Sequence[str] = (),
    **settings: Any,
) -> FinetuneResult:
    """Adapt an agent to a system and its calculator.

    Relaxes some of the structures with the agent as it is, and trains it by cloning from every point that was evaluated
    on the way: no other evaluations are needed. The same call goes on after a kill: what is relaxed is not relaxed
    again, and training continues from its last epoch, on a CPU to the same numbers. With other settings of the training
    it is done anew, on the relaxations that are there.

    Args:
        agent: Name or folder of an agent with a learned Hessian.
        structures: Files, folders or sets, or crystals, or ASE's atoms. Minima are displaced, starts are not.
        calculator: As for `relaxrl.potentials.parse_calculator`.
        out: Folder for the agent.
        kind: `minimum` or `start`, whatever the files say.
        workers: Relaxations side by side.
        executor: As for `Campaign.run`.
        progress: Tells the user; a silent one if None.
        overrides: `key=value` each, for nested keys such as `trainer.max_lr`; they win over `settings`.
        **settings: Keys of `FinetuneConfig`.

    Raises:
        ConfigError: The agent can't be adapted, a setting is wrong, or there is too little to learn from.
        CheckpointError: There is no such agent, or `out` belongs to other settings.
        StructureError: A structure can't be used.
        CalculatorError: The calculator is unknown or does not know an element.
    """
    spec = parse_calculator(calculator)
    given = {"agent": str(agent), "calculator": spec.text, **settings}
    config = from_dict(FinetuneConfig, given, overrides, source="finetune")
    progress = progress or TrainingProgress("fine-tuning", enabled=False)
    parent, replay = load_learner(config.agent), load_replay(config.agent, config.replay)
    folder = _opened(Path(out), config)
    crystals = starts(_crystals(structures, kind), config, np.random.default_rng([config.seed, 0]))
    for crystal in crystals:
        spec.check(crystal.atoms, crystal.id)
        check_size(parent, len(crystal.atoms), crystal.id)
    campaign = _campaign(folder, crystals, spec, config)
    _write_settings(folder, config)
    results = _relaxed(campaign, progress, workers, executor)
    lessons = learned(results, crystals, spec, config, np.random.default_rng([config.seed, 1]))
    done = FinetuneResult(
        folder=folder,
        agent=parent,
        relaxations=len(results),
        converged=sum(one.converged for one in results),
        force_evaluations=sum(one.force_evaluations for one in results),
        seconds=sum(one.seconds for one in results),
        learned_from=len(lessons.train),
        held_out=len(lessons.held_out),
        replay=len(replay),
        updates=0,
        error_before=relative_error(mean_loss(hessian_actor(parent), lessons.held_out)),
        error=float("nan"),
        improved=False,
    )
    progress.line(
        f"{done.converged} of {done.relaxations} converged in {done.force_evaluations} evaluations, "
        f"{done.seconds:.0f} s; {done.learned_from} to learn from, {done.held_out} held out"
    )
    done = _trained(done, lessons, replay, config, progress)
    if not done.interrupted:
        _save(done, lessons, replay, config)
    return done


def _crystals(structures: Any, kind: Kind | None) -> list[Crystal]:
    if isinstance(structures, Sequence) and not isinstance(structures, str) and structures:
        given = list(structures)
        if all(isinstance(one, Crystal) for one in given):
            return given
        if all(isinstance(one, Atoms) for one in given):
            names = [f"structure {k}" for k in range(len(given))]
            return [Crystal(name, _bare(one), name, kind or "start") for name, one in zip(names, given, strict=True)]
    return read_structures(structures, kind=kind)


def _bare(atoms: Atoms) -> Atoms:
    copy: Atoms = atoms.copy()
    return copy


def _opened(folder: Path, config: FinetuneConfig) -> Path:
    """The folder, if it can be used: new, or that of the same relaxations."""
    settings = folder / CONFIG_FILE
    if settings.is_file():
        before, now = to_dict(load_config(FinetuneConfig, settings)), to_dict(config)
        changed = [key for key in now if before[key] != now[key]]
        for key in changed:
            if key not in _OF_TRAINING:
                raise CheckpointError(
                    f"{folder}: was started with `{key}` {before[key]!r}, now it is {now[key]!r}; go on with what it "
                    "was, or choose another folder"
                )
        if not changed and (folder / MODEL_FILE).is_file():
            raise ConfigError(
                f"{folder}: is finished: `--agent {folder}` uses the agent. Choose another folder, or other settings "
                "of the training, which is then repeated on the same relaxations"
            )
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: is not empty, and no earlier run of fine-tuning; choose another folder")
    return folder


def _write_settings(folder: Path, config: FinetuneConfig) -> None:
    """Only when all else is checked: what training with other settings led to makes room."""
    settings = folder / CONFIG_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"can't make the folder `{folder}`: {error.strerror}") from error
    if settings.is_file() and to_dict(load_config(FinetuneConfig, settings)) != to_dict(config):
        if (folder / MODEL_FILE).is_file():  # a folder that has one is finished
            load_agent(folder).save(folder / PREVIOUS)
            (folder / MODEL_FILE).unlink()
        shutil.rmtree(folder / TRAINING, ignore_errors=True)
    dump_config(config, folder / CONFIG_FILE)


def _campaign(folder: Path, crystals: Sequence[Crystal], spec: CalculatorSpec, config: FinetuneConfig) -> Campaign:
    """The relaxations, those of an earlier run included."""
    cell = RelaxCell() if config.cell else None
    conditions = Conditions(config.agent, spec, config.fmax, config.steps, cell, record=True)
    learning = None
    if config.learn_every is not None:
        # Bounded by updates alone, so that a run that goes on after a kill has the same agents.
        learning = OnlineLearning(folder / ON_THE_WAY, every=config.learn_every, seed=config.seed, seconds=_UNBOUNDED)
    return Campaign([(one.id, one.atoms) for one in crystals], conditions, folder / JOURNAL_FILE, learning)


def _relaxed(
    campaign: Campaign, progress: TrainingProgress, workers: int, executor: Callable[[], Executor] | None
) -> list[Relaxed]:
    """All relaxations, in the order of the crystals."""
    learning, n_all = campaign.learner, len(campaign.structures)
    n_before = n_all - len(campaign.waiting)
    if n_before:
        progress.line(f"{n_before} of {n_all} relaxations were done before")
    for number, done in enumerate(campaign.run(workers, executor), start=n_before + 1):
        progress.line(f"{done.name}: {done.force_evaluations} force evaluations, {done.reason} [{number}/{n_all}]")
        if isinstance(learning, OnlineLearning) and learning.rounds and learning.rounds[-1].taken == number:
            progress.line(learning.rounds[-1].text)
    return [done for done in campaign.results if done is not None]


def _trained(
    done: FinetuneResult, lessons: Lessons, replay: Sequence[Frame], config: FinetuneConfig, progress: TrainingProgress
) -> FinetuneResult:
    actor = hessian_actor(load_learner(config.agent)).train().requires_grad_(True)
    train = RelaxationBatches(lessons.train, replay, config.batch_size, config.replay_size, config.secants, config.fmax)
    held_out = RelaxationBatches(lessons.held_out, batch_size=32)
    values = {field.name: getattr(config.trainer, field.name) for field in dataclasses.fields(config.trainer)}
    folder = done.folder / TRAINING
    values |= {
        "lossfn": "mae",
        "save_dir": str(folder),
        "seed": config.seed,
        "max_epochs": max(1, -(-config.updates // len(train))),
        "resume": (folder / f"{config.trainer.run_name}_{LAST}.pt").exists(),
    }
    trainer = SupervisedTrainer(TrainerConfig(**values), actor, loss_terms, train, held_out, progress=progress)
    result = trainer.run()
    agent, error = done.agent, done.error_before
    if result.best_file is not None:
        best = hessian_actor(load_learner(config.agent))
        fill(best, exported(load_checkpoint(result.best_file, KIND)), str(result.best_file))
        after = relative_error(mean_loss(best, lessons.held_out))
        if after < error:
            agent, error = _named(done, best, lessons, config, result.steps), after
    return dataclasses.replace(
        done,
        agent=agent,
        updates=result.steps,
        error=error,
        improved=agent is not done.agent,
        interrupted=result.interrupted,
    )


def _named(done: FinetuneResult, actor: HessianActor, lessons: Lessons, config: FinetuneConfig, updates: int) -> Agent:
    elements = {symbol for frames in (*lessons.train, *lessons.held_out) for symbol in frames[0].atoms.symbols}
    description = (
        f"{config.agent}, fine-tuned on {done.learned_from} relaxations of {' '.join(sorted(elements))} under "
        f"{config.calculator}"
    )
    metadata = adapted(
        done.agent,
        config.agent,
        elements,
        description=description,
        method="finetune",
        parent_fingerprint=fingerprint(config.agent),
        calculator=config.calculator,
        relaxations=done.learned_from,
        held_out=done.held_out,
        force_evaluations=done.force_evaluations,
        updates=updates,
        seed=config.seed,
    )
    return Agent(actor.eval().requires_grad_(False), done.agent.max_step, metadata)


def _save(done: FinetuneResult, lessons: Lessons, replay: Sequence[Frame], config: FinetuneConfig) -> None:
    """The agent last: a folder that has one is finished."""
    kept = for_the_next_time(replay, lessons.train)
    if kept:
        save_frames(done.folder / REPLAY_FILE, kept)
    write_atomically(done.folder / "README.md", write_card(done, config, lessons.by_parent).encode())
    done.agent.save(done.folder)
