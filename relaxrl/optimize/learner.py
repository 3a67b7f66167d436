"""What a campaign asks of those who learn from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from relaxrl.optimize.policy import Policy

if TYPE_CHECKING:
    from relaxrl.optimize.campaign import Conditions, Relaxed


class Learner(Protocol):
    """Improves an agent by finished relaxations; `relaxrl.training.OnlineLearning` is one."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What must not change between a kill and going on, as JSON can hold it."""

    @property
    def policy(self) -> Policy:
        """The agent as it has become, for the next structure."""

    @property
    def agent(self) -> str:
        """Where other processes find it."""

    def begin(self, conditions: Conditions, journal: Path | None, before: Sequence[Relaxed]) -> None:
        """A campaign begins or goes on.

        Args:
            conditions: How structures are relaxed, with the agent that it began with.
            journal: Of the campaign.
            before: What was finished before, in that order.
        """

    def expect(self, n: int) -> None:
        """So many structures are handed out at a time: what `agent` says has to stay where it is for that long."""

    def take(self, done: Relaxed) -> None:
        """A structure is finished."""
