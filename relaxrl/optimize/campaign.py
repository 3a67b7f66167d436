"""Many relaxations: in processes or on a cluster, remembered one by one, so that nothing finished is ever repeated."""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from relaxrl.errors import ConfigError, RelaxRLError
from relaxrl.optimize.cell import RelaxCell
from relaxrl.optimize.journal import Journal
from relaxrl.optimize.learner import Learner
from relaxrl.optimize.policy import Policy, UntrainedElementWarning, load_policy, suited
from relaxrl.optimize.recording import Evaluated, RecordingCalculator
from relaxrl.optimize.rl_optimizer import RLOptimizer
from relaxrl.potentials import CalculatorSpec
from relaxrl.workers import terminate, worker_processes

AHEAD = 2
"""Relaxations handed to an executor per worker: one that runs, and one that waits beside it."""

ATTEMPTS = 3
"""How many workers a structure may take down (out of memory, say) before it is given up."""


@dataclass(frozen=True)
class Conditions:
    """How each structure of a campaign is relaxed; pickles, so that other machines can be told.

    Attributes:
        agent: Name or path of an agent, or None for the quasi-Newton method alone. `auto`: for each structure the
            shipped one that was trained on all of its elements, None where none was.
        calculator: Made anew for each structure, in the process that relaxes it; `stored` for each structure's own.
        fmax: eV/Å; converged below it.
        steps: Limit of each relaxation.
        cell: What of the cells relaxes; None for nothing.
        record: Whether results hold all that was evaluated, for those who learn from it.
    """

    agent: str | None
    calculator: CalculatorSpec
    fmax: float = 0.01
    steps: int = 500
    cell: RelaxCell | None = None
    record: bool = False


@dataclass(frozen=True)
class Relaxed:
    """The outcome of one relaxation.

    Attributes:
        index: Place of the structure in the campaign.
        name: What messages call it.
        atoms: Where it ended, with energy and forces if the calculator gave any.
        converged: Whether the forces, and the stress where the cell relaxes, fell below the limits.
        reason: `converged`, or why not.
        force_evaluations: All of them, the first included.
        fmax: eV/Å, at the end; NaN if there are no forces.
        seconds: Wall-clock time.
        note: What else is worth knowing; empty mostly.
        path: All that was evaluated, in that order, where `Conditions.record` asks for it.
    """

    index: int
    name: str
    atoms: Atoms
    converged: bool
    reason: str
    force_evaluations: int
    fmax: float
    seconds: float
    note: str = ""
    path: tuple[Evaluated, ...] = ()


def relax_one(
    index: int, name: str, atoms: Atoms, conditions: Conditions, policy: Policy | None = None, **options: object
) -> Relaxed:
    """Relax one structure; what goes wrong is part of the result.

    A function of its arguments alone, for any `concurrent.futures.Executor`.

    Args:
        index: Place in the campaign.
        name: What messages call it.
        atoms: The start, moved in place; constraints are respected.
        conditions: Agent, calculator, and when to stop.
        policy: The agent, where it is loaded already.
        **options: For `RLOptimizer`: `logfile`, `trajectory`, ...

    Raises:
        ConfigError: The agent or the calculator can't be made: every structure would fail.
    """
    began = time.perf_counter()
    if policy is None and conditions.agent is not None:
        policy = _loaded(suited(conditions.agent, set(atoms.symbols)))
    recorder = RecordingCalculator(conditions.calculator.of(atoms, name).create(), name, conditions.record)
    atoms.calc = recorder
    converged, reason, note, optimizer, fmax, results = False, "", "", None, np.nan, {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UntrainedElementWarning)  # said once for the whole campaign
            given = {"logfile": None, "cell": conditions.cell or False, **options}
            optimizer = RLOptimizer(atoms, agent=policy, **given)  # type: ignore[arg-type]  # a dict has one type of value
        converged = optimizer.run(fmax=conditions.fmax, steps=conditions.steps)
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(apply_constraint=False)}
        if conditions.cell is not None:
            results["stress"] = atoms.get_stress(apply_constraint=False)
        fmax = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
        reason = "converged" if converged else f"not converged in {conditions.steps} steps"
        if converged and optimizer.calculator_failures:
            note = (
                f"{optimizer.calculator_failures} of the evaluations failed, cured by shorter steps "
                f"({optimizer.last_failure})"
            )
    except RelaxRLError as error:
        reason = str(error)
    except Exception as error:  # constraints and calculators raise what they like
        if optimizer is None:  # every structure would fail
            raise
        reason = f"{type(error).__name__}: {error}"
    finally:
        # Also on Ctrl-C: the atoms are still to be written, and a calculator may not pickle.
        atoms.calc = SinglePointCalculator(atoms, **results) if results else None
    count = 0 if optimizer is None else optimizer.force_evaluations
    seconds = time.perf_counter() - began
    return Relaxed(index, name, atoms, converged, reason, count, fmax, seconds, note, tuple(recorder.path))


