"""Several methods on the same starting structures."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from ase import Atoms

from relaxrl.cell import check_cell
from relaxrl.device import torch_device
from relaxrl.errors import ConfigError, RelaxRLError, StructureError
from relaxrl.evaluation.methods import AGENT_PREFIX, FIXED_CELL, ORACLE, STANDARD, check_methods
from relaxrl.evaluation.oracle import newton_oracle
from relaxrl.evaluation.run import Limits, RunRecord, Start, run_method
from relaxrl.evaluation.summary import SetSummary, summarize
from relaxrl.evaluation.together import run_together
from relaxrl.evaluation.worst import badness
from relaxrl.optimize import Policy
from relaxrl.optimize.policy import check_size, load_policy, untrained_elements
from relaxrl.potentials import CalculatorSpec, parse_calculator
from relaxrl.potentials.mixed import torch_equal
from relaxrl.provenance import versions
from relaxrl.seeding import Generators
from relaxrl.structures import Crystal, perturb, read_structures
from relaxrl.workers import worker_processes

AgentLike: TypeAlias = str | Path | Policy
StructuresLike: TypeAlias = str | PathLike[str] | Atoms | Sequence[str | PathLike[str] | Atoms | Crystal]

VIEWS = 100
"""Structures whose relaxations are kept step by step, the worst ones: some megabytes."""

ALSO = 0.05
"""eV/Å, ASE's default for `fmax`: compared at where nobody says otherwise."""


@dataclass(frozen=True)
class Comparison:
    """All runs of an evaluation and how they were made.

    Attributes:
        records: By structure, then by method.
        calculator: Its name.
        limits: When runs ended.
        rattle: Å.
        seed: Of rattle, strain and bootstrap.
        command: That makes it again; None where no command made it.
        versions: What it was made with: relaxrl, Python, libraries, commit.
        created: When it ended, UTC.
        strain: Of the starts' cells.
    """

    records: list[RunRecord]
    calculator: str
    limits: Limits
    rattle: float
    seed: int
    command: str | None = None
    versions: dict[str, str | None] = field(default_factory=dict)
    created: str | None = None
    strain: float = 0.0
    _summaries: dict[str | None, SetSummary] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def collections(self) -> list[str]:
        """Names of the sets, in the order given."""
        return list(dict.fromkeys(record.collection for record in self.records))

    @property
    def methods(self) -> list[str]:
        """Names of the methods, in the order they ran."""
        return list(dict.fromkeys(record.method for record in self.records))

    def summary(self, collection: str | None = None) -> SetSummary:
        """Figures of one set; of all structures together if None."""
        if collection not in self._summaries:  # bootstraps take a while, and each table and plot asks
            chosen = [record for record in self.records if collection in (None, record.collection)]
            self._summaries[collection] = summarize(collection or "all", chosen, self.limits, self.seed)
        return self._summaries[collection]


