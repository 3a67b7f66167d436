"""ASE `Atoms` in, `AtomGraph` out, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms

from relaxrl.graph import AtomGraph


def graph_from_atoms(atoms: Atoms | Sequence[Atoms]) -> AtomGraph:
    """Structures as a float64 graph on the CPU, without forces and edges.

    Args:
        atoms: One structure or several; calculators are ignored.

    Raises:
        ValueError: No structure was given.
    """
    structures = [atoms] if isinstance(atoms, Atoms) else list(atoms)
    if not structures:
        raise ValueError("can't make a graph of no structures")
    numbers = np.concatenate([structure.numbers for structure in structures]).astype(np.int64)
    sizes = torch.tensor([len(structure) for structure in structures])
    return AtomGraph(
        positions=torch.from_numpy(np.concatenate([structure.positions for structure in structures])),
        cell=torch.from_numpy(np.stack([structure.cell.array for structure in structures])),
        pbc=torch.from_numpy(np.stack([structure.pbc for structure in structures])),
        atomic_numbers=torch.from_numpy(numbers),
        graph_index=torch.repeat_interleave(torch.arange(len(structures)), sizes),
    )


def atoms_from_graph(graph: AtomGraph) -> list[Atoms]:
    """Each structure as `Atoms` with numbers, positions, cell and pbc; forces and energy are not carried over."""
    return [
        Atoms(
            numbers=part.atomic_numbers.cpu().numpy(),
            positions=part.positions.detach().cpu().numpy(),
            cell=part.cell[0].detach().cpu().numpy(),
            pbc=part.pbc[0].cpu().numpy(),
        )
        for part in graph.unbatch()
    ]
