"""What a step leaves: energy above the minimum and residual forces, for the actor's step and for the expert's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from relaxrl.agents import BFGSExpert, TeleportExpert
from relaxrl.graph import AtomGraph, scatter_mean
from relaxrl.potentials import Potential, TorchPotential
from relaxrl.training.constraints_config import ConstraintsConfig
from relaxrl.typing import FloatArray

SMALLEST_DISPLACEMENT = 1e-6
"""Å; root mean square below which an expert's displacement is rounding noise and no unit of length."""
SMALLEST_ENERGY = 1e-10
"""eV per atom; the same of energies above the minimum."""
SMALLEST_FORCE = 1e-6
"""eV/Å; the same of forces."""


@dataclass(frozen=True)
class Violations:
    """The two constraints that hold at a minimum, at each atom.

    Attributes:
        energy: (n_atoms,), eV; energy of the atom's structure above its minimum, per atom, the same for all of its
            atoms. Not negative: below the known minimum there is nothing to be mended.
        forces: (n_atoms, 3), eV/Å.
    """

    energy: Tensor
    forces: Tensor


@dataclass(frozen=True)
class Shown:
    """What the expert does from some structures.

    Attributes:
        displacement: (n_atoms, 3), Å; the target.
        true: What the yardstick leaves.
        usable: (n_graphs,), bool; where all of it could be evaluated.
    """

    displacement: Tensor
    true: Violations
    usable: Tensor


@dataclass(frozen=True)
class JudgedStep:
    """A step in the terms of the constraint losses: points are atoms, in the units that were asked for.

    Attributes:
        output_pred: (n_atoms, 3); the actor's displacement.
        output_true: (n_atoms, 3); the expert's.
        scalar_pred: (n_atoms,); H, the energy above the minimum that the actor's step leaves.
        scalar_true: (n_atoms,); that of the yardstick.
        vector_pred: (n_atoms, 3); M, the forces that the actor's step leaves.
        vector_true: (n_atoms, 3); those of the yardstick.
    """

    output_pred: Tensor
    output_true: Tensor
    scalar_pred: Tensor
    scalar_true: Tensor
    vector_pred: Tensor
    vector_true: Tensor

    def select(self, rows: Tensor) -> JudgedStep:
        """Some of the points, without gradient."""
        return JudgedStep(**{name: value.detach()[rows] for name, value in vars(self).items()})


def evaluate(potential: Potential, graph: AtomGraph) -> tuple[AtomGraph, Tensor]:
    """The graph with energy and forces, zero where they fail, and which structures did not fail, (n_graphs,)."""
    evaluated = potential.evaluate(graph)
    forces, energy = torch.nan_to_num(evaluated.forces), torch.nan_to_num(evaluated.energy)
    return graph.replace(forces=forces, energy=energy), ~evaluated.failed


def violations(graph: AtomGraph, lowest: Tensor) -> Violations:
    """The constraints of an evaluated graph.

    Args:
        graph: With energy and forces.
        lowest: (n_graphs,), eV; energy of each structure's minimum.
    """
    assert graph.energy is not None
    assert graph.forces is not None
    above = (graph.energy - lowest).clamp(min=0.0) / graph.atoms_per_graph
    return Violations(above[graph.graph_index], graph.forces)


def after_step(potential: TorchPotential, graph: AtomGraph, displacement: Tensor) -> tuple[AtomGraph, Tensor]:
    """The graph after a step, with energy and forces that carry gradients back to the displacement.

    Args:
        potential: Differentiated twice.
        graph: Structures that can be evaluated.
        displacement: (n_atoms, 3), Å.

    Returns:
        The graph, and which structures could be evaluated there, (n_graphs,); the others have not moved.
    """
    moved = graph.without_edges().replace(positions=graph.positions + displacement)
    energy, forces = potential.energies_and_forces(moved)
    usable = torch.isfinite(energy)
    usable[graph.graph_index[~torch.isfinite(forces).all(dim=1)]] = False
    if not bool(usable.all()):
        # A mask of the loss would not do: zero times an infinite derivative is no number.
        safe = torch.where(usable[graph.graph_index, None], displacement, torch.zeros_like(displacement))
        moved = moved.replace(positions=graph.positions + safe)
        energy, forces = potential.energies_and_forces(moved)
    return moved.replace(energy=energy, forces=forces), usable


