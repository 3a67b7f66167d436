"""Experience: agent and expert drive the slots of one batched environment, and their steps become transitions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from relaxrl.agents import (
    TD3,
    CandidateRanking,
    ExpertConfig,
    ExplorationConfig,
    NStepAssembler,
    Transition,
    build_expert,
    draw_expert_episodes,
    explore,
)
from relaxrl.envs import RelaxationEnv, StepResult
from relaxrl.graph import AtomGraph, max_force
from relaxrl.structures import Crystal
from relaxrl.training.meters import Meters
from relaxrl.typing import BoolArray, FloatArray, StateDict


@dataclass(frozen=True)
class Experience:
    """What one step of all slots gave.

    Attributes:
        agent: Transitions of slots driven by the agent; None where there are none.
        expert: Transitions of slots driven by the expert.
        ended: Crystals whose agent episodes ended, whether they converged, and the F_max left, eV/Å.
    """

    agent: Transition | None
    expert: Transition | None
    ended: list[tuple[int, bool, float]]


class Rollout:
    """Steps the environment; each slot is driven by the agent or, from some step on, by the expert.

    The expert drives an episode from its beginning with `config.probability`, or takes over in mid-episode with
    `config.takeover` per step: then it shows what to do from where the agent has got to.

    Args:
        env: The environment; must have been reset already when a state is loaded, is reset on `begin` otherwise.
        learner: Whose policy acts.
        expert: Which expert and how often.
        exploration: Noise on the agent's actions.
        n_step: Steps joined into one transition.
        choices: Decides who drives.
        noise: Exploration.
        meters: Get episode returns, lengths, moves and corrections of agent-driven slots.
    """

    def __init__(
        self,
        env: RelaxationEnv,
        learner: TD3,
        expert: ExpertConfig,
        exploration: ExplorationConfig,
        n_step: int,
        choices: np.random.Generator,
        noise: torch.Generator,
        meters: Meters,
    ) -> None:
        self.env = env
        self.learner = learner
        self.config = expert
        self.exploration = exploration
        self.choices = choices
        self.noise = noise
        self.meters = meters
        self.expert = build_expert(expert)
        self._n_step = n_step
        self._assemblers = self._new_assemblers()
        self._driven = np.zeros(env.n_envs, dtype=np.bool_)  # by the expert
        self._pure = np.ones(env.n_envs, dtype=np.bool_)  # by one driver since the start
        self._returns = torch.zeros(env.n_envs, dtype=torch.float64)

    def begin(self, t_total: int, expert_only: bool = False) -> None:
        """New episodes in all slots."""
        self.env.reset()
        self._assemblers = self._new_assemblers()  # the episodes that they wait for will never go on
        self._enter(list(range(self.env.n_envs)), t_total, expert_only)

    def step(self, t_total: int, expert_only: bool = False) -> Experience:
        """One step of every slot; episodes that end are replaced.

        Args:
            t_total: Environment steps so far, for the schedules.
            expert_only: Whether all slots are driven by the expert.
        """
        graph = self.env.graph
        result = self.env.step(self._actions(graph, t_total))
        self._returns += result.reward.cpu()
        self._measure(result)
        transition = Transition.of_step(
            graph,
            result.proposed,
            result.applied,
            result.reward,
            result.atom_reward,
            result.graph,
            result.terminated,
        ).to("cpu")  # where replay is
        taken = np.zeros_like(self._driven) if expert_only else self._draw_takeovers(result, t_total)
        # A step before a change of driver is the last that may be joined with those before it.
        last = result.done.cpu() | torch.from_numpy(taken)
        agent = self._joined("agent", transition, last, ~self._driven)
        expert = self._joined("expert", transition, last, self._driven)
        self._driven |= taken
        self._pure &= ~taken
        ended = self._finish(result, t_total, expert_only)
        return Experience(agent, expert, ended)

    def state_dict(self) -> StateDict:
        """Environment, experts' memories and who drives what."""
        return {
            "env": self.env.state_dict(),
            "expert": self.expert.state_dict(),
            "assemblers": {who: assembler.state_dict() for who, assembler in self._assemblers.items()},
            "driven": self._driven.copy(),
            "pure": self._pure.copy(),
            "returns": self._returns.clone(),
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a state made by `state_dict`."""
        self.env.load_state_dict(state["env"])
        self.expert.load_state_dict(state["expert"])
        for who, assembler in self._assemblers.items():
            assembler.load_state_dict(state["assemblers"][who])
        self._driven, self._pure = state["driven"].copy(), state["pure"].copy()
        self._returns = state["returns"].clone()

    def _new_assemblers(self) -> dict[str, NStepAssembler]:
        return {who: NStepAssembler(self._n_step, self.learner.config.gamma) for who in ("agent", "expert")}

    def _enter(self, slots: Sequence[int], t_total: int, expert_only: bool) -> None:
        """Note who drives the episodes that begin in these slots."""
        if not slots:
            return
        indices = self.env.indices.tolist()
        crystals = [self.env.crystals[indices[slot]] for slot in slots]
        self.expert.reset(slots, [known_minimum(crystal) for crystal in crystals])
        drawn = draw_expert_episodes(self.config, len(slots), self.choices, t_total)
        self._driven[list(slots)] = True if expert_only else drawn
        self._pure[list(slots)] = True
        self._returns[list(slots)] = 0.0

    def _draw_takeovers(self, result: StepResult, t_total: int) -> BoolArray:
        """In which of the agent's running episodes the expert goes on from here."""
        chance = self.config.takeover.at(t_total)
        if chance <= 0:
            return np.zeros_like(self._driven)
        drawn = self.choices.random(self.env.n_envs) < chance
        taken: BoolArray = drawn & ~self._driven & ~result.done.cpu().numpy()
        return taken

    def _actions(self, graph: AtomGraph, t_total: int) -> Tensor:
        """Displacements for all slots, (n_atoms, 3), Å."""
        displacement = torch.zeros_like(graph.positions)
        by_agent, by_expert = np.flatnonzero(~self._driven), np.flatnonzero(self._driven)
        if len(by_agent):
            chosen = graph.select(by_agent.tolist())
            policy: Callable[[AtomGraph], Tensor] = self.learner.act
            if isinstance(self.learner, CandidateRanking):
                share = self.exploration.random_candidates * self.exploration.scale.at(t_total)
                policy = partial(self.learner.act_randomly, share=share, generator=self.noise)
            noisy = explore(policy, chosen, self.exploration, self.learner.config.max_step, self.noise, t_total)
            displacement[_rows(graph, ~self._driven)] = noisy.to(displacement)
        if len(by_expert):
            shown = self.expert.propose(graph.select(by_expert.tolist()).to("cpu"), by_expert.tolist())
            displacement[_rows(graph, self._driven)] = shown.to(displacement)
        return displacement

    def _joined(self, who: str, transition: Transition, last: Tensor, chosen: BoolArray) -> Transition | None:
        """The transitions of these slots, joined over several steps where so configured."""
        slots = np.flatnonzero(chosen).tolist()
        if not slots:
            return None
        return self._assemblers[who].add(transition.select(slots), slots, last[slots])

    def _measure(self, result: StepResult) -> None:
        """Moves, corrections and terms of the reward in the agent's slots."""
        slots = torch.from_numpy(~self._driven).to(result.done.device)
        count = int(slots.sum())
        if not count:
            return
        rows = slots[result.graph.graph_index]
        taken_back = result.a_back[slots]
        self.meters.add(
            {
                "rollout/actual_move": float(result.applied[rows].norm(dim=-1).mean()),
                "rollout/proposed_move": float(result.proposed[rows].norm(dim=-1).mean()),
                "rollout/correction_share": float((taken_back > 0).double().mean()),
                "rollout/a_back": float(taken_back.mean()),
            },
            count,
        )
        self.meters.add({f"reward/{name}": float(term[slots].mean()) for name, term in result.terms.items()}, count)

    def _finish(self, result: StepResult, t_total: int, expert_only: bool) -> list[tuple[int, bool, float]]:
        """Record ended episodes and begin new ones."""
        slots = torch.nonzero(result.done).flatten().tolist()
        if not slots:
            return []
        indices, fmax, steps = self.env.indices, max_force(result.graph), self.env.steps
        ended = []
        for slot in slots:
            if self._driven[slot] or not self._pure[slot]:
                continue
            converged = bool(result.terminated[slot])
            ended.append((int(indices[slot]), converged, float(fmax[slot])))
            self.meters.episode(
                {
                    "rollout/ep_rew_mean": float(self._returns[slot]),
                    "rollout/ep_len_mean": float(steps[slot]),
                    "rollout/success_rate": float(converged),
                }
            )
        self.env.reset_finished()
        self._enter(slots, t_total, expert_only)
        return ended


def known_minimum(crystal: Crystal) -> FloatArray | None:
    """Positions of the minimum that the episodes of a crystal are displaced from; None where it is not known."""
    if crystal.kind != "minimum":
        return None
    positions: FloatArray = crystal.atoms.positions
    return positions


def _rows(graph: AtomGraph, slots: BoolArray) -> Tensor:
    """Which atoms belong to these slots, (n_atoms,), bool."""
    return torch.from_numpy(slots).to(graph.graph_index.device)[graph.graph_index]