def evaluate(
    agent: AgentLike | Sequence[AgentLike] | None,
    structures: StructuresLike,
    calculator: str | CalculatorSpec | Callable[..., Any] = "emt",
    *,
    methods: Sequence[str] = STANDARD,
    fmax: float = 0.01,
    also: Sequence[float] | None = None,
    steps: int = 500,
    rattle: float = 0.0,
    cell: bool = False,
    strain: float = 0.0,
    seed: int = 0,
    seconds: float | None = None,
    workers: int = 1,
    together: int = 1,
    device: str = "cpu",
    views: int = VIEWS,
    on_record: Callable[[RunRecord, int, int], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Comparison:
    """Relax the same structures with agents and classical optimizers, and count their force evaluations.

    Each run starts from the same positions with a fresh calculator. Evaluations to 0.1, 0.05 and 0.01 eV/Å (and `fmax`,
    if another) are read off one run. BFGS always runs: ratios are taken to it.

    Args:
        agent: Name or path of an agent, an object with `act(graph)`, several of them, or None (or "none") for classical
            methods alone.
        structures: Files, folders, names of shipped sets, or `Atoms` (called `atoms#0`, `atoms#1`, ...).
        calculator: Name such as `emt`, import path, or a function that makes calculators; `stored` for the one that
            each structure names.
        methods: Names from `relaxrl.evaluation.method_names()`.
        fmax: eV/Å; all forces below it is converged.
        also: eV/Å, above fmax; forces at which tables compare as well, read off the same runs. None for 0.05.
        steps: Limit of each run, in steps of the optimizer.
        rattle: Standard deviation of a random displacement of each coordinate, Å. Use it on relaxed structures.
        cell: Whether cells relax, too; classical methods do so on ASE's `FrechetCellFilter`, and stress counts in fmax
            as it does there. The calculator must give stress.
        strain: Standard deviation of a random strain of each cell, component by component, before the displacements.
        seed: Of the random displacements and strains and of the bootstrap.
        seconds: Limit of each run, in wall-clock time; None for no limit.
        workers: Processes. More than one makes the seconds less comparable.
        together: Structures relaxed side by side, with one call of the potential and of the agent for all of them; for
            calculators with a torch potential. The seconds of each are then an equal part of those of all.
        device: Of agents, and of the potential where structures are relaxed side by side.
        views: Structures whose geometries are kept for the report, evaluation by evaluation: the worst ones.
        on_record: Called with each outcome, how many there are, and how many there will be.
        on_note: Called with what users should know before the first run: elements that an agent was not trained on.

    Returns:
        All runs; `.summary()` has the figures, `relaxrl.evaluation.write_report` writes tables and plots.

    Raises:
        StructureError: A file can't be used.
        CalculatorError: The calculator can't be made or does not know an element.
        CheckpointError: An agent can't be loaded.
        ConfigError: A method is unknown or a number out of range.

    Examples:
        >>> from ase.build import bulk
        >>> atoms = bulk("Cu", cubic=True)
        >>> comparison = evaluate(None, atoms, "emt", methods=["BFGS", "untrained"], rattle=0.1)
        >>> comparison.summary().methods["untrained"].ratio_to_reference[0.01].value < 1
        True
    """
    if not fmax > 0 or steps < 1 or not rattle >= 0 or workers < 1 or (seconds is not None and not seconds > 0):
        raise ConfigError(
            "expected fmax > 0, steps >= 1, rattle >= 0, seconds > 0 and workers >= 1, got "
            f"fmax={fmax}, steps={steps}, rattle={rattle}, seconds={seconds}, workers={workers}"
        )
    if together < 1 or (together > 1 and (workers > 1 or seconds is not None)):
        raise ConfigError(
            "expected together >= 1, and neither workers nor a limit of seconds beside more than one, got "
            f"together={together}, workers={workers}, seconds={seconds}"
        )
    if views < 0:
        raise ConfigError(f"expected views >= 0, got {views}")
    if not 0 <= strain < 0.3 or (cell and together > 1):
        raise ConfigError(
            "expected strain from 0 to 0.3, and cells relaxed one after the other, got "
            f"strain={strain}, cell={cell}, together={together}"
        )
    limits = Limits(fmax, steps, seconds, _also(also, fmax), cell)
    names = check_methods(methods)
    if cell:
        names = _for_cells(names, methods)
    spec = parse_calculator(calculator)
    if not spec.is_stored:
        _try_out(spec, names, together)
    place = torch_device(device, "device")
    if workers > 1 and place.type != "cpu":
        raise ConfigError(f"expected device=cpu with workers={workers}, got {device}; use `together` instead")
    agents = _agents(agent)
    starts = starting_points(structures, rattle, seed, strain)
    if cell:
        for start in starts:
            check_cell(start.atoms)
    if spec.is_stored:
        own = [spec.of(start.atoms, start.structure) for start in starts]
        for one in {one.text: one for one in own}.values():
            _try_out(one, names, together)
    for start in starts:
        spec.check(start.atoms, start.structure)
        for item in agents.values():
            check_size(_loaded(item), len(start.atoms), start.structure)
    symbols = {symbol for start in starts for symbol in start.atoms.symbols}
    for name, item in agents.items():
        note = untrained_elements(_loaded(item), symbols)
        if note and on_note is not None:
            on_note(note if len(agents) == 1 else f"{name}: {note}")
    labels = [*(AGENT_PREFIX + name for name in agents), *names]
    jobs = [(start, method) for start in starts for method in labels]
    outcomes: dict[tuple[str, str], RunRecord] = {}
    if workers > 1:
        runs = _in_processes(jobs, spec, limits, agents, workers)
    else:
        policies = {name: _on(_loaded(item), device) for name, item in agents.items()}
        runs = _side_by_side(starts, labels, spec, limits, policies, together, device)
    library = _FilmLibrary(views, labels, limits)
    for record in runs:
        outcomes[record.structure, record.method] = record
        library.tidy(record.structure, outcomes)
        if on_record is not None:
            on_record(record, len(outcomes), len(jobs))
    ordered = [outcomes[start.structure, method] for start, method in jobs]
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return Comparison(ordered, spec.name, limits, rattle, seed, versions=versions(), created=created, strain=strain)


def _try_out(spec: CalculatorSpec, methods: Sequence[str], together: int) -> None:
    """Tells at once what is wrong with a calculator.

    Raises:
        CalculatorError: It can't be made.
        ConfigError: It has no torch potential, and is asked for what needs one.
    """
    spec.create()
    if ORACLE in methods:
        newton_oracle(spec)
    if together > 1 and torch_equal(spec) is None:
        raise ConfigError(f"together={together} needs a torch potential, and the calculator {spec.name} has none")


class _FilmLibrary:
    """Keeps the films of the worst structures only, so that memory is bounded in an evaluation of thousands."""

    def __init__(self, size: int, methods: Sequence[str], limits: Limits) -> None:
        self.size, self.methods, self.limits = size, methods, limits
        self._badness: dict[str, tuple[int, float]] = {}

    def tidy(self, structure: str, outcomes: dict[tuple[str, str], RunRecord]) -> None:
        """Take in a structure once all methods have run, and forget the films of the one that did best."""
        runs = [outcomes[structure, method] for method in self.methods if (structure, method) in outcomes]
        if len(runs) < len(self.methods):
            return
        self._badness[structure] = badness(runs, self.limits)
        if len(self._badness) > self.size:
            best = min(self._badness, key=lambda name: self._badness[name])
            del self._badness[best]
            for method in self.methods:
                outcomes[best, method] = replace(outcomes[best, method], film=None)


def starting_points(structures: StructuresLike, rattle: float, seed: int, strain: float = 0.0) -> list[Start]:
    """The structures as all methods get them, strained and displaced if asked for.

    Each has a random stream of its own, so the others of a set don't change it.

    Raises:
        StructureError: A file can't be used, there are no structures, or two of them have one name.
    """
    given: list[Any] = [structures] if isinstance(structures, str | PathLike | Atoms) else list(structures)
    found: list[tuple[str, Crystal]] = []
    for number, item in enumerate(given):
        if isinstance(item, Atoms):
            found.append(("atoms", Crystal(f"atoms#{number}", item, parent=f"atoms#{number}")))
        elif isinstance(item, Crystal):
            found.append((item.id.rpartition("#")[0] or item.id, item))
        else:
            found += [(fspath(item), crystal) for crystal in read_structures(item)]
    if not found:
        raise StructureError("expected at least one structure, got none")
    ids = [crystal.id for _, crystal in found]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise StructureError(f"structure {twice} was given twice; name each file once")
    streams = Generators(seed)
    starts = []
    for collection, crystal in found:
        atoms = crystal.atoms
        if strain:
            atoms = _strained(atoms, strain, streams.numpy(f"strain {crystal.id}"))
        starts.append(Start(crystal.id, collection, perturb(atoms, rattle, streams.numpy(f"rattle {crystal.id}"))))
    return starts


def _strained(atoms: Atoms, strain: float, generator: np.random.Generator) -> Atoms:
    """A copy whose cell, with all in it, is strained at random; each component of the tensor has this deviation."""
    noise = generator.normal(0, strain, (3, 3))
    symmetric = np.triu(noise) + np.triu(noise, 1).T
    strained = atoms.copy()
    strained.set_cell(atoms.cell.array @ (np.eye(3) + symmetric), scale_atoms=True, apply_constraint=False)
    return strained


def _for_cells(names: list[str], asked: Sequence[str]) -> list[str]:
    """The methods that relax cells.

    Raises:
        ConfigError: One that was asked for by name does not.
    """
    unable = FIXED_CELL | {ORACLE}
    if tuple(asked) != STANDARD and (wrong := [name for name in names if name in unable]):
        raise ConfigError(f"expected methods that relax cells, got {', '.join(wrong)}; leave out those, or the cell")
    return [name for name in names if name not in unable]


def _also(given: Sequence[float] | None, fmax: float) -> tuple[float, ...]:
    """The other forces to compare at, largest first."""
    if given is None:
        return (ALSO,) if fmax < ALSO else ()
    if not all(fmax < level < math.inf for level in given):
        raise ConfigError(
            f"also: expected forces above fmax={fmax:g} eV/Å, got {', '.join(f'{level:g}' for level in given)}; runs "
            "end at fmax, so that nothing is known below it"
        )
    return tuple(sorted(set(given), reverse=True))


def _agents(agent: AgentLike | Sequence[AgentLike] | None) -> dict[str, AgentLike]:
    """Agents by the name that tables call them; loaded once to find out early whether they can be."""
    if agent is None or agent == "none":
        return {}
    given = [agent] if isinstance(agent, str | Path | Policy) else list(agent)
    named: dict[str, AgentLike] = {}
    for item in given:
        name = fspath(item) if isinstance(item, str | Path) else str(getattr(item, "name", type(item).__name__))
        if name in named:
            raise ConfigError(f"agent {name} was given twice; name each agent once")
        _loaded(item)
        named[name] = item
    return named


def _loaded(agent: AgentLike) -> Policy:
    """The agent; one with a name or path is loaded once in each process."""
    return _from_disk(fspath(agent)) if isinstance(agent, str | Path) else _checked(agent)


@cache
def _from_disk(agent: str) -> Policy:
    return _checked(agent)


def _checked(agent: AgentLike) -> Policy:
    policy = load_policy(agent)
    assert policy is not None, "None is sorted out before"
    return policy


def _on(policy: Policy, device: str) -> Policy:
    """The policy; a copy with its networks there, where it has some that stand elsewhere."""
    actor: Any = getattr(policy, "actor", None)
    parameters = getattr(actor, "parameters", None)
    if not callable(parameters) or all(parameter.device == torch.device(device) for parameter in parameters()):
        return policy
    moved = copy.deepcopy(policy)  # shipped agents are shared by all who ask for them
    moved.actor.to(device)  # type: ignore[attr-defined]
    return moved


def _side_by_side(
    starts: Sequence[Start],
    methods: Sequence[str],
    spec: CalculatorSpec,
    limits: Limits,
    agents: dict[str, Policy],
    together: int,
    device: str,
) -> Iterator[RunRecord]:
    """So many structures at once, each group by one method after another."""
    for first in range(0, len(starts), together):
        group = starts[first : first + together]
        for method in methods:
            if together == 1:
                yield run_method(group[0], method, spec, limits, agents)
            else:
                yield from run_together(group, method, spec, limits, agents, device)


def _in_processes(
    jobs: Sequence[tuple[Start, str]],
    spec: CalculatorSpec,
    limits: Limits,
    agents: dict[str, AgentLike],
    workers: int,
) -> Iterator[RunRecord]:
    with worker_processes(workers) as pool:
        futures = [pool.submit(_job, start, method, spec, limits, agents) for start, method in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise RelaxRLError(
                "a worker process died: a calculator may have crashed it, or memory ran out; in a script of your own, "
                'call evaluate(..., workers=2) below `if __name__ == "__main__":`'
            ) from error
        finally:
            for future in futures:
                future.cancel()


def _job(start: Start, method: str, spec: CalculatorSpec, limits: Limits, agents: dict[str, AgentLike]) -> RunRecord:
    return run_method(start, method, spec, limits, {name: _loaded(agent) for name, agent in agents.items()})
