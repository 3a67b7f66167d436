"""The relaxation environment: structures, a potential, displacements in, rewards out; no other library's interface."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from relaxrl.envs.clearance import Clearance
from relaxrl.envs.config import EnvConfig
from relaxrl.envs.correction import WHOLLY, check_displacement
from relaxrl.envs.features import environment_features
from relaxrl.envs.integrity import limit_radially, radii_of
from relaxrl.envs.reward import Step, rewards
from relaxrl.envs.start import draw_starts, free_atoms
from relaxrl.envs.termination import ORDER, Progress, Reason, judge
from relaxrl.envs.types import Action, StepResult
from relaxrl.graph import AtomGraph, max_force, scatter_max
from relaxrl.potentials.base import Potential
from relaxrl.structures import Crystal, StructureSet
from relaxrl.typing import FloatArray, StateDict

_RUNNING, _CONVERGED = ORDER.index(Reason.RUNNING), ORDER.index(Reason.CONVERGED)


class RelaxationEnv:
    """Relaxation of a batch of structures, each in an episode of its own.

    One structure is a batch of one. All structures of the batch share one call of the potential per step. Cells are
    fixed; positions are never wrapped. Atoms held by `FixAtoms` don't move and feel no force, as in ASE. An ended
    episode stays as it is, at no cost, until `reset_finished` or `reset`.

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
        ValueError: There are no crystals, or `n_envs` is not positive.
        StructureError: A crystal has no atoms or a constraint other than `FixAtoms`.

    Example:
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
        self._free_atoms = [free_atoms(crystal) for crystal in crystals]
        self.weights = crystals.weights if isinstance(crystals, StructureSet) else np.ones(len(crystals))
        self._reward_weights = config.reward.weights
        self._clearance = Clearance(config.neighbor_cutoff, config.max_step)
        self._graph: AtomGraph | None = None
        self._start: AtomGraph | None = None  # the same slots at their first step; its history is not used
        self._indices = [0] * n_envs
        self._free: Tensor | None = None  # (n_atoms,), bool, of the current structures; None where all atoms are free
        self._steps, self._stuck, self._evaluations, self._reasons = (
            torch.zeros(n_envs, dtype=torch.int64, device=config.device) for _ in range(4)
        )
        self._all_running = True

    @property
    def weights(self) -> FloatArray:
        """Probability of each crystal to be drawn, (n_crystals,); set any non-negative numbers, they are normalised."""
        return self._probabilities.copy()

    @weights.setter
    def weights(self, values: ArrayLike) -> None:
        weights = np.array(values, dtype=np.float64)
        if weights.shape != (len(self.crystals),):
            raise ValueError(f"`weights` must have shape (n_crystals={len(self.crystals)},), got {weights.shape}")
        if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
            raise ValueError("`weights` must be finite, not negative, and not all zero")
        self._probabilities: FloatArray = weights / weights.sum()

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

    def reset(self, indices: Sequence[int] | None = None) -> AtomGraph:
        """Begin new episodes in all slots.

        Args:
            indices: (n_envs,), which crystal for each slot; drawn by `weights` if None.

        Returns:
            The structures with forces, energy, history and features.

        Raises:
            StructureError: A crystal overlaps, explodes, or can't be displaced without that.
            CalculatorError: The calculator fails at a crystal's start.
            ValueError: `indices` is not one valid index per slot.
        """
        slots = list(range(self.n_envs))
        return self._begin(slots, self._draw(len(slots)) if indices is None else self._checked(indices))

    def reset_finished(self) -> AtomGraph:
        """Begin new episodes in the slots whose episode has ended; the others go on.

        Raises:
            StructureError: As in `reset`.
            CalculatorError: As in `reset`.
        """
        slots = torch.nonzero(self.finished).flatten().tolist()
        return self._begin(slots, self._draw(len(slots))) if slots else self.graph

    def step(self, displacements: Tensor | Action) -> StepResult:
        """Displace the atoms, as far as that is legal, and evaluate the forces there.

        Args:
            displacements: (n_atoms, 3), Å, for the atoms of all structures of `graph`.

        Returns:
            What happened. Structures whose episode had ended before are unchanged, with zero reward.

        Raises:
            ValueError: Displacements have another shape or are not finite.
            RuntimeError: There was no `reset` before.
        """
        action = displacements if isinstance(displacements, Action) else Action(displacements)
        before, running = self.graph, self._reasons == _RUNNING
        wanted = action.displacements.detach().to(before.positions)
        check_displacement(before, wanted)
        wanted = limit_radially(wanted, self.config.max_step)
        if not self._all_running:
            wanted = wanted * running[before.graph_index, None]
        if self._free is not None:
            wanted = wanted * self._free[:, None]
        applied, a_back = self._corrected(before, wanted)

        after, applied, a_back, failed = self._move(before, applied, a_back)
        self._steps += running
        self._stuck = torch.where(a_back >= WHOLLY, self._stuck + 1, 0)
        reasons = judge(after, max_force(after), Progress(self.start, self._steps, self._stuck, failed), self.config)
        if reasons is not None:
            self._reasons = torch.where(running, reasons, self._reasons)

        history = {"previous_displacement": applied, "previous_forces": before.forces}
        if not self._all_running:  # ended structures keep the history that led to their last state
            frozen = ~running[before.graph_index, None]
            history = {
                name: torch.where(frozen, _set(getattr(before, name)), _set(new)) for name, new in history.items()
            }
        self._graph = self._observed(after.replace(**history))
        result = self._result(before, wanted, applied, a_back, running)
        self._all_running = self._all_running and reasons is None
        return result

    def state_dict(self) -> StateDict:
        """All that is needed to go on bit for bit: episodes, counters, weights and the generator."""
        return {
            "graph": None if self._graph is None else _fields(self._graph),
            "start": None if self._start is None else _fields(self._start),
            "indices": self.indices,
            "steps": self._steps.clone(),
            "stuck": self._stuck.clone(),
            "evaluations": self._evaluations.clone(),
            "reasons": [ORDER[code].value for code in self._reasons.tolist()],
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
        device = self.config.device
        self._indices = state["indices"].tolist()
        self._graph = None if state["graph"] is None else AtomGraph(**state["graph"]).to(device)
        self._start = None if state["start"] is None else AtomGraph(**state["start"]).to(device)
        self._steps, self._stuck, self._evaluations = (
            state[name].to(device, copy=True) for name in ("steps", "stuck", "evaluations")
        )
        self._reasons = torch.tensor([ORDER.index(Reason(reason)) for reason in state["reasons"]], device=device)
        self._all_running = not bool(self.finished.any())
        self._enter()
        self._probabilities = state["weights"].numpy().copy()
        self.generator.bit_generator.state = state["generator"]

    def _draw(self, n: int) -> list[int]:
        drawn: list[int] = self.generator.choice(len(self.crystals), size=n, p=self._probabilities).tolist()
        return drawn

    def _checked(self, indices: Sequence[int]) -> list[int]:
        chosen = [int(index) for index in indices]
        if len(chosen) != self.n_envs or not all(0 <= index < len(self.crystals) for index in chosen):
            raise ValueError(
                f"`indices` must be n_envs={self.n_envs} numbers from 0 to {len(self.crystals) - 1}, got {chosen}"
            )
        return chosen

    def _begin(self, slots: list[int], indices: list[int]) -> AtomGraph:
        """Replace the episodes of some slots by new ones of the crystals asked for."""
        new = draw_starts([self.crystals[index] for index in indices], self.potential, self.config, self.generator)
        first = new
        if self._graph is not None and self._start is not None and len(slots) < self.n_envs:
            order = torch.arange(self.n_envs)
            order[slots] = self.n_envs + torch.arange(len(slots))
            new = AtomGraph.batch([self._graph.replace(features=None), new]).select(order)
            first = AtomGraph.batch([self._start, first]).select(order)
        self._start = first
        for slot, index in zip(slots, indices, strict=True):
            self._indices[slot] = index
        for counter, value in ((self._steps, 0), (self._stuck, 0), (self._evaluations, 1), (self._reasons, _RUNNING)):
            counter[slots] = value
        self._all_running = not bool(self.finished.any())
        self._graph = self._observed(new)
        self._enter()
        return self._graph

    def _enter(self) -> None:
        """Look up what follows from the structures that are there now."""
        if self._graph is None:
            return
        free = torch.cat([self._free_atoms[index] for index in self._indices])
        self._free = None if bool(free.all()) else free.to(self._graph.positions.device)
        self._clearance.begin(self._graph, radii_of(self._graph, self.config))

    def _corrected(self, before: AtomGraph, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """What is legal of a displacement, and the fraction taken back."""
        legal = self._clearance.legal(before, wanted, self.potential)
        if legal is None:
            return wanted, torch.zeros_like(_set(before.energy))
        a_back = 1.0 - legal
        return wanted * (1.0 - a_back)[before.graph_index, None], a_back

    def _move(self, before: AtomGraph, applied: Tensor, a_back: Tensor) -> tuple[AtomGraph, Tensor, Tensor, Tensor]:
        """Structures after the displacement, with forces; what was applied; and whether the calculator failed.

        Structures that don't move are not evaluated again.
        """
        moved = scatter_max(applied.abs().amax(dim=1), before.graph_index, before.n_graphs) > 0
        places = None if bool(moved.all()) else torch.nonzero(moved).flatten()
        if places is not None and not len(places):
            return before, applied, a_back, torch.zeros_like(moved)
        after = before.replace(positions=before.positions + applied)
        evaluation = self.potential.evaluate(after if places is None else after.select(places))
        self._evaluations += moved
        forces, energy = evaluation.forces.to(before.positions), evaluation.energy.to(before.positions)
        failed = evaluation.failed.to(moved.device)
        if places is not None:
            forces = _set(before.forces).index_put((moved[before.graph_index],), forces)
            energy = _set(before.energy).index_put((places,), energy)
            failed = torch.zeros_like(moved).index_put((places,), failed)
        if self._free is not None:
            forces = forces * self._free[:, None]
        positions = after.positions
        if bool(failed.any()):  # as if nothing had been asked for
            of_atoms = failed[before.graph_index, None]
            positions = torch.where(of_atoms, before.positions, positions)
            forces = torch.where(of_atoms, _set(before.forces), forces)
            energy = torch.where(failed, _set(before.energy), energy)
            applied, a_back = applied.masked_fill(of_atoms, 0.0), a_back.masked_fill(failed, 1.0)
        return after.replace(positions=positions, forces=forces, energy=energy), applied, a_back, failed

    def _result(
        self, before: AtomGraph, proposed: Tensor, applied: Tensor, a_back: Tensor, running: Tensor
    ) -> StepResult:
        graph, ended = self.graph, self._reasons != _RUNNING
        terminated = self._reasons == _CONVERGED
        step = Step(
            forces_before=_set(before.forces),
            forces=_set(graph.forces),
            energy_before=_set(before.energy),
            energy=_set(graph.energy),
            a_back=a_back,
            converged=terminated,
            graph_index=graph.graph_index,
        )
        terms, reward, of_atoms = rewards(step, self._reward_weights, self.config.reward.norm)
        if not self._all_running:
            terms = {name: term * running for name, term in terms.items()}
            reward, of_atoms = reward * running, of_atoms * running[graph.graph_index]
        return StepResult(
            graph=graph,
            reward=reward,
            atom_reward=of_atoms,
            terms=terms,
            terminated=terminated,
            truncated=ended & ~terminated,
            reason=[ORDER[code].value for code in self._reasons.tolist()],
            proposed=proposed,
            applied=applied,
            a_back=a_back,
            evaluations=self.evaluations,
        )

    def _observed(self, graph: AtomGraph) -> AtomGraph:
        """The graph with its environment features."""
        names = self.config.features
        if not names:
            return graph
        features = environment_features(names, graph, self._steps, max_force(self.start))
        return graph.replace(features=features)


def _begun(graph: AtomGraph | None) -> AtomGraph:
    if graph is None:
        raise RuntimeError("the environment has no episodes yet; call reset() first")
    return graph


def _set(value: Tensor | None) -> Tensor:
    """A field that graphs of this environment always have."""
    assert value is not None, "set by draw_starts"
    return value


def _fields(graph: AtomGraph) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in vars(graph).items() if value is not None}
