"""The relaxation environment: structures, a potential, displacements in, rewards out; no other library's interface."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from relaxrl.envs.config import EnvConfig
from relaxrl.envs.correction import WHOLLY, correct
from relaxrl.envs.features import environment_features
from relaxrl.envs.integrity import count_pieces, limit_radially, radii_of
from relaxrl.envs.pairs import KeptPairs
from relaxrl.envs.reward import Step, atom_terms, structure_terms
from relaxrl.envs.start import draw_starts, free_atoms
from relaxrl.envs.termination import TERMINATING, Reason
from relaxrl.envs.types import Action, StepResult
from relaxrl.graph import AtomGraph, force_norms, max_force, scatter_max
from relaxrl.potentials.base import Potential
from relaxrl.structures import Crystal, StructureSet
from relaxrl.typing import FloatArray, StateDict


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
        self._pairs = KeptPairs()
        self._graph: AtomGraph | None = None
        self._start: AtomGraph | None = None  # the same slots at their first step; its history is not used
        self._indices = torch.zeros(n_envs, dtype=torch.int64)
        self._free = torch.empty(0, dtype=torch.bool)  # (n_atoms,), of the current structures
        self._steps = torch.zeros(n_envs, dtype=torch.int64)
        self._stuck = torch.zeros(n_envs, dtype=torch.int64)
        self._evaluations = torch.zeros(n_envs, dtype=torch.int64)
        self._reasons = [Reason.RUNNING] * n_envs

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
        return self._indices.clone()

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
        return torch.tensor([reason is not Reason.RUNNING for reason in self._reasons])

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
        before = self.graph
        running = ~self.finished
        wanted = action.displacements.detach().to(before.positions)
        if wanted.shape == before.positions.shape:
            movable = running[before.graph_index] & self._free
            wanted = limit_radially(wanted, self.config.max_step) * movable[:, None]
        radii = radii_of(before, self.config)
        correction = correct(before, wanted, radii, self.config.neighbor_cutoff, self._pairs)

        after, applied, a_back, failed = self._move(before, correction.applied, correction.a_back)
        self._steps += running
        self._stuck = torch.where(a_back >= WHOLLY, self._stuck + 1, 0)
        reasons = self._judge(after, failed)
        for slot in torch.nonzero(running).flatten().tolist():
            self._reasons[slot] = reasons[slot]

        # Ended structures keep the history that led to their last state.
        frozen = ~running[before.graph_index, None]
        after = after.replace(
            previous_displacement=torch.where(frozen, _set(before.previous_displacement), applied),
            previous_forces=torch.where(frozen, _set(before.previous_forces), _set(before.forces)),
        )
        self._graph = self._observed(after)
        return self._result(before, wanted, applied, a_back, running)

    def state_dict(self) -> StateDict:
        """All that is needed to go on bit for bit: episodes, counters, weights and the generator."""
        return {
            "graph": None if self._graph is None else _fields(self._graph),
            "start": None if self._start is None else _fields(self._start),
            "indices": self._indices.clone(),
            "steps": self._steps.clone(),
            "stuck": self._stuck.clone(),
            "evaluations": self._evaluations.clone(),
            "reasons": [str(reason) for reason in self._reasons],
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
        self._indices = state["indices"].clone()
        self._free = torch.cat([self._free_atoms[index] for index in self._indices.tolist()])
        self._graph = None if state["graph"] is None else AtomGraph(**state["graph"])
        self._start = None if state["start"] is None else AtomGraph(**state["start"])
        self._steps = state["steps"].clone()
        self._stuck = state["stuck"].clone()
        self._evaluations = state["evaluations"].clone()
        self._reasons = [Reason(reason) for reason in state["reasons"]]
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
        chosen = [self.crystals[index] for index in indices]
        new = AtomGraph.batch(draw_starts(chosen, self.potential, self.config, self.generator))
        first = new.replace(features=None)
        if self._graph is not None and self._start is not None and len(slots) < self.n_envs:
            order = torch.arange(self.n_envs)
            order[slots] = self.n_envs + torch.arange(len(slots))
            new = AtomGraph.batch([self._graph.replace(features=None), new]).select(order)
            first = AtomGraph.batch([self._start, first]).select(order)
        self._start = first
        self._indices[slots] = torch.tensor(indices)
        self._free = torch.cat([self._free_atoms[index] for index in self._indices.tolist()])
        self._steps[slots] = 0
        self._stuck[slots] = 0
        self._evaluations[slots] = 1
        for slot in slots:
            self._reasons[slot] = Reason.RUNNING
        self._graph = self._observed(new)
        return self._graph

    def _move(
        self, before: AtomGraph, applied: Tensor, a_back: Tensor
    ) -> tuple[AtomGraph, Tensor, Tensor, dict[int, str]]:
        """Structures after the displacement, with forces; what was applied; and the slots whose calculator failed.

        Structures that don't move are not evaluated again.
        """
        moved = torch.zeros(self.n_envs, dtype=torch.bool)
        moved[before.graph_index[(applied != 0).any(dim=-1)]] = True
        places = torch.nonzero(moved).flatten()
        if not len(places):
            return before, applied, a_back, {}
        after = before.replace(positions=before.positions + applied)
        evaluation = self.potential.evaluate(after if bool(moved.all()) else after.select(places))
        self._evaluations[places] += 1

        failed = torch.zeros_like(moved)
        failed[places] = evaluation.failed.to(failed.device)
        good_graphs = moved & ~failed
        good = good_graphs[before.graph_index]
        kept = (~evaluation.failed).to(good.device)[torch.repeat_interleave(before.atoms_per_graph[places])]
        forces, energy = _set(before.forces).clone(), _set(before.energy).clone()
        forces[good] = evaluation.forces.to(forces)[kept] * self._free[good, None]
        energy[good_graphs] = evaluation.energy.to(energy)[~evaluation.failed]
        positions = torch.where((moved & failed)[before.graph_index, None], before.positions, after.positions)
        applied = applied * ~failed[before.graph_index, None]
        a_back = torch.where(failed, 1.0, a_back)
        messages = {int(places[k]): text for k, text in evaluation.messages.items()}
        said = {slot: messages.get(slot, "") for slot in torch.nonzero(failed).flatten().tolist()}
        return after.replace(positions=positions, forces=forces, energy=energy), applied, a_back, said

    def _judge(self, after: AtomGraph, failed: dict[int, str]) -> list[Reason]:
        """Why each episode ends here, if it does; the first that applies, in this order."""
        config, start = self.config, self.start
        fmax = max_force(after)
        rise = (_set(after.energy) - _set(start.energy)) / after.atoms_per_graph
        away = scatter_max(force_norms(after.positions - start.positions), after.graph_index, after.n_graphs)
        exploded = (
            (fmax > config.explosion_fmax) | (rise > config.explosion_energy) | (away > config.explosion_displacement)
        )
        at_rest = fmax <= config.fmax
        uphill = at_rest & (rise > config.energy_tolerance)
        broken = torch.zeros_like(at_rest)
        asked = torch.nonzero(at_rest & ~uphill).flatten()
        if len(asked):
            pieces = count_pieces(after.select(asked), config.neighbor_cutoff)
            broken[asked] = pieces > count_pieces(start.select(asked), config.neighbor_cutoff)
        calculator_failed = torch.zeros_like(at_rest)
        calculator_failed[list(failed)] = True
        reasons = [Reason.RUNNING] * self.n_envs
        for reason, holds in (  # from the weakest to the strongest
            (Reason.STEP_LIMIT, self._steps >= config.max_steps),
            (Reason.STUCK, self._stuck > config.stuck_limit),
            (Reason.CONVERGED, at_rest),
            (Reason.BROKEN, broken),
            (Reason.ENERGY_ABOVE_START, uphill),
            (Reason.EXPLODED, exploded),
            (Reason.CALCULATOR_FAILED, calculator_failed),
        ):
            for slot in torch.nonzero(holds).flatten().tolist():
                reasons[slot] = reason
        return reasons

    def _result(
        self, before: AtomGraph, proposed: Tensor, applied: Tensor, a_back: Tensor, running: Tensor
    ) -> StepResult:
        graph = self.graph
        terminated = torch.tensor([reason in TERMINATING for reason in self._reasons])
        reward = self.config.reward
        step = Step(
            forces_before=_set(before.forces),
            forces=_set(graph.forces),
            energy_before=_set(before.energy),
            energy=_set(graph.energy),
            a_back=a_back,
            converged=terminated,
            graph_index=graph.graph_index,
        )
        terms = {name: term * running for name, term in structure_terms(step, reward.weights, reward.norm).items()}
        of_atoms = torch.stack(list(atom_terms(step, reward.weights).values())).sum(dim=0)
        return StepResult(
            graph=graph,
            reward=torch.stack(list(terms.values())).sum(dim=0),
            atom_reward=of_atoms * running[graph.graph_index],
            terms=terms,
            terminated=terminated,
            truncated=self.finished & ~terminated,
            reason=[str(reason) for reason in self._reasons],
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
