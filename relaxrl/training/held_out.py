"""Development crystals as data: starts with forces, and the minima that they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from ase import Atoms
from torch import Tensor

from relaxrl.graph import AtomGraph, max_force
from relaxrl.io import graph_from_atoms
from relaxrl.potentials import Potential, PotentialSource, TorchCalculator
from relaxrl.structures import Crystal
from relaxrl.structures.relaxation import relax

_SETTLE = (1e-4, 1000)
"""eV/Å and steps: relaxation of crystals whose minima are not known. Energies end within 1e-8 eV."""


@dataclass(frozen=True)
class HeldOut:
    """Starts that losses are measured on, and never followed down.

    Attributes:
        graph: With energy and forces; on the CPU.
        minima: Of each structure.
        lowest: (n_graphs,), eV; energy of each minimum.
    """

    graph: AtomGraph
    minima: list[Atoms]
    lowest: Tensor

    @property
    def ends(self) -> Tensor:
        """Positions of the minima, (n_atoms, 3), Å."""
        return graph_from_atoms(self.minima).positions


def hold_out(
    development: Sequence[Crystal], starts: Sequence[Crystal], potentials: Potential | PotentialSource, smallest: float
) -> HeldOut | None:
    """Pair starts with their minima, which are relaxed where they are not known.

    Args:
        development: The development set.
        starts: Made of it, with the same names.
        potentials: Energies and forces.
        smallest: eV/Å; starts whose largest force is below it are left out: no relaxation begins there.

    Returns:
        None if no start can be evaluated and relaxed.
    """
    known = {crystal.id: crystal.atoms for crystal in development if crystal.kind == "minimum"}
    pairs = []
    for start in starts:
        minimum = known.get(start.id)
        if minimum is None:
            minimum = relax(start.atoms, TorchCalculator(potentials.of([start.atoms])), *_SETTLE)
        if minimum is not None:
            pairs.append((start.atoms, minimum))
    if not pairs:
        return None
    graph = graph_from_atoms([start for start, _ in pairs])
    potential = potentials.of([start for start, _ in pairs])
    evaluated = potential.evaluate(graph)
    lowest = potential.evaluate(graph_from_atoms([minimum for _, minimum in pairs]))
    graph = graph.replace(forces=torch.nan_to_num(evaluated.forces), energy=torch.nan_to_num(evaluated.energy))
    usable = ~evaluated.failed & ~lowest.failed & (max_force(graph) > smallest)
    kept = torch.nonzero(usable).flatten()
    if not len(kept):
        return None
    return HeldOut(graph.select(kept), [pairs[k][1] for k in kept.tolist()], lowest.energy[kept])
