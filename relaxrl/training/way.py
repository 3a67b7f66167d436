"""The way from displaced and strained crystals to their minima, and where a step along it leads."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from relaxrl.graph import AtomGraph, scatter_mean
from relaxrl.strain import STRAIN_BASIS


class Way(NamedTuple):
    """A step of positions and cell: positions become x (1 + ε) + u, the cell becomes cell (1 + ε).

    Attributes:
        displacement: u, (n_atoms, 3), Å.
        strain: ε, (n_graphs, 6), in `relaxrl.strain.STRAIN_BASIS`; zero where a cell is held.
    """

    displacement: Tensor
    strain: Tensor


def way_to(graph: AtomGraph, minima: AtomGraph, strains: Tensor | None = None) -> Way:
    """The step that ends in the minimum, but for a rotation and a translation, which cost nothing.

    Args:
        graph: Where the crystals are.
        minima: The same atoms in the same order, unwrapped.
        strains: (n_graphs,), bool; whose cells differ from the minimum's and are to move. None for none.
    """
    if strains is None or not bool(strains.any()):
        strain = graph.positions.new_zeros(graph.n_graphs, 6)
        return Way(without_drift(minima.positions - graph.positions, graph), strain)
    index, moving = graph.graph_index, strains[:, None, None]
    eye = torch.eye(3).to(graph.cell)
    # Held cells may have no volume; for them nothing is to be solved.
    cell = torch.where(moving, graph.cell, eye)
    deformation = torch.linalg.solve(cell, torch.where(moving, minima.cell, eye))
    # cell (1 + ε) is the minimum's cell turned: the deformation's left polar decomposition.
    left, values, right = torch.linalg.svd(deformation)
    stretch, back = (left * values.unsqueeze(1)) @ left.mT, (left @ right).mT
    turned = (minima.positions.unsqueeze(1) @ back[index]).squeeze(1)
    strained = (graph.positions.unsqueeze(1) @ stretch[index]).squeeze(1)
    displacement = torch.where(moving[index, 0], turned - strained, minima.positions - graph.positions)
    basis = torch.from_numpy(STRAIN_BASIS).to(stretch)
    return Way(without_drift(displacement, graph), torch.einsum("gab,kab->gk", stretch - eye, basis))


def moved(graph: AtomGraph, step: Way, strains: Tensor | None = None) -> AtomGraph:
    """The crystals after a step, without what was evaluated before it.

    Args:
        graph: Before.
        step: What to do.
        strains: (n_graphs,), bool; whose cell moves. None for none.
    """
    graph = graph.replace(forces=None, energy=None, stress=None)
    if strains is None or not bool(strains.any()):
        return graph.replace(positions=graph.positions + step.displacement)
    basis = torch.from_numpy(STRAIN_BASIS).to(graph.cell)
    strain = torch.where(strains.unsqueeze(1), step.strain, torch.zeros_like(step.strain))
    stretch = torch.eye(3).to(graph.cell) + torch.einsum("gk,kab->gab", strain, basis)
    positions = (graph.positions.unsqueeze(1) @ stretch[graph.graph_index]).squeeze(1) + step.displacement
    return graph.replace(positions=positions, cell=graph.cell @ stretch)


def without_drift(displacement: Tensor, graph: AtomGraph) -> Tensor:
    """Less the mean over each structure: a rigid translation is no relaxation, and no force asks for it."""
    return displacement - scatter_mean(displacement, graph.graph_index, graph.n_graphs)[graph.graph_index]


def stress_norm(graph: AtomGraph) -> Tensor:
    """The longest row of stress times volume over the number of atoms, (n_graphs,), eV, as ASE's cell filters count."""
    assert graph.stress is not None
    volume = torch.linalg.det(graph.cell).abs() / graph.atoms_per_graph
    longest: Tensor = torch.linalg.vector_norm(graph.stress, dim=2).amax(1) * volume
    return longest
