"""The relaxation environment: structures, a potential, displacements in, rewards out; no other library's interface."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from relaxrl.device import torch_device
from relaxrl.envs.cells import Cells, Freedom, carried
from relaxrl.envs.cohesion import Cohesion
from relaxrl.envs.config import EnvConfig
from relaxrl.envs.correction import WHOLLY
from relaxrl.envs.deck import Deck
from relaxrl.envs.features import environment_features
from relaxrl.envs.movement import Movement
from relaxrl.envs.reward import Felt, Step, atom_terms, structure_terms, total
from relaxrl.envs.start import draw_starts, free_atoms
from relaxrl.envs.termination import ORDER, Progress, Reason, judge
from relaxrl.envs.types import Action, StepResult
from relaxrl.graph import AtomGraph, max_force
from relaxrl.potentials.base import Potential
from relaxrl.structures import Crystal
from relaxrl.typing import FloatArray, StateDict

_T = TypeVar("_T")
_RUNNING, _CONVERGED, _BROKEN = map(ORDER.index, (Reason.RUNNING, Reason.CONVERGED, Reason.BROKEN))


class RelaxationEnv:
    """Relaxation of a batch of structures, each in an episode of its own.

    One structure is a batch of one. All structures of the batch share one call of the potential per step. Positions are
    never wrapped. Atoms held by `FixAtoms` don't move and feel no force, as in ASE. An ended episode stays as it is, at
    no cost, until `reset_finished` or `reset`.

    Cells are fixed, unless `config.cell` is given: then actions may strain them, see `relaxrl.envs.cells`, graphs have
    stress, of the same evaluation as the forces, and convergence needs both to be small. Fixed atoms go with the cell.

    A step whose geometry the calculator can't evaluate is taken back as a whole (`applied` = 0, `a_back` = 1): the
    state after it is the one before it, and no number in a `StepResult` is ever NaN. An episode whose start is
    converged already is over after the first step that leaves it so.

    Args:
        crystals: Where episodes begin; a `StructureSet` brings the weights of its crystals along.
        potential: Energies and forces.
        config: Options.
        generator: Draws crystals and displacements.
        n_envs: Episodes side by side.

    Raises:
        ConfigError: This machine does not have the device asked for.
        ValueError: There are no crystals, or `n_envs` is not positive.
        StructureError: A crystal has no atoms or a constraint other than `FixAtoms`; or, with `config.cell`, a cell
            without stress or nothing that is free to strain.

    Examples:
        >>> from ase.build import bulk
        >>> from relaxrl.potentials import EMT
        >>> copper = Crystal(id="Cu", atoms=bulk("Cu", cubic=True), parent="Cu", kind="minimum")
        >>> env = RelaxationEnv([copper], EMT(), EnvConfig(), np.random.default_rng(0))
        >>> graph = env.reset()
        >>> result = env.step(0.05 * graph.forces)
        >>> bool(max_force(result.graph) < max_force(graph))
        True
    """

    def __init__(
        self,
        crystals: Sequence[Crystal],
        potential: Potential,
        config: EnvConfig,
        generator: np.random.Generator,
        n_envs: int = 1,
    ) -> None:
        if not crystals:
            raise ValueError("`crystals` is empty; an environment needs at least one structure")
        if n_envs < 1:
            raise ValueError(f"`n_envs` must be at least 1, got {n_envs}")
        self.crystals = crystals
        self.potential = potential
        self.config = config
        self.generator = generator
        self.n_envs = n_envs
        self.device = torch_device(config.device or "cpu", "env.device")
        self._free_atoms = [free_atoms(crystal) for crystal in crystals]
        self._deck = Deck(crystals)
        self._reward_weights = config.reward.weights
        self._freedom = None if config.cell is None else Freedom.of(crystals, config.cell)
        self._cells = None if config.cell is None else Cells(config.cell, config.fmax)
        self._movement = Movement(config, self._cells)
        self._cohesion = Cohesion(config, n_envs)
        self._graph: AtomGraph | None = None
        self._start: AtomGraph | None = None  # the same slots at their first step; its history is not used
        self._indices = [0] * n_envs
        self._steps, self._evaluations, self._reasons = (
            torch.zeros(n_envs, dtype=torch.int64, device=self.device) for _ in range(3)
        )
        self._stuck: Tensor | None = None  # (n_envs,), int64; None where no step was wholly taken back just now
        self._all_running = True
        self._longest = 0  # steps of the longest episode, or more
        self._strayed = 0.0  # Å; no atom is farther from where it began
        self._sizes = torch.empty(0)  # (n_envs,), int64; atoms of each structure
        self._felt: Felt | None = None  # forces of the current structures

    @property
    def weights(self) -> FloatArray:
        """Probability of each crystal to be drawn, (n_crystals,); set any non-negative numbers, they are normalised."""
        return self._deck.probabilities.copy()

    @weights.setter
    def weights(self, values: ArrayLike) -> None:
        self._deck.weigh(values)

    @property
    def graph(self) -> AtomGraph:
        """The current structures with forces, energy, history and features."""
        return _begun(self._graph)

    @property
    def start(self) -> AtomGraph:
        """The structures, forces and energies with which the current episodes began."""
        return _begun(self._start)

    @property
    def indices(self) -> Tensor:
        """Which crystal each slot runs, (n_envs,), int64."""
        return torch.tensor(self._indices, device=self._steps.device)

    @property
    def stress(self) -> Tensor:
        """The largest principal stress that is free, (n_envs,), eV/Å³, where cells strain.

        Raises:
            RuntimeError: Cells are fixed, or there was no `reset` before.
        """
        if self._cells is None:
            raise RuntimeError("cells are fixed, and stress is not evaluated; give the environment's config a `cell`")
        return self._cells.free_stress(self.graph)

    @property
    def steps(self) -> Tensor:
        """Steps made in each episode, (n_envs,), int64."""
        return self._steps.clone()

    @property
    def evaluations(self) -> Tensor:
        """Force evaluations of each episode, that of its start included, (n_envs,), int64."""
        return self._evaluations.clone()

    @property
    def finished(self) -> Tensor:
        """Whether each episode has ended, (n_envs,), bool."""
        return self._reasons != _RUNNING

    @property
    def reasons(self) -> list[str]:
        """Why each episode has ended, see `relaxrl.envs.Reason`; "" where it runs."""
        return self._words()

    def reset(self, indices: Sequence[int] | None = None) -> AtomGraph:
        """Begin new episodes in all slots.

        Args:
            indices: (n_envs,), which crystal for each slot; drawn by `weights` if None.

        Returns:
            The structures with forces, energy, history and features.

        Raises:
            StructureError: A crystal overlaps, explodes, or can't be displaced without that.
            CalculatorError: The calculator fails at a crystal's start, or gives no stress where cells strain.
            ValueError: `indices` is not one valid index per slot.
        """
        return self.reset_slots(range(self.n_envs), indices)

    def reset_finished(self) -> AtomGraph:
        """Begin new episodes in the slots whose episode has ended; the others go on.

        Raises:
            RelaxRLError: As in `reset`.
        """
        return self.reset_slots(torch.nonzero(self.finished).flatten().tolist())

    def reset_slots(self, slots: Sequence[int], indices: Sequence[int] | None = None) -> AtomGraph:
        """Begin new episodes in some slots; the others go on.

        Args:
            slots: Numbers of the slots, each once.
            indices: Which crystal for each of them; drawn by `weights` if None.

        Raises:
            RelaxRLError: As in `reset`.
            ValueError: `indices` is not one valid index per slot.
            RuntimeError: There was no `reset` before, and so nothing that could go on.
        """
        if not slots:
            return self.graph
        if len(slots) < self.n_envs:
            _begun(self._graph)
        n = len(slots)
        chosen = self._deck.draw(n, self.generator) if indices is None else self._deck.checked(indices, n, self.n_envs)
        return self._begin(list(slots), chosen)

    def step(self, displacements: Tensor | Action, strain: Tensor | None = None) -> StepResult:
        """Displace the atoms, as far as that is legal, and evaluate the forces there.

        Args:
            displacements: (n_atoms, 3), Å, for the atoms of all structures of `graph`.
            strain: (n_graphs, 6), see `Action`, which may hold it as well.

        Returns:
            What happened. Structures whose episode had ended before are unchanged, with zero reward.

        Raises:
            ValueError: Displacements or strain have another shape or are not finite; or cells are fixed and there is a
                strain.
            RuntimeError: There was no `reset` before.
        """
        action = displacements if isinstance(displacements, Action) else Action(displacements, strain)
        before, felt, all_running = self.graph, _set(self._felt), self._all_running
        running = None if all_running else self._reasons == _RUNNING
        wanted, lengths, longest = self._movement.allowed(before, action.displacements.detach(), running)
        asked = self._asked_strain(action.strain, before, running)
        outcome = self._movement.move(before, wanted, lengths, self.potential, asked)
        self._evaluations += 1 if outcome.evaluated is None else outcome.evaluated
        after = outcome.graph
        self._felt = self._feel(after)
        self._steps += 1 if running is None else running
        self._longest, self._strayed = self._longest + 1, self._strayed + longest
        self._count_stuck(outcome.a_back)
        progress = Progress(
            start=self.start,
            sizes=self._sizes,
            steps=self._steps,
            stuck=self._stuck,
            failed=outcome.failed,
            longest=self._longest,
            strayed=self._strayed,
            cohesion=self._cohesion,
            moved=None if self._cells is None else carried(self.start, after),
        )
        reasons = judge(after, self._felt.most, progress, self.config)
        if reasons is not None:
            self._reasons = reasons if running is None else torch.where(running, reasons, self._reasons)
            self._all_running = not bool(self._reasons.any())

        self._graph = self._observed(after, self._history(before, outcome.applied, running))
        step = Step(
            before=felt,
            after=self._felt,
            energy_before=_set(before.energy),
            energy=_set(after.energy),
            a_back=outcome.a_back,
            converged=None if self._all_running else self._reasons == _CONVERGED,
            broken=None if self._all_running else self._reasons == _BROKEN,
            graph_index=after.graph_index,
            sizes=self._sizes,
        )
        result = self._result(step, wanted, outcome.applied, running)
        if asked is None:
            return result
        return dataclasses.replace(result, proposed_strain=asked, applied_strain=outcome.strain)

    def state_dict(self) -> StateDict:
        """All that is needed to go on bit for bit: episodes, counters, weights and the generator."""
        return {
            "graph": None if self._graph is None else _fields(self._graph),
            "start": None if self._start is None else _fields(self._start),
            "indices": self.indices,
            "steps": self._steps.clone(),
            "stuck": torch.zeros_like(self._steps) if self._stuck is None else self._stuck.clone(),
            "evaluations": self._evaluations.clone(),
            "reasons": self._words(),
            "weights": torch.from_numpy(self.weights),
            "generator": self.generator.bit_generator.state,
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a state made by `state_dict` of an environment with the same crystals and `n_envs`.

        Raises:
            ValueError: The state is of another number of crystals or slots.
        """
        n_crystals, n_envs = len(state["weights"]), len(state["reasons"])
        if (n_crystals, n_envs) != (len(self.crystals), self.n_envs):
            raise ValueError(
                f"the state has {n_crystals} crystals and {n_envs} slots, "
                f"this environment {len(self.crystals)} and {self.n_envs}"
            )
        device = self.device
        self._indices = state["indices"].tolist()
        self._graph = None if state["graph"] is None else AtomGraph(**state["graph"]).to(device)
        self._start = None if state["start"] is None else AtomGraph(**state["start"]).to(device)
        self._steps, self._evaluations = (state[name].to(device, copy=True) for name in ("steps", "evaluations"))
        self._stuck = state["stuck"].to(device, copy=True) if bool(state["stuck"].any()) else None
        self._reasons = torch.tensor([ORDER.index(Reason(reason)) for reason in state["reasons"]], device=device)
        self._all_running = not bool(self.finished.any())
        self._enter(range(self.n_envs))
        self._deck.probabilities = state["weights"].numpy().copy()
        self.generator.bit_generator.state = state["generator"]

    def _begin(self, slots: list[int], indices: list[int]) -> AtomGraph:
        """Replace the episodes of some slots by new ones of the crystals asked for."""
        new = draw_starts(
            [self.crystals[index] for index in indices],
            self.potential,
            self.config,
            self.generator,
            self.device,
            None if self._freedom is None else self._freedom.select(indices, self.device),
        )
        first = new
        if self._graph is not None and self._start is not None and len(slots) < self.n_envs:
            order = torch.arange(self.n_envs)
            order[slots] = self.n_envs + torch.arange(len(slots))
            new = AtomGraph.batch([self._graph.replace(features=None), new]).select(order)
            first = AtomGraph.batch([self._start, first]).select(order)
        self._start = first
        for slot, index in zip(slots, indices, strict=True):
            self._indices[slot] = index
        places = torch.tensor(slots, device=self._steps.device)
        for counter, value in ((self._steps, 0), (self._evaluations, 1), (self._reasons, _RUNNING), (self._stuck, 0)):
            if counter is not None:
                counter.index_fill_(0, places, value)
        self._all_running = not bool(self.finished.any())
        self._graph = self._observed(new)
        self._enter(slots)
        return self._graph

    def _enter(self, new: Iterable[int]) -> None:
        """Look up what follows from the structures that are there now, those in the slots `new` for the first time."""
        graph = self._graph
        if graph is None:
            return
        self._sizes, self._longest = graph.atoms_per_graph, int(self._steps.max())
        self._strayed = float(torch.linalg.vector_norm(graph.positions - self.start.positions, dim=1).max())
        if self._cells is not None:
            self._cells.begin(_set(self._freedom).select(self._indices, self.device), self.start)
            self._strayed = math.inf  # cells carry atoms along: measured anew in each step
        self._felt = self._feel(graph)
        self._cohesion.begin(graph, new)
        free = torch.cat([self._free_atoms[index] for index in self._indices])
        self._movement.begin(graph, None if bool(free.all()) else free.to(graph.positions.device))

    def _feel(self, graph: AtomGraph) -> Felt:
        """How large forces and, where cells strain, stresses are."""
        pull = None if self._cells is None else self._cells.pull(graph)
        return Felt.of(_set(graph.forces), graph.graph_index, self.n_envs, pull)

    def _asked_strain(self, strain: Tensor | None, graph: AtomGraph, running: Tensor | None) -> Tensor | None:
        """What is allowed of the strain asked for; None where cells are fixed."""
        if self._cells is not None:
            return self._cells.allowed(strain, graph, running)
        if strain is not None:
            raise ValueError("`strain` must be None: this environment keeps the cells fixed; give its config a `cell`")
        return None

    def _count_stuck(self, a_back: Tensor | None) -> None:
        """Count the steps in a row of which nothing was left; None stands for zeros."""
        wholly = None if a_back is None else a_back >= WHOLLY
        if wholly is None or not bool(wholly.any()):
            self._stuck = None
        else:
            self._stuck = torch.where(wholly, 1 if self._stuck is None else self._stuck + 1, 0)

    def _result(self, step: Step, proposed: Tensor, applied: Tensor, running: Tensor | None) -> StepResult:
        graph, weights = self.graph, self._reward_weights
        terms = structure_terms(step, weights, self.config.reward.norm)
        if running is not None:
            terms = {name: term * running for name, term in terms.items()}

        def rate_atoms() -> Tensor:
            rated = total(atom_terms(step, weights))
            return rated if running is None else rated * running[graph.graph_index]

        never = torch.zeros_like(step.energy, dtype=torch.bool)
        terminated = never if step.converged is None else step.converged
        return StepResult(
            graph=graph,
            reward=total(terms),
            terms=terms,
            terminated=terminated,
            truncated=never if self._all_running else self.finished & ~terminated,
            reason=self._words(),
            proposed=proposed,
            applied=applied,
            a_back=torch.zeros_like(step.energy) if step.a_back is None else step.a_back,
            evaluations=self.evaluations,
            rate_atoms=rate_atoms,
        )

    def _words(self) -> list[str]:
        """Why each episode ended."""
        if self._all_running:
            return [Reason.RUNNING.value] * self.n_envs
        return [ORDER[code].value for code in self._reasons.tolist()]

    def _history(self, before: AtomGraph, applied: Tensor, running: Tensor | None) -> dict[str, Tensor | None]:
        """What led to the present state; ended structures keep what led to their last one."""
        history: dict[str, Tensor | None] = {"previous_displacement": applied, "previous_forces": before.forces}
        if running is None:
            return history
        frozen = ~running[before.graph_index, None]
        return {name: torch.where(frozen, _set(getattr(before, name)), _set(new)) for name, new in history.items()}

    def _observed(self, graph: AtomGraph, history: Mapping[str, Tensor | None] | None = None) -> AtomGraph:
        """The graph with its history and its environment features."""
        names = self.config.features
        graph = graph.replace(**history) if history else graph
        if not names:
            return graph
        return graph.replace(features=environment_features(names, graph, self._steps, max_force(self.start)))


def _begun(graph: AtomGraph | None) -> AtomGraph:
    if graph is None:
        raise RuntimeError("the environment has no episodes yet; call reset() first")
    return graph


def _set(value: _T | None) -> _T:
    """What is always there once episodes have begun."""
    assert value is not None, "set when episodes begin"
    return value


def _fields(graph: AtomGraph) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in vars(graph).items() if value is not None}
