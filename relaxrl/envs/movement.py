"""A step: what is allowed and legal of it is made, and evaluated; where that fails, it is taken back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from relaxrl.envs.cells import Cells, as_tensor, evaluate
from relaxrl.envs.clearance import Clearance
from relaxrl.envs.config import EnvConfig
from relaxrl.envs.correction import check_displacement, correct
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
        strain: (n_graphs, 6); what was made of it. None where cells are fixed.
    """

    graph: AtomGraph
    applied: Tensor
    a_back: Tensor | None
    failed: Tensor | None
    evaluated: Tensor | None
    strain: Tensor | None = None


class Movement:
    """Makes steps.

    Args:
        config: Options of the environment.
        cells: Of cells that strain; None where they are fixed.
    """

    def __init__(self, config: EnvConfig, cells: Cells | None = None) -> None:
        self.config = config
        self.cells = cells
        self._clearance = Clearance(config.neighbor_cutoff, config.max_step)
        self._free: Tensor | None = None
        self._radii = torch.empty(0)  # (n_atoms,), Å

    def begin(self, graph: AtomGraph, free: Tensor | None) -> None:
        """Take note of other structures.

        Args:
            graph: The structures from here on.
            free: (n_atoms,), bool; atoms that may move. All if None.
        """
        self._free = free
        self._radii = radii_of(graph, self.config)
        self._clearance.begin(graph, self._radii)

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

    def move(
        self,
        before: AtomGraph,
        wanted: Tensor,
        lengths: Tensor,
        potential: Potential,
        strain: Tensor | None = None,
    ) -> Outcome:
        """Displace as far as is legal and evaluate there; structures that don't move are not evaluated again.

        Args:
            before: The structures.
            wanted: (n_atoms, 3), Å.
            lengths: (n_atoms,), Å, of them.
            potential: Energies and forces.
            strain: (n_graphs, 6), what `Cells.allowed` has left of it; None where cells are fixed.
        """
        if self.cells is None or strain is None:
            legal = self._clearance.legal(before, wanted, lengths, potential)
        else:
            strain = self.cells.at_volume(before.cell, strain)
            legal = self._legal(self.cells, before, wanted, strain)
        applied, a_back, places, moved = wanted, None, None, None
        if legal is not None:
            a_back = 1.0 - legal
            applied = wanted * (1.0 - a_back)[before.graph_index, None]
            if self.cells is not None and strain is not None:
                strain = self.cells.at_volume(before.cell, strain * (1.0 - a_back)[:, None])
        if legal is not None or not bool(lengths.all()):
            moved = scatter_max(applied.abs().amax(dim=1), before.graph_index, before.n_graphs) > 0
            moved = moved if strain is None else moved | strain.any(dim=1)
            places = None if bool(moved.all()) else torch.nonzero(moved).flatten()
            if places is not None and not len(places):
                return Outcome(before, applied, a_back, None, moved, strain)
        after = _deformed(before, applied, strain)
        evaluation = evaluate(potential, after if places is None else after.select(places), strain is not None)
        forces, energy = evaluation.forces.to(before.positions), evaluation.energy.to(before.positions)
        stress = None if evaluation.stress is None or strain is None else evaluation.stress.to(before.positions)
        failed = evaluation.failed.to(energy.device) if bool(evaluation.failed.any()) else None
        if places is not None and moved is not None:
            forces = _set(before.forces).index_put((moved[before.graph_index],), forces)
            energy = _set(before.energy).index_put((places,), energy)
            stress = None if stress is None else _set(before.stress).index_put((places,), stress)
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
        after = after.replace(positions=positions, forces=forces, energy=energy)
        if strain is not None:
            cell = after.cell
            if failed is not None:
                cell = torch.where(failed[:, None, None], before.cell, cell)
                stress = torch.where(failed[:, None, None], _set(before.stress), _set(stress))
                strain = strain.masked_fill(failed[:, None], 0.0)
            after = after.replace(cell=cell, stress=stress)
        return Outcome(after, applied, a_back, failed, moved, strain)

    def _legal(self, cells: Cells, before: AtomGraph, wanted: Tensor, strain: Tensor) -> Tensor | None:
        """Fraction of displacement and strain that is legal, (n_graphs,); None where all of it is."""
        sound = cells.legal(before.cell, strain)
        correction = correct(before, wanted, self._radii, self.config.neighbor_cutoff, as_tensor(strain))
        legal = 1.0 - correction.a_back if sound is None else torch.minimum(sound, 1.0 - correction.a_back)
        return None if bool((legal >= 1.0).all()) else legal


def _deformed(before: AtomGraph, applied: Tensor, strain: Tensor | None) -> AtomGraph:
    """X (1 + ε) + u, not evaluated."""
    if strain is None:
        return before.replace(positions=before.positions + applied, forces=None, energy=None)
    tensor = as_tensor(strain)
    positions = before.positions + torch.einsum("na,nab->nb", before.positions, tensor[before.graph_index]) + applied
    return before.replace(
        positions=positions, cell=before.cell + before.cell @ tensor, forces=None, energy=None, stress=None
    )


def _set(value: Tensor | None) -> Tensor:
    assert value is not None, "graphs of the environment have forces, energies and, where cells strain, stress"
    return value