class Campaign:
    """Relaxes structures wherever there is room, in any order, and remembers what is done.

    Args:
        structures: Names and starts.
        conditions: How.
        journal: File beside the results in which each finished structure is written down; a campaign that finds one
            goes on from there. None remembers nothing.
        learn: Improves the agent by what is done, for what is not; such as `relaxrl.training.OnlineLearning`.

    Raises:
        CheckpointError: The journal belongs to other structures or conditions.
        ConfigError: The agent can't learn.

    Examples:
        >>> from ase.build import bulk
        >>> from relaxrl.potentials import parse_calculator
        >>> copper = bulk("Cu", cubic=True)
        >>> copper.rattle(0.1, seed=0)
        >>> campaign = Campaign([("copper", copper)], Conditions(None, parse_calculator("emt"), fmax=0.05))
        >>> [(done.name, done.converged) for done in campaign.run()]
        [('copper', True)]
    """

    def __init__(
        self,
        structures: Sequence[tuple[str, Atoms]],
        conditions: Conditions,
        journal: Path | None = None,
        learn: Learner | None = None,
    ) -> None:
        self.structures = list(structures)
        self.conditions = conditions if learn is None else replace(conditions, record=True)
        self.learner = learn
        settings = {} if learn is None else {"learn": learn.settings}
        self.journal = None if journal is None else Journal(journal, self.structures, conditions, settings)
        self.results: list[Relaxed | None] = [None] * len(self.structures)
        self._moving: tuple[int, Atoms] | None = None
        before = [] if self.journal is None else self.journal.read()
        for done in before:
            done.atoms.info = self.structures[done.index][1].copy().info
            self.results[done.index] = done
        if learn is not None:
            learn.begin(self.conditions, journal, before)

    @property
    def waiting(self) -> list[int]:
        """Places of the structures that are not done."""
        return [index for index, done in enumerate(self.results) if done is None]

    def structures_as_they_are(self) -> list[Atoms]:
        """All structures in their order: relaxed where they are done, the starts elsewhere, one perhaps on its way."""
        atoms = [start.copy() for _, start in self.structures]
        if self._moving is not None:
            atoms[self._moving[0]] = self._moving[1]
        return [there if done is None else done.atoms for there, done in zip(atoms, self.results, strict=True)]

    def run(
        self, workers: int = 1, executor: Callable[[], Executor] | None = None, **options: object
    ) -> Iterator[Relaxed]:
        """Relax what is not done; yields each structure as it is finished, in that order.

        Args:
            workers: Relaxations side by side. With 1 they run in this process, one after the other.
            executor: Makes where they run instead: any `concurrent.futures.Executor`, such as that of a Dask client. It
                is made anew if it breaks. None: processes of this machine, if there is more than one worker.
            **options: For `RLOptimizer`, where there is one worker and no executor.
        """
        if executor is None and workers == 1:
            policy = None
            if self.learner is None and self.conditions.agent != "auto":
                policy = load_policy(self.conditions.agent)
            for index in self.waiting:
                name, start = self.structures[index]
                self._moving = (index, start.copy())
                if self.learner is not None:
                    policy = self.learner.policy
                yield self._keep(relax_one(index, name, self._moving[1], self.conditions, policy, **options))
        else:
            if self.learner is not None:
                self.learner.expect(AHEAD * workers)
            yield from self._run_elsewhere(workers, executor or (lambda: worker_processes(workers)))

    def _run_elsewhere(self, workers: int, make: Callable[[], Executor]) -> Iterator[Relaxed]:
        """Keep the executor busy; after a loss of workers, hand out again what they had."""
        losses = dict.fromkeys(self.waiting, 0)
        while self.waiting:
            suspects = [index for index in self.waiting if losses[index]]
            try:
                if suspects:
                    # A pool that broke does not say who broke it. One at a time, the guilty one is found.
                    for index in suspects:
                        losses[index] += 1
                        yield from self._finish(make(), [index], 1, losses)
                else:
                    yield from self._finish(make(), self.waiting, workers, losses)
            except BrokenExecutor:
                for index in self.waiting:
                    if losses[index] >= ATTEMPTS:
                        reason = (
                            f"the process that relaxed it died {losses[index]} times: killed, out of memory, or "
                            "started by a script without `if __name__ == '__main__':`"
                        )
                        yield self._keep(self._lost(index, reason))

    def _finish(
        self, executor: Executor, indices: Sequence[int], workers: int, losses: dict[int, int]
    ) -> Iterator[Relaxed]:
        """Relax these; `BrokenExecutor` marks all that were handed out."""
        if self.learner is not None and isinstance(executor, ThreadPoolExecutor):
            raise ConfigError(
                "threads can't relax while an agent learns beside them: torch makes its networks for the whole process "
                "at a time; expected an executor of other processes"
            )
        queue, running = deque(indices), dict[Future[Relaxed], int]()
        try:
            while queue or running:
                while queue and len(running) < AHEAD * workers:
                    index = queue.popleft()
                    future = executor.submit(relax_one, index, *self.structures[index], self._conditions_now())
                    running[future] = index
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    try:
                        done = future.result()
                    except (BrokenExecutor, RelaxRLError):
                        raise
                    except Exception as error:  # whatever a cluster says when it gives a task up
                        done = self._lost(running[future], f"{type(error).__name__}: {error}")
                    del running[future]
                    yield self._keep(done)
        except BrokenExecutor:
            for index in running.values():
                losses[index] = max(losses[index], 1)
            raise
        except BaseException:
            terminate(executor)
            raise
        finally:
            for future in running:
                future.cancel()
            executor.shutdown(wait=False)

    def _lost(self, index: int, reason: str) -> Relaxed:
        name, start = self.structures[index]
        return Relaxed(index, name, start.copy(), False, reason, 0, np.nan, 0.0)

    def _conditions_now(self) -> Conditions:
        """For the next structure: with the agent as it has become."""
        return self.conditions if self.learner is None else replace(self.conditions, agent=self.learner.agent)

    def _keep(self, done: Relaxed) -> Relaxed:
        self.results[done.index] = done
        if self.journal is not None:
            self.journal.write(done)
        if self.learner is not None:
            self.learner.take(done)
        return done


@lru_cache(maxsize=4)
def _loaded(agent: str | None) -> Policy | None:
    """An agent, once per process."""
    return load_policy(agent)
