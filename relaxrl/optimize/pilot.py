"""An agent at the controls of a relaxation: its displacements, and its Hessian corrected by what it did not foresee."""

from __future__ import annotations

import warnings

import numpy as np
from scipy import sparse

from relaxrl.errors import RelaxRLError
from relaxrl.graph import AtomGraph
from relaxrl.optimize.audition import Audition
from relaxrl.optimize.policy import Policy, untrained_elements
from relaxrl.optimize.safeguard import Point, Safeguard, SafeguardConfig
from relaxrl.optimize.surface import Surface
from relaxrl.optimize.surprises import Surprise, Surprises, floored, floored_step
from relaxrl.typing import FloatArray, StateDict


class AgentRelieved(Exception):  # noqa: N818 (no error: the quasi-Newton method goes on)
    """The agent has to hand over; the message says why."""


class Pilot:
    """Flies as the agent says until a step goes worse than it should; from then on corrects what the agent predicts.

    That needs an agent that shows its Hessian. Any other is taken at its word, and relieved where that does no good.

    Args:
        policy: The agent.
        surface: Where it flies.
        config: When a step is a surprise, and when to relieve the agent.
    """

    def __init__(self, policy: Policy, surface: Surface, config: SafeguardConfig) -> None:
        self.policy = policy
        self.config = config
        self.surprises = Surprises()
        stranger = bool(untrained_elements(policy, surface.symbols))
        self.audition = Audition(config.audition, config.tolerance, 0.0 if stranger else config.credit)
        self._surface = surface
        self._predicted: tuple[Point, FloatArray | None] | None = None
        self._surprised = False  # by the last step, and it counts in the audition

    def begin(self) -> None:
        """A relaxation begins: of this surface nothing is known."""
        self.surprises.clear()
        self.audition.begin()

    def propose(self, start: Point, graph: AtomGraph | None) -> FloatArray:
        """The displacement to try first, (n_dof,), Å, of whatever length.

        Args:
            start: Where the atoms stand.
            graph: What the agent sees of it; None where displacements of atoms are not the coordinates.

        Raises:
            AgentRelieved: The agent has no answer that is of any use.
            ValueError: The answer has another shape.
        """
        try:
            # An agent that knows nothing of fixed atoms would wait for them to yield.
            own = graph is not None and not self.surprises and self._surface.free is None
            displacement = None if own else self.correct(start)
            if displacement is None:
                if graph is None:
                    raise AgentRelieved(self._surface.without_hessian)
                displacement = self._asked(graph)
        except RelaxRLError as error:
            # The agent knows that it can't do this. Mistakes in the code of agents raise other errors.
            warnings.warn(f"the agent gave up, quasi-Newton goes on: {error}", stacklevel=5)
            raise AgentRelieved(f"the agent gave up: {error}") from error
        if not np.isfinite(displacement).all():
            raise AgentRelieved("the agent returned numbers that are not finite")
        if self._surface.free is not None:
            displacement = np.where(self._surface.free, displacement, 0.0)
        if float(np.abs(displacement).max()) < 1e-6:
            raise AgentRelieved("the agent does not move")
        return displacement

    def correct(self, start: Point) -> FloatArray | None:
        """Newton's step, (n_dof,), Å, by the agent's Hessian and all that was learned; None if it shows no Hessian."""
        hessian = self._hessian(start)
        if hessian is None:
            return None
        known = self.surprises.correct(hessian, self.config.calibration)
        return floored_step(start.gradient, known, self._surface.free)

    def learn(self, start: Point, trial: Point | None, accepted: bool) -> None:
        """Look at a step that was tried, and keep what the agent's Hessian should have foreseen of it."""
        self._surprised = False
        if trial is None:
            return
        if accepted and trial.fmax <= self.config.contraction * start.fmax:
            # Newton's step leaves of the forces what was not foreseen; to ask for the Hessian again would cost more.
            self.audition.hear(trial.fmax / start.fmax)
            return
        hessian = self._hessian(start)
        if hessian is None:
            return
        self._surprised = self.audition.open
        step = trial.x - start.x
        surprise = Surprise(step, trial.gradient - start.gradient, hessian @ step)
        self.audition.hear(surprise.error)
        self.surprises.add(surprise, self._surface.hessian_guess(start) @ step)

    def check(self, safeguard: Safeguard, rejections: int) -> None:
        """Look at the last trial's outcome.

        Args:
            safeguard: Knows how the relaxation goes.
            rejections: Proposals of the present step that were rejected.

        Raises:
            AgentRelieved: The agent does no good.
        """
        if rejections > (self.config.max_corrections if self.surprises else self.config.max_rejections):
            raise AgentRelieved(f"{rejections} of the agent's steps in a row were rejected")
        if self._surprised and self.audition.failed:
            raise AgentRelieved("the agent foresaw the first changes of the forces too badly")
        if self._disadvantage > self.config.disadvantage:
            raise AgentRelieved("springs along the bonds foresee the forces better than the agent")
        if safeguard.term_is_over:
            raise AgentRelieved(f"{self.config.term} force evaluations, and far from a minimum")
        if safeguard.agent_idle or (safeguard.agent_stalled and not self.surprises):
            raise AgentRelieved("the agent's steps no longer reduce the forces")

    def guess(self, start: Point) -> sparse.csr_array | None:
        """|H| for whoever takes over, if the agent foresaw more than springs would have; else None."""
        if not self.surprises or self._disadvantage >= 1:
            return None
        hessian = self._hessian(start)
        return None if hessian is None else sparse.csr_array(floored(hessian))

    @property
    def _disadvantage(self) -> float:
        return self.surprises.disadvantage(self.config.foresight)

    def _hessian(self, point: Point) -> FloatArray | None:
        """What the agent predicts at the present point, asked once; None where it shows no Hessian."""
        if self._predicted is None or self._predicted[0] is not point:
            self._predicted = (point, self._surface.predicted(self.policy, point))
        return self._predicted[1]

    def _asked(self, graph: AtomGraph) -> FloatArray:
        rows = np.asarray(self.policy.act(graph).detach().cpu().numpy(), dtype=np.float64)
        if rows.shape != (graph.n_atoms, 3):
            raise ValueError(f"the agent must return displacements of shape ({graph.n_atoms}, 3), got {rows.shape}")
        return rows.ravel()

    def state_dict(self) -> StateDict:
        """What was learned; the agent itself is none of it."""
        return {**self.surprises.state_dict(), "audition": self.audition.state_dict()}

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a state made by `state_dict`."""
        self.surprises.load_state_dict(state)
        if "audition" in state:  # older files don't have it
            self.audition.load_state_dict(state["audition"])
