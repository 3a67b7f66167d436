"""Two replays, the agent's and the expert's, never pooled: every batch takes a fixed share from each."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from relaxrl.agents.replay import ReplayBuffer, Sample
from relaxrl.agents.schedules import Schedule
from relaxrl.agents.transition import Transition
from relaxrl.typing import FloatArray, StateDict

DEFAULT_SHARE = 0.25
"""The expert's share of a batch unless told otherwise."""


@dataclass(frozen=True)
class MixedSample:
    """One batch; None where a store contributes nothing."""

    agent: Sample | None
    expert: Sample | None


class MixedReplay:
    """Samples fixed shares of agent and expert transitions.

    Shares are exact over time: where share * batch size is not whole, what rounding leaves over is carried to the next
    batch, so that after n batches the expert has given n * share * batch size transitions to within one. With a share
    of 0.25 and batches of 10 the batches hold 2, 3, 2, 3, ... expert transitions.

    While one of the stores is empty, batches come wholly from the other; nothing is owed for that time.

    Args:
        agent: Store of what the agent did.
        expert: Store of what the expert did.
        share: The expert's share of each batch, in [0, 1], against environment steps.

    Raises:
        ValueError: The share leaves [0, 1], or the stores are one object.
    """

    def __init__(self, agent: ReplayBuffer, expert: ReplayBuffer, share: Schedule | None = None) -> None:
        self.agent = agent
        self.expert = expert
        self.share = share if share is not None else Schedule(start=DEFAULT_SHARE)
        low, high = self.share.bounds
        if low < 0.0 or high > 1.0:
            raise ValueError(f"`share` must stay in [0, 1], got {low} to {high}")
        if agent is expert:
            raise ValueError("`agent` and `expert` must be two buffers: their transitions are never pooled")
        self._carry = 0.0

    def __len__(self) -> int:
        return len(self.agent) + len(self.expert)

    def add(self, transition: Transition, is_expert: bool) -> None:
        """Store transitions of one origin."""
        (self.expert if is_expert else self.agent).add(transition)

    def sample(self, batch_size: int, generator: np.random.Generator, t: int = 0) -> MixedSample:
        """Draw one batch.

        Args:
            batch_size: Transitions from both stores together.
            generator: Source of randomness.
            t: Environment steps so far, for the schedules.

        Raises:
            ValueError: Both stores are empty.
        """
        from_expert = self._expert_count(batch_size, t)
        from_agent = batch_size - from_expert
        return MixedSample(
            agent=self.agent.sample(from_agent, generator, t) if from_agent else None,
            expert=self.expert.sample(from_expert, generator, t) if from_expert else None,
        )

    def update_priorities(
        self, sample: MixedSample, agent_errors: FloatArray | None, expert_errors: FloatArray | None
    ) -> None:
        """Report the TD errors of a batch to the stores that its parts came from."""
        if sample.agent is not None and agent_errors is not None:
            self.agent.update_priorities(sample.agent.indices, agent_errors)
        if sample.expert is not None and expert_errors is not None:
            self.expert.update_priorities(sample.expert.indices, expert_errors)

    def state_dict(self) -> StateDict:
        """Both stores and the carried remainder."""
        return {"agent": self.agent.state_dict(), "expert": self.expert.state_dict(), "carry": self._carry}

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a state made by `state_dict`."""
        self.agent.load_state_dict(state["agent"])
        self.expert.load_state_dict(state["expert"])
        self._carry = state["carry"]

    def _expert_count(self, batch_size: int, t: int) -> int:
        if not len(self):
            raise ValueError("can't sample from two empty buffers; add transitions first")
        if not len(self.expert) or not len(self.agent):
            self._carry = 0.0
            return 0 if len(self.agent) else batch_size
        share = self.share.at(t)
        if share in (0.0, 1.0):
            # A share at its bound means it: no expert sample may trickle in from an old remainder.
            self._carry = 0.0
            return int(share) * batch_size
        wanted = share * batch_size + self._carry
        # Floating-point sums like 0.1 + 0.2 must not lose a whole sample.
        count = min(math.floor(wanted + 1e-9), batch_size)
        self._carry = wanted - count
        return count
