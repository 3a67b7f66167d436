"""Several relaxations side by side, whose calls of the potential and of the agent are answered in batches.

Optimizers handle one structure each. Here each runs in a thread of its own, until it needs forces or a displacement;
when all wait, all are answered at once, by one call of the potential and one of the agent. Only one thread runs at a
time, so what is shared needs no care.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from relaxrl.evaluation.methods import AGENT_PREFIX
from relaxrl.evaluation.run import Limits, RunRecord, Start, quiet, run_with
from relaxrl.graph import AtomGraph
from relaxrl.optimize import Policy
from relaxrl.potentials import (
    CalculatorSpec,
    Evaluation,
    MixedPotential,
    Potential,
    PotentialSource,
    TorchCalculator,
)

_Result = TypeVar("_Result")


def run_together(
    starts: Sequence[Start],
    method: str,
    calculator: CalculatorSpec,
    limits: Limits,
    agents: Mapping[str, Policy],
    device: str = "cpu",
) -> list[RunRecord]:
    """`run_method` of several structures, with the potential for batches that `calculator` has.

    Args:
        starts: The structures.
        method: As for `run_method`.
        calculator: With a torch potential.
        limits: Without a limit of time.
        agents: Loaded agents by NAME.
        device: Where the potential is evaluated.

    Returns:
        The outcomes in order; their `seconds` are equal parts of the time that all took.
    """
    name = method.removeprefix(AGENT_PREFIX) if method.startswith(AGENT_PREFIX) else None

    def job(start: Start) -> Callable[[Potential, Policy | None], RunRecord]:
        def run(potential: Potential, policy: Policy | None) -> RunRecord:
            shared = {} if name is None or policy is None else {name: policy}
            own = calculator.of(start.atoms, start.structure)
            return run_with(start, method, TorchCalculator(potential), limits, shared, own)

        return run

    began = time.perf_counter()
    with quiet():
        agent = None if name is None else agents[name]
        potential = PotentialSource(calculator).together([start.atoms for start in starts])
        records = together([job(start) for start in starts], potential, agent, device)
    seconds = (time.perf_counter() - began) / len(starts)
    return [replace(record, seconds=seconds) for record in records]


def together(
    jobs: Sequence[Callable[[Potential, Policy | None], _Result]],
    potential: Potential,
    agent: Policy | None = None,
    device: str = "cpu",
) -> list[_Result]:
    """What each job returns, in order.

    Each structure is evaluated as often as if it were alone; batches differ from single calls by rounding only.

    Args:
        jobs: Called with a potential and an agent that stand for those given, and that are asked for one structure at a
            time.
        potential: Energies and forces of batches.
        agent: Proposes displacements for batches; None if there is none.
        device: Where batches are evaluated; the jobs see the CPU.

    Raises:
        BaseException: The first that a job raised, after all have ended.
    """
    meeting = _Meeting(len(jobs), potential, agent, device)
    results: list[_Result | None] = [None] * len(jobs)
    errors: list[BaseException] = []

    def run(place: int) -> None:
        policy = None if agent is None else _SharedPolicy(meeting, place, agent)
        try:
            meeting.begin(place)
            results[place] = jobs[place](_SharedPotential(meeting, place), policy)
        except BaseException as error:  # belongs to the caller, who can't hear it from this thread
            errors.append(error)
        finally:
            meeting.leave()

    threads = [threading.Thread(target=run, args=(place,), daemon=True) for place in range(len(jobs))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException:  # Ctrl-C: no thread must wait for ever
        meeting.give_up()
        raise
    if errors:
        raise errors[0]
    return [result for result in results if result is not None]


@dataclass
class _Request:
    """What one relaxation waits for."""

    place: int
    kind: Literal["start", "forces", "action"]
    graph: AtomGraph | None = None
    stress: bool = False
    answer: Any = None
    error: BaseException | None = None
    served: threading.Event = field(default_factory=threading.Event)


class _GivenUp(BaseException):
    """Nobody waits for the outcome any more."""


class _Meeting:
    """Where relaxations wait for each other: whoever comes last answers all, and lets them go on one by one."""

    def __init__(self, members: int, potential: Potential, agent: Policy | None, device: str) -> None:
        self.members = members
        self.device = device
        self.potential = potential
        self.agent = agent
        self._lock = threading.Lock()  # of the lists
        self._waiting: list[_Request] = []
        self._ready: list[_Request] = []
        self._given_up = False

    def begin(self, place: int) -> None:
        """Wait until all are there."""
        self.ask(_Request(place, "start"))

    def ask(self, request: _Request) -> Any:
        """The answer to a request, once all have asked for something."""
        with self._lock:
            if self._given_up:
                raise _GivenUp
            self._waiting.append(request)
        self._pass_on()
        request.served.wait()
        if request.error is not None:
            raise request.error
        return request.answer

    def give_up(self) -> None:
        """End all relaxations at their next request."""
        with self._lock:
            self._given_up = True
            abandoned = [*self._waiting, *self._ready]
            self._waiting, self._ready = [], []
        for request in abandoned:
            request.error = _GivenUp()
            request.served.set()

    def leave(self) -> None:
        """Take no more part."""
        with self._lock:
            self.members -= 1
        self._pass_on()

    def _pass_on(self) -> None:
        """Let the next one run; after the last one, answer what all have asked for."""
        with self._lock:
            if not self._ready:
                if not self._waiting or len(self._waiting) < self.members:
                    return
                requests = sorted(self._waiting, key=lambda request: request.place)
                self._waiting = []
                _answer([request for request in requests if request.kind == "forces"], self._evaluate)
                _answer([request for request in requests if request.kind == "action"], self._act)
                self._ready = requests
            following = self._ready.pop(0)
        following.served.set()

    def _evaluate(self, requests: Sequence[_Request]) -> list[Evaluation]:
        graph, stress = _batch(requests), any(request.stress for request in requests)
        potential = self.potential
        if isinstance(potential, MixedPotential):
            potential = potential.select([request.place for request in requests])
        whole, sizes = potential.evaluate(graph.to(self.device), stress), graph.atoms_per_graph.tolist()
        stresses: Sequence[Tensor | None] = [None] * len(requests)
        if whole.stress is not None:
            stresses = torch.split(whole.stress.cpu(), 1)
        columns = (torch.split(whole.energy.cpu(), 1), torch.split(whole.forces.cpu(), sizes))
        parts = zip(*columns, torch.split(whole.failed.cpu(), 1), stresses, strict=True)
        return [
            Evaluation(energy, forces, failed, {0: whole.messages[k]} if k in whole.messages else {}, stress_of)
            for k, (energy, forces, failed, stress_of) in enumerate(parts)
        ]

    def _act(self, requests: Sequence[_Request]) -> list[Tensor]:
        assert self.agent is not None, "only policies ask for actions"
        graph = _batch(requests)
        return list(torch.split(self.agent.act(graph), graph.atoms_per_graph.tolist()))


def _answer(requests: Sequence[_Request], serve: Callable[[Sequence[_Request]], Sequence[Any]]) -> None:
    """Serve requests at once; where that fails, one by one, so that each hears what is wrong with its own."""
    if not requests:
        return
    try:
        for request, answer in zip(requests, serve(requests), strict=True):
            request.answer = answer
    except Exception as error:  # an agent that gives up at one structure, for example
        if len(requests) == 1:
            requests[0].error = error
            return
        for request in requests:
            _answer([request], serve)


def _batch(requests: Sequence[_Request]) -> AtomGraph:
    return AtomGraph.batch([request.graph for request in requests if request.graph is not None])


class _SharedPotential(Potential):
    """Stands for the potential in one relaxation."""

    def __init__(self, meeting: _Meeting, place: int) -> None:
        self.meeting = meeting
        self.place = place
        self.name = getattr(meeting.potential, "name", type(meeting.potential).__name__.lower())

    def evaluate(self, graph: AtomGraph, stress: bool = False) -> Evaluation:
        """See `Potential.evaluate`; for one structure.

        Raises:
            ValueError: There are several structures.
        """
        if graph.n_graphs != 1:
            raise ValueError(f"expected one structure, got {graph.n_graphs}")
        evaluation: Evaluation = self.meeting.ask(_Request(self.place, "forces", graph, stress))
        return evaluation


class _SharedPolicy:
    """Stands for the agent in one relaxation; all but displacements is the agent's own answer."""

    def __init__(self, meeting: _Meeting, place: int, agent: Policy) -> None:
        self._meeting = meeting
        self._place = place
        self._agent = agent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._agent, name)

    def act(self, graph: AtomGraph) -> Tensor:
        """Displacements (n_atoms, 3), Å, of one structure."""
        action: Tensor = self._meeting.ask(_Request(self._place, "action", graph))
        return action