def look_ahead(
    potential: Potential, graph: AtomGraph, iterations: int, alpha: float, max_step: float
) -> tuple[AtomGraph, Tensor]:
    """Where some iterations of ASE's BFGS lead, from an unknown Hessian.

    Args:
        potential: Evaluated once an iteration.
        graph: With forces.
        iterations: How many.
        alpha: eV/Å², initial curvature.
        max_step: Å, longest move of an atom in one iteration.

    Returns:
        The graph there, with energy and forces, and which structures could be evaluated all the way, (n_graphs,).
    """
    expert = BFGSExpert(alpha, max_step)
    slots = range(graph.n_graphs)
    usable = torch.ones(graph.n_graphs, dtype=torch.bool, device=graph.positions.device)
    for _ in range(iterations):
        step = expert.propose(graph, slots).to(graph.positions)
        graph, fine = evaluate(potential, graph.without_edges().replace(positions=graph.positions + step))
        usable = usable & fine
    return graph, usable


def show(
    config: ConstraintsConfig,
    potential: Potential,
    graph: AtomGraph,
    minima: Sequence[FloatArray],
    lowest: Tensor,
) -> Shown:
    """The expert's displacement, and what the yardstick leaves.

    Args:
        config: Names both.
        potential: Energies and forces.
        graph: With forces.
        minima: Positions (n_atoms, 3), Å, of each structure's minimum.
        lowest: (n_graphs,), eV; energy there.
    """
    usable = torch.ones(graph.n_graphs, dtype=torch.bool, device=graph.positions.device)
    displacement, left = None, None
    if config.expert == "teleport":
        expert = TeleportExpert()
        expert.reset(range(graph.n_graphs), minima)
        displacement = expert.propose(graph, range(graph.n_graphs)).to(graph.positions)
        if config.yardstick == "expert":
            left, usable = evaluate(potential, graph.without_edges().replace(positions=graph.positions + displacement))
    if left is None:
        left, usable = look_ahead(potential, graph, config.lookahead, config.alpha, config.max_step)
    if displacement is None:
        displacement = left.positions - graph.positions
    return Shown(displacement, violations(left, lowest), usable)


def judged_step(
    graph: AtomGraph, action: Tensor, left: Violations, shown: Shown, lowest: Tensor, in_units_of_start: bool
) -> JudgedStep:
    """The actor's step beside the expert's.

    Args:
        graph: With energy and forces, before the step.
        action: (n_atoms, 3), Å; the actor's displacement.
        left: What it leaves.
        shown: What the expert does.
        lowest: (n_graphs,), eV; energy of the minima.
        in_units_of_start: Whether each structure's own displacement, energy and force are the units.
    """
    assert graph.forces is not None
    length, energy, force = (graph.positions.new_ones(graph.n_atoms) for _ in range(3))
    if in_units_of_start:
        length = _size(shown.displacement, graph).clamp(min=SMALLEST_DISPLACEMENT)
        energy = violations(graph, lowest).energy.clamp(min=SMALLEST_ENERGY)
        force = _size(graph.forces, graph).clamp(min=SMALLEST_FORCE)
    return JudgedStep(
        output_pred=action / length[:, None],
        output_true=shown.displacement / length[:, None],
        scalar_pred=left.energy / energy,
        scalar_true=shown.true.energy / energy,
        vector_pred=left.forces / force[:, None],
        vector_true=shown.true.forces / force[:, None],
    )


def _size(vectors: Tensor, graph: AtomGraph) -> Tensor:
    """Root mean square over the atoms of each one's structure, (n_atoms,)."""
    squares = scatter_mean(vectors.square().sum(-1), graph.graph_index, graph.n_graphs)
    return squares.sqrt()[graph.graph_index]
