"""A step: what is allowed and legal of it is made, and evaluated; where that fails, it is taken back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from relaxrl.envs.clearance import Clearance
from relaxrl.envs.config import EnvConfig
from relaxrl.envs.correction import check_displacement
from relaxrl.envs.integrity import limit_radially, radii_of
from relaxrl.graph import AtomGraph, scatter_max
from relaxrl.potentials.base import Potential


@dataclass(frozen=True)
class Outcome:
    """What a step came to.

    Attributes:
        graph: The structures after it, with forces and energies; without history.
        applied: (n_atoms, 3), Å; what was made of it.
        a_back: (n_graphs,); the fraction taken back; None if nothing was.
        failed: (n_graphs,), bool; whether the calculator failed, and so the step was taken back. None if it never did.
        evaluated: (n_graphs,), bool; whether forces were evaluated. None if they all were.
    """

    graph: AtomGraph
    applied: Tensor
    a_back: Tensor | None
    failed: Tensor | None
    evaluated: Tensor | None


class Movement:
    """Makes steps.

    Args:
        config: Options of the environment.
    """

    def __init__(self, config: EnvConfig) -> None:
        self.config = config
        self._clearance = Clearance(config.neighbor_cutoff, config.max_step)
        self._free: Tensor | None = None

    def begin(self, graph: AtomGraph, free: Tensor | None) -> None:
        """Take note of other structures.

        Args:
            graph: The structures from here on.
            free: (n_atoms,), bool; atoms that may move. All if None.
        """
        self._free = free
        self._clearance.begin(graph, radii_of(graph, self.config))

    def allowed(self, before: AtomGraph, wanted: Tensor, running: Tensor | None) -> tuple[Tensor, Tensor, float]:
        """Shorten what is too long, and hold what must not move.

        Args:
            before: The structures.
            wanted: (n_atoms, 3), Å.
            running: (n_graphs,), bool; structures that may move. All if None.

        Returns:
            What is allowed, (n_atoms, 3), Å; the lengths (n_atoms,) of it; and the largest or more.

        Raises:
            ValueError: `wanted` has another shape or is not finite.
        """
        if wanted.shape != before.positions.shape:
            check_displacement(before, wanted)
        wanted = wanted.to(before.positions)
        lengths: Tensor = torch.linalg.vector_norm(wanted, dim=1)
        longest = float(lengths.max())
        if not longest <= self.config.max_step:
            check_displacement(before, wanted)
            wanted = limit_radially(wanted, self.config.max_step)
            longest = self.config.max_step
            lengths = lengths.clamp(max=longest)
        may_move = None if running is None else running[before.graph_index]
        if self._free is not None:
            may_move = self._free if may_move is None else may_move & self._free
        if may_move is None:
            return wanted, lengths, longest
        return wanted * may_move[:, None], lengths * may_move, longest

    def move(self, before: AtomGraph, wanted: Tensor, lengths: Tensor, potential: Potential) -> Outcome:
        """Displace as far as is legal and evaluate there; structures that don't move are not evaluated again.

        Args:
            before: The structures.
            wanted: (n_atoms, 3), Å.
            lengths: (n_atoms,), Å, of them.
            potential: Energies and forces.
        """
        legal = self._clearance.legal(before, wanted, lengths, potential)
        applied, a_back, places, moved = wanted, None, None, None
        if legal is not None:
            a_back = 1.0 - legal
            applied = wanted * (1.0 - a_back)[before.graph_index, None]
        if legal is not None or not bool(lengths.all()):
            moved = scatter_max(applied.abs().amax(dim=1), before.graph_index, before.n_graphs) > 0
            places = None if bool(moved.all()) else torch.nonzero(moved).flatten()
            if places is not None and not len(places):
                return Outcome(before, applied, a_back, None, moved)
        after = before.replace(positions=before.positions + applied, forces=None, energy=None)
        evaluation = potential.evaluate(after if places is None else after.select(places))
        forces, energy = evaluation.forces.to(before.positions), evaluation.energy.to(before.positions)
        failed = evaluation.failed.to(energy.device) if bool(evaluation.failed.any()) else None
        if places is not None and moved is not None:
            forces = _set(before.forces).index_put((moved[before.graph_index],), forces)
            energy = _set(before.energy).index_put((places,), energy)
            failed = None if failed is None else torch.zeros_like(moved).index_put((places,), failed)
        if self._free is not None:
            forces = forces * self._free[:, None]
        positions = after.positions
        if failed is not None:  # as if nothing had been asked for
            of_atoms = failed[before.graph_index, None]
            positions = torch.where(of_atoms, before.positions, positions)
            forces = torch.where(of_atoms, _set(before.forces), forces)
            energy = torch.where(failed, _set(before.energy), energy)
            applied = applied.masked_fill(of_atoms, 0.0)
            a_back = failed.to(energy.dtype) if a_back is None else a_back.masked_fill(failed, 1.0)
        return Outcome(after.replace(positions=positions, forces=forces, energy=energy), applied, a_back, failed, moved)


def _set(value: Tensor | None) -> Tensor:
    assert value is not None, "graphs of the environment have forces and energies"
    return value
