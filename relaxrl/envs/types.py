"""What goes into a step and what comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from relaxrl.graph import AtomGraph


@dataclass(frozen=True)
class Action:
    """What an agent asks for.

    Attributes:
        displacements: (n_atoms, 3), Å.
        strain: (n_graphs, 6), components in `relaxrl.strain.STRAIN_BASIS`; cells and all in them strain, x (1 + ε), and
            displacements come on top. None for no strain, as it must be where cells are fixed.
    """

    displacements: Tensor
    strain: Tensor | None = None


@dataclass(frozen=True)
class StepResult:
    """What a step did to a batch of structures.

    Attributes:
        graph: The structures after the step, before any ended episode is replaced.
        reward: (n_graphs,); the sum of `terms`.
        terms: Each term of the reward by name, (n_graphs,).
        terminated: (n_graphs,), bool; converged.
        truncated: (n_graphs,), bool; ended for any other reason.
        reason: Per structure why its episode ended; "" while it runs.
        proposed: (n_atoms, 3), Å; the displacement asked for, limited radially to the longest step allowed.
        applied: (n_atoms, 3), Å; the corrected displacement, which is what happened.
        a_back: (n_graphs,); the fraction of `proposed` that was taken back.
        evaluations: (n_graphs,), int64; force evaluations of the episode so far, the one of its start included.
        rate_atoms: Makes `atom_reward`, which not everyone needs.
        proposed_strain: (n_graphs, 6); what is free of the strain asked for, limited to `max_strain`. None where cells
            are fixed.
        applied_strain: (n_graphs, 6); the corrected strain, which is what happened.
    """

    graph: AtomGraph
    reward: Tensor
    terms: dict[str, Tensor]
    terminated: Tensor
    truncated: Tensor
    reason: list[str]
    proposed: Tensor
    applied: Tensor
    a_back: Tensor
    evaluations: Tensor
    rate_atoms: Callable[[], Tensor] = field(repr=False)
    proposed_strain: Tensor | None = None
    applied_strain: Tensor | None = None

    @cached_property
    def atom_reward(self) -> Tensor:
        """(n_atoms,); the terms of the reward atom by atom, their sum."""
        return self.rate_atoms()

    @property
    def done(self) -> Tensor:
        """(n_graphs,), bool; the episode has ended, for whatever reason."""
        return self.terminated | self.truncated
