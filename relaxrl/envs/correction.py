"""Action correction: how much of a displacement can be made before a structure becomes illegal.

A displacement is made along straight lines, all atoms at once: at the fraction f in [0, 1] of the step, atom i is at
r_i + f d_i. A moment of that path is illegal if

- two atoms, periodic images included, are closer than their r_min *and* closer than at f = 0; a pair that is too close
  from the start may stay or move apart, so that an overlap can be resolved, but not approach further; or
- an atom that had a neighbour within the cutoff at f = 0 has none.

The step ends where the path becomes illegal for the first time, at f = 1 - a_back. So a_back is the smallest fraction
that leaves a legal path, and atoms can't tunnel through each other. Distances along the path are square roots of
quadratic functions of f: each first crossing is a root in closed form, no search is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from relaxrl.graph import AtomGraph, scatter_max
from relaxrl.neighbors import with_edges

MARGIN = 1e-10
"""Å; corrected pairs stop this far on the legal side, so that rounding does not put them on the other."""

NEAR = 0.75
"""Fraction of the cutoff within which most atoms have a neighbour that is sure to stay; the rest is checked further."""

WHOLLY = 1.0 - 1e-6
"""From this `a_back` on, a step counts as wholly taken back."""


@dataclass(frozen=True)
class Correction:
    """What is left of a displacement.

    Attributes:
        applied: (n_atoms, 3), Å; (1 - a_back) times the proposed displacement.
        a_back: (n_graphs,); the fraction taken back, 0 = legal as it was, 1 = nothing remained.
    """

    applied: Tensor
    a_back: Tensor


def correct(
    graph: AtomGraph,
    displacement: Tensor,
    r_min: float | Tensor,
    cutoff: float,
    neighbors: Callable[[AtomGraph, float], AtomGraph] = with_edges,
) -> Correction:
    """Scale the displacement of each structure back by the smallest fraction that makes it legal.

    Args:
        graph: Structures before the step; atoms may lie outside of their cells.
        displacement: (n_atoms, 3), Å, of any length.
        r_min: Å; or (n_atoms,), contact radii in Å whose sum is the r_min of a pair.
        cutoff: Å; an atom may not lose all of its neighbours within this distance.
        neighbors: Gives a graph edges up to a radius; more edges do no harm.

    Returns:
        The corrected displacement and the fraction taken back.

    Raises:
        ValueError: The displacement has another shape or is not finite.
    """
    if displacement.shape != graph.positions.shape:
        expected, got = tuple(graph.positions.shape), tuple(displacement.shape)
        raise ValueError(f"`displacement` must have shape {expected} (one vector per atom, Å), got {got}")
    if not bool(torch.isfinite(displacement).all()):
        raise ValueError("`displacement` must be finite, got NaN or infinity; the policy has probably diverged")
    displacement = displacement.to(graph.positions.dtype)
    radii = contact_radii(r_min, graph)
    kept = displacement.new_ones(graph.n_graphs)
    if graph.n_atoms:
        # No pair changes its distance by more than twice the largest displacement.
        reach = 2.0 * float(torch.linalg.vector_norm(displacement, dim=-1).max())
        near = max(2.0 * float(radii.max()) + MARGIN + reach, NEAR * cutoff)
        pairs = _Pairs.of(neighbors(graph, near), displacement)
        kept = torch.minimum(kept, _first_contact(pairs, radii, graph))
        if bool(_at_risk(pairs, cutoff, graph.n_atoms).any()):
            pairs = _Pairs.of(with_edges(graph, cutoff + reach), displacement)
            kept = torch.minimum(kept, _first_loss(pairs, cutoff, graph))
    a_back = 1.0 - kept
    return Correction((1.0 - a_back)[graph.graph_index, None] * displacement, a_back)


def contact_radii(r_min: float | Tensor, graph: AtomGraph) -> Tensor:
    """A distance for all pairs as one radius per atom, (n_atoms,), Å; radii are returned as they are.

    Raises:
        ValueError: The radii are not one per atom.
    """
    if not isinstance(r_min, Tensor) or r_min.dim() == 0:
        return torch.full_like(graph.positions[:, 0], 0.5 * float(r_min))
    if r_min.shape != (graph.n_atoms,):
        raise ValueError(f"`r_min` must be a number or have shape (n_atoms={graph.n_atoms},), got {tuple(r_min.shape)}")
    return r_min.to(graph.positions.dtype)


@dataclass(frozen=True)
class _Pairs:
    """Directed pairs with their squared distance along the path: c + 2 b f + a f²."""

    centre: Tensor
    neighbour: Tensor
    a: Tensor  # Å²
    b: Tensor  # Å²
    c: Tensor  # Å²

    @staticmethod
    def of(graph: AtomGraph, displacement: Tensor) -> _Pairs:
        assert graph.edge_index is not None, "made by with_edges"
        centre, neighbour = graph.edge_index
        vectors = graph.edge_vectors()
        relative = displacement[neighbour] - displacement[centre]
        return _Pairs(
            centre,
            neighbour,
            a=(relative * relative).sum(-1),
            b=(relative * vectors).sum(-1),
            c=(vectors * vectors).sum(-1),
        )


def _first_contact(pairs: _Pairs, radii: Tensor, graph: AtomGraph) -> Tensor:
    """Fraction of the path at which a pair of each structure first touches, (n_graphs,); 1 if none does."""
    limit = radii[pairs.centre] + radii[pairs.neighbour] + MARGIN
    gap = (pairs.c - limit**2).clamp(min=0.0)
    discriminant = pairs.b**2 - pairs.a * gap
    touches = (pairs.b < 0) & (discriminant > 0)
    # The smaller root of a f² + 2 b f + gap, in the form without cancellation.
    speed = -pairs.b + discriminant.clamp(min=0.0).sqrt()
    fraction = torch.where(touches, gap / torch.where(touches, speed, 1.0), 1.0).clamp(max=1.0)
    return -scatter_max(-fraction, graph.graph_index[pairs.centre], graph.n_graphs).clamp(min=-1.0)


def _at_risk(pairs: _Pairs, cutoff: float, n_atoms: int) -> Tensor:
    """Atoms that have no neighbour so near that it is sure to stay one, (n_atoms,), bool."""
    stays = pairs.c.sqrt() + pairs.a.sqrt() <= cutoff - MARGIN
    safe = torch.zeros(n_atoms, dtype=torch.bool, device=pairs.c.device)
    safe[pairs.centre[stays]] = True
    return ~safe


def _first_loss(pairs: _Pairs, cutoff: float, graph: AtomGraph) -> Tensor:
    """Fraction of the path at which an atom of each structure first loses all neighbours, (n_graphs,); 1 if none does.

    A pair is within the cutoff during one interval of the path. An atom is bound for as long as these intervals,
    beginning at 0, join without a gap.
    """
    distance = pairs.c.sqrt()
    start = distance <= cutoff
    limit = torch.where(start, distance.clamp(min=cutoff - MARGIN), cutoff - MARGIN)
    inside = limit**2 - pairs.c
    discriminant = pairs.b**2 + pairs.a * inside
    root = discriminant.clamp(min=0.0).sqrt()
    moves = pairs.a > 0
    leaves_late = (root - pairs.b) / torch.where(moves, pairs.a, 1.0)
    leaves_away = inside / torch.where(pairs.b > 0, root + pairs.b, 1.0)  # without cancellation
    leaves = torch.where(pairs.b > 0, leaves_away, leaves_late)
    leaves = torch.where(moves, leaves, torch.inf)
    enters = torch.where(start, 0.0, -inside / torch.where(root > pairs.b, root - pairs.b, 1.0))
    visits = start | ((pairs.b < 0) & (discriminant > 0))
    enters, leaves, centre = enters[visits], leaves[visits].clamp(max=1.0), pairs.centre[visits]

    bound_until = scatter_max(torch.where(start[visits], leaves, -torch.inf), centre, graph.n_atoms)
    never_bound = torch.isinf(bound_until)
    while True:
        joined = torch.where(enters <= bound_until[centre], leaves, -torch.inf)
        longer = torch.maximum(bound_until, scatter_max(joined, centre, graph.n_atoms))
        if torch.equal(longer, bound_until):
            break
        bound_until = longer
    bound_until = torch.where(never_bound, 1.0, bound_until)
    return -scatter_max(-bound_until, graph.graph_index, graph.n_graphs).clamp(min=-1.0)
