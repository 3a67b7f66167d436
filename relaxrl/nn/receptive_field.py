"""How far a network sees, beside how large the cells are."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import shortest_path

from relaxrl.graph import AtomGraph
from relaxrl.neighbors import with_edges

logger = logging.getLogger(__name__)

MOST_SOURCES = 64
"""Distances are measured from at most this many atoms of a structure, evenly chosen: enough for a report."""


@dataclass(frozen=True)
class ReceptiveField:
    """Reach of a network beside the size of one structure.

    Attributes:
        name: Which structure.
        n_atoms: Its atoms.
        layers: Message-passing layers.
        cutoff: Å.
        heights: Distances between opposite faces of the cell along its three vectors, Å; 0 where there is no cell.
        hops: Largest number of edges between two of its atoms, periodic images counted as the same atom; infinite where
            some atoms are not connected at all.
    """

    name: str
    n_atoms: int
    layers: int
    cutoff: float
    heights: tuple[float, float, float]
    hops: float

    @property
    def reach(self) -> float:
        """Layers times cutoff, Å."""
        return self.layers * self.cutoff

    @property
    def sees_all(self) -> bool:
        """Whether each atom hears from every other one."""
        return self.hops <= self.layers

    @property
    def warning(self) -> str | None:
        """What to do when the network is blind to a part of the structure; None when it isn't."""
        if self.sees_all:
            return None
        if np.isinf(self.hops):
            return (
                f"{self.name}: some atoms have no path of edges of {self.cutoff:g} Å between them, so no number of "
                "layers lets them hear of each other; use a larger cutoff"
            )
        return (
            f"{self.name}: atoms lie up to {self.hops:g} edges apart, beyond the {self.layers} layers of the network; "
            f"use {self.hops:g} layers, a larger cutoff, or an actor that solves for the whole crystal"
        )


def receptive_field_report(
    graph: AtomGraph, layers: int, cutoff: float, names: Sequence[str] | None = None, max_neighbors: int | None = None
) -> list[ReceptiveField]:
    """The receptive field of a network in each structure; structures beyond it are logged as warnings.

    Args:
        graph: The structures.
        layers: Message-passing layers.
        cutoff: Å.
        names: One per structure; their numbers if None.
        max_neighbors: As in the network.

    Examples:
        >>> from ase.build import bulk
        >>> from relaxrl.io import graph_from_atoms
        >>> crystal = bulk("Cu", cubic=True) * (4, 1, 1)
        >>> report = receptive_field_report(graph_from_atoms(crystal), layers=3, cutoff=5.0)
        >>> report[0].reach, report[0].hops, report[0].sees_all
        (15.0, 2.0, True)
    """
    report = []
    for k, part in enumerate(graph.unbatch()):
        field = ReceptiveField(
            name=names[k] if names is not None else f"structure {k}",
            n_atoms=part.n_atoms,
            layers=layers,
            cutoff=cutoff,
            heights=_heights(part.cell[0].detach().cpu().numpy()),
            hops=_hops(with_edges(part, cutoff, max_neighbors)),
        )
        if field.warning is not None:
            logger.warning(field.warning)
        report.append(field)
    return report


def format_receptive_field(report: Sequence[ReceptiveField]) -> str:
    """The report as a table with one line per structure, and its warnings below."""
    width = max([len("structure"), *(len(field.name) for field in report)])
    lines = [f"{'structure':{width}}  atoms  reach (Å)  cell heights (Å)         edges across / layers"]
    for field in report:
        heights = " ".join(f"{height:7.2f}" for height in field.heights)
        across = f"{field.hops:g} / {field.layers}" + ("" if field.sees_all else "  beyond the receptive field")
        lines.append(f"{field.name:{width}}  {field.n_atoms:5d}  {field.reach:9.1f}  {heights}  {across}")
    return "\n".join([*lines, *(f"warning: {field.warning}" for field in report if field.warning)])


def _heights(cell: np.ndarray) -> tuple[float, float, float]:
    volume = abs(np.linalg.det(cell))
    if volume < 1e-12:
        lengths = np.linalg.norm(cell, axis=1)
        return float(lengths[0]), float(lengths[1]), float(lengths[2])
    areas = np.linalg.norm(np.cross(np.roll(cell, -1, axis=0), np.roll(cell, -2, axis=0)), axis=1)
    a, b, c = volume / areas
    return float(a), float(b), float(c)


def _hops(graph: AtomGraph) -> float:
    """Largest number of edges between any two atoms."""
    assert graph.edge_index is not None  # with_edges made them
    centre, neighbour = graph.edge_index.detach().cpu().numpy()
    n = graph.n_atoms
    adjacency = coo_array((np.ones(len(centre)), (centre, neighbour)), shape=(n, n)).tocsr()
    sources = np.unique(np.linspace(0, n - 1, min(n, MOST_SOURCES)).astype(int))
    distances = shortest_path(adjacency, directed=True, unweighted=True, indices=sources)
    return float(distances.max())
