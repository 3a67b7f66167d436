"""What one update of cloning learns from: crystals somewhere, with forces and stress, and their minima."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from relaxrl.graph import AtomGraph, max_force
from relaxrl.training.way import Way, stress_norm, way_to


@dataclass(frozen=True)
class Lesson:
    """A batch of crystals on their ways.

    Attributes:
        graph: With forces and energy, and with stress where a cell moves.
        minima: The same atoms at their minima, unwrapped.
        strains: (n_graphs,), bool; whose cells differ from the minimum's and are to move; None for none.
        usable: (n_graphs,), bool; those without numbers teach nothing.
    """

    graph: AtomGraph
    minima: AtomGraph
    strains: Tensor | None
    usable: Tensor

    @property
    def way(self) -> Way:
        """The step that would end it."""
        return way_to(self.graph, self.minima, self.strains)

    def on_the_way(self, smallest: float) -> Tensor:
        """Which are usable and not yet settled, (n_graphs,): forces, or stress as ASE counts it, above `smallest`."""
        left = max_force(self.graph) > smallest
        if self.strains is not None and self.graph.stress is not None:
            left = left | (self.strains & (stress_norm(self.graph) > smallest))
        return self.usable & left

    def joined(self, other: Lesson) -> Lesson:
        """Both as one batch, the other one last."""
        both = [_with_stress(lesson.graph) for lesson in (self, other)]
        strains = [
            torch.zeros_like(lesson.usable) if lesson.strains is None else lesson.strains for lesson in (self, other)
        ]
        return Lesson(
            AtomGraph.batch(both),
            AtomGraph.batch([self.minima, other.minima]),
            torch.cat(strains),
            torch.cat([self.usable, other.usable]),
        )

    def to(self, device: torch.device | str) -> Lesson:
        """A copy on a device."""
        strains = None if self.strains is None else self.strains.to(device)
        return Lesson(self.graph.to(device), self.minima.to(device), strains, self.usable.to(device))


def _with_stress(graph: AtomGraph) -> AtomGraph:
    """With zeros where no cell moves."""
    return graph if graph.stress is not None else graph.replace(stress=torch.zeros_like(graph.cell))
