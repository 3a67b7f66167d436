"""Returns over several steps: single steps in, transitions over up to n steps out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from relaxrl.agents.transition import Transition
from relaxrl.graph import AtomGraph
from relaxrl.typing import StateDict


class NStepAssembler:
    """Joins up to n consecutive steps of each slot into one transition.

    The reward becomes the sum of gamma^k r_k, the next graph that after the last step, `steps` the number of steps.
    Transitions at an episode's end are shorter: after a termination they don't bootstrap, after a truncation they do.
    Returns over several steps of another policy are biased; n must stay small (2 to 5).

    Args:
        n: Steps to join; 1 passes everything through.
        gamma: Discount per step.

    Raises:
        ValueError: `n` is less than 1.
    """

    def __init__(self, n: int, gamma: float) -> None:
        if n < 1:
            raise ValueError(f"`n` must be at least 1, got {n}")
        self.n = n
        self.gamma = gamma
        self._pending: dict[int, list[Transition]] = {}

    def add(self, transition: Transition, slots: Sequence[int], ended: Tensor) -> Transition | None:
        """Take one step of each slot and give out what is complete.

        Args:
            transition: One single-step transition per slot.
            slots: The slots, in order.
            ended: (n,), bool; episodes that are over, terminated or truncated.

        Returns:
            The completed transitions, or None where none is.
        """
        if self.n == 1:
            return transition
        complete: list[Transition] = []
        for row, (slot, is_last) in enumerate(zip(slots, ended.tolist(), strict=True)):
            pending = self._pending.setdefault(slot, [])
            pending.append(transition.select([row]))
            if len(pending) == self.n:
                complete.append(self._joined(pending))
                del pending[0]
            if is_last:
                while pending:
                    complete.append(self._joined(pending))
                    del pending[0]
        return Transition.cat(complete) if complete else None

    def state_dict(self) -> StateDict:
        """The steps that wait for their successors."""
        pending: dict[int, list[StateDict]] = {}
        for slot, transitions in self._pending.items():
            flat = [transition.flatten() for transition in transitions]
            pending[slot] = [{"atoms": atoms, "graphs": graphs} for atoms, graphs in flat]
        return {"pending": pending}

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a state made by `state_dict`."""
        self._pending = {
            int(slot): [
                Transition.unflatten(one["atoms"], one["graphs"], torch.tensor([len(one["atoms"]["proposed"])]))
                for one in transitions
            ]
            for slot, transitions in state["pending"].items()
        }

    def _joined(self, pending: Sequence[Transition]) -> Transition:
        first, last = pending[0], pending[-1]
        reward, atom_reward = torch.zeros_like(first.reward), torch.zeros_like(first.atom_reward)
        for k, step in enumerate(pending):
            reward = reward + self.gamma**k * step.reward
            atom_reward = atom_reward + self.gamma**k * step.atom_reward
        return Transition(
            graph=first.graph,
            proposed=first.proposed,
            applied=first.applied,
            reward=reward,
            atom_reward=atom_reward,
            next_graph=_same_topology(last.next_graph, first.graph),
            terminated=last.terminated,
            steps=torch.full_like(first.steps, len(pending)),
        )


def _same_topology(later: AtomGraph, first: AtomGraph) -> AtomGraph:
    """The later graph, after a check that it is of the same episode."""
    if not torch.equal(later.atomic_numbers, first.atomic_numbers):
        raise ValueError("a slot changed its structure in mid-episode; mark the last step of an episode as `ended`")
    return later
