"""What every potential is: a batch of structures in, energies and forces out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from ase import Atoms
from torch import Tensor

from relaxrl.graph import AtomGraph
from relaxrl.potentials.topology import Part


@dataclass(frozen=True)
class Evaluation:
    """Energies and forces of a batch of structures.

    Attributes:
        energy: (n_graphs,), eV.
        forces: (n_atoms, 3), eV/Å.
        failed: (n_graphs,), bool; structures whose evaluation failed or was not finite. Their numbers are NaN.
        messages: For each failed structure, what its calculator said; keyed by its index in the batch.
        stress: (n_graphs, 3, 3), eV/Å³, ASE's sign (positive = wants to shrink); None where not asked for.
    """

    energy: Tensor
    forces: Tensor
    failed: Tensor
    messages: dict[int, str]
    stress: Tensor | None = None


class Potential(ABC):
    """Energies and forces of batched structures.

    A failure of one structure is reported in its `Evaluation`, never raised: the others of the batch go on.
    """

    @abstractmethod
    def evaluate(self, graph: AtomGraph, stress: bool = False) -> Evaluation:
        """Evaluate all structures of the batch once, in float64.

        Args:
            graph: The structures; their forces, history and edges are not used.
            stress: Whether to compute the stress as well.
        """

    def of(self, structures: Sequence[Atoms]) -> Potential:
        """The potential of batches of these structures: this one. See `PotentialSource`, where they may differ."""
        del structures
        return self

    def pairs(self, graph: AtomGraph, radius: float) -> list[Part] | None:
        """All pairs of atoms within `radius` Å, and some beyond it, if the potential keeps such a list for these atoms.

        Args:
            graph: Structures that were just evaluated, or others at the price of a list.
            radius: Å.

        Returns:
            The pairs; None where the potential keeps none so far apart.
        """
        del graph, radius
        return None


def evaluation_of(energy: Tensor, forces: Tensor, graph: AtomGraph, stress: Tensor | None = None) -> Evaluation:
    """An `Evaluation` whose structures with numbers that are not finite are marked as failed."""
    bad_atoms = ~torch.isfinite(forces).all(dim=-1)
    bad = ~torch.isfinite(energy)
    bad[graph.graph_index[bad_atoms]] = True
    messages = {int(k): "energy or forces are not finite" for k in torch.nonzero(bad).flatten()}
    return Evaluation(energy, forces, bad, messages, stress)
