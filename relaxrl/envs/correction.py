"""Action correction: how much of a displacement can be made before a structure becomes illegal.

A displacement is made along straight lines, all atoms at once: at the fraction f in [0, 1] of the step, atom i is at
r_i + f d_i. A moment of that path is illegal if

- two atoms, periodic images included, are closer than their r_min *and* closer than at f = 0; a pair that is too close
  from the start may stay or move apart, so that an overlap can be resolved, but not approach further; or
- an atom that had a neighbour within the cutoff at f = 0 has none.

Where cells strain, by ε, the vector v between two atoms is v + f (v ε + d_j - d_i): a straight path, too, on which an
atom may also come too close to its own images. The cell itself is seen to by `relaxrl.envs.cells`.

The step ends where the path becomes illegal for the first time, at f = 1 - a_back. So a_back is the smallest fraction
that leaves a legal path, and atoms can't tunnel through each other. Distances along the path are square roots of
quadratic functions of f: each first crossing is a root in closed form, no search is needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from relaxrl.graph import AtomGraph, scatter_max
from relaxrl.neighbors import pairs_within

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
    graph: AtomGraph, displacement: Tensor, r_min: float | Tensor, cutoff: float, strain: Tensor | None = None
) -> Correction:
    """Scale the displacement of each structure back by the smallest fraction that makes it legal.

    Args:
        graph: Structures before the step; atoms may lie outside of their cells.
        displacement: (n_atoms, 3), Å, of any length.
        r_min: Å; or (n_atoms,), contact radii in Å whose sum is the r_min of a pair.
        cutoff: Å; an atom may not lose all of its neighbours within this distance.
        strain: (n_graphs, 3, 3), symmetric, of norm below 1; cells and all in them strain beside the displacement, and
            the same fraction of both is taken back. None keeps the cells.

    Returns:
        The corrected displacement and the fraction taken back.

    Raises:
        ValueError: The displacement has another shape or is not finite.
    """
    check_displacement(graph, displacement)
    displacement = displacement.to(graph.positions.dtype)
    radii = contact_radii(r_min, graph)
    kept = displacement.new_ones(graph.n_graphs)
    if graph.n_atoms:
        # No pair changes its distance by more than twice the largest displacement.
        near = max(_origin(2.0 * float(radii.max()) + MARGIN, displacement, strain), NEAR * cutoff)
        pairs = _listed(graph, displacement, near, each_once=True, strain=strain)
        kept = legal_fraction(graph, displacement, radii, cutoff, [(pairs, slice(None))], strain=strain)
    a_back = 1.0 - kept
    return Correction((1.0 - a_back)[graph.graph_index, None] * displacement, a_back)


def legal_fraction(
    graph: AtomGraph,
    displacement: Tensor,
    radii: Tensor,
    cutoff: float,
    pairs: Iterable[tuple[Pairs, slice]],
    asked: Tensor | None = None,
    strain: Tensor | None = None,
) -> Tensor:
    """Fraction of the displacement of each structure that is legal, (n_graphs,).

    Args:
        graph: Structures before the step.
        displacement: (n_atoms, 3), Å.
        radii: (n_atoms,), Å; the sum of two is the r_min of a pair.
        cutoff: Å; an atom may not lose all of its neighbours within this distance.
        pairs: All pairs that could touch, in any number of parts, each with the atoms among which it counts. Pairs may
            appear once or in both directions.
        asked: (n_graphs,), bool; structures of which pairs are given. The others are known to be legal; none if None.
        strain: (n_graphs, 3, 3), that the pairs know of; none if None.
    """
    kept, bound = displacement.new_ones(graph.n_graphs), []
    for part, atoms in pairs:
        here = graph.graph_index[atoms]
        touching = _first_contact(part, radii[atoms])
        if touching is not None:
            place, fraction = touching
            kept.scatter_reduce_(0, here[part.centre[place]], fraction, reduce="amin")
        bound.append(_surely_bound(part, cutoff, len(here)))
    lonely = ~torch.cat(bound)
    if asked is not None:
        lonely &= asked[graph.graph_index]
    if bool(lonely.any()):
        some = torch.unique(graph.graph_index[lonely])
        rows = torch.isin(graph.graph_index, some)
        structures, steps = graph.select(some), displacement[rows]
        strains = None if strain is None else strain[some]
        near = _origin(cutoff, steps, strains)
        loss = _first_loss(_listed(structures, steps, near, strain=strains), cutoff, structures)
        kept[some] = torch.minimum(kept[some], loss)
    return kept


def check_displacement(graph: AtomGraph, displacement: Tensor) -> None:
    """Check shape and numbers.

    Raises:
        ValueError: The displacement has another shape or is not finite.
    """
    if displacement.shape != graph.positions.shape:
        expected, got = tuple(graph.positions.shape), tuple(displacement.shape)
        raise ValueError(f"`displacement` must have shape {expected} (one vector per atom, Å), got {got}")
    if not bool(torch.isfinite(displacement).all()):
        raise ValueError("`displacement` must be finite, got NaN or infinity; the policy has probably diverged")


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
class Pairs:
    """Pairs of atoms with their squared distance along the path: c + 2 b f + a f².

    Attributes:
        centre: (n_pairs,), int64.
        neighbour: (n_pairs,), int64.
        a: (n_pairs,), Å².
        b: (n_pairs,), Å².
        c: (n_pairs,), Å².
    """

    centre: Tensor
    neighbour: Tensor
    a: Tensor
    b: Tensor
    c: Tensor

    @staticmethod
    def of(
        centre: Tensor, neighbour: Tensor, vectors: Tensor, displacement: Tensor, strain: Tensor | None = None
    ) -> Pairs:
        """Pairs from the vectors (n_pairs, 3) between them and the displacements (n_atoms, 3) of all atoms, Å.

        Args:
            centre: (n_pairs,).
            neighbour: (n_pairs,).
            vectors: (n_pairs, 3), Å.
            displacement: (n_atoms, 3), Å.
            strain: (n_pairs, 3, 3), of each pair's cell; none if None.
        """
        relative = displacement.index_select(0, neighbour) - displacement.index_select(0, centre)
        if strain is not None:
            relative = relative + torch.einsum("pa,pab->pb", vectors, strain)
        return Pairs(
            centre,
            neighbour,
            a=torch.linalg.vecdot(relative, relative),
            b=torch.linalg.vecdot(relative, vectors),
            c=torch.linalg.vecdot(vectors, vectors),
        )


def _origin(distance: float, displacement: Tensor, strain: Tensor | None) -> float:
    """No pair that comes within `distance` Å on the way began farther apart than this."""
    # No pair changes its distance by more than twice the largest displacement, beside what strain does.
    reach = 2.0 * float(torch.linalg.vector_norm(displacement, dim=-1).max())
    if strain is None:
        return distance + reach
    return (distance + reach) / (1.0 - float(torch.linalg.matrix_norm(strain).max()))


def _listed(
    graph: AtomGraph, displacement: Tensor, radius: float, each_once: bool = False, strain: Tensor | None = None
) -> Pairs:
    """All pairs within `radius` Å before the step."""
    (centre, neighbour), shift = pairs_within(graph, radius, each_once)
    edge_index = torch.stack([centre, neighbour])
    vectors = graph.replace(edge_index=edge_index, edge_shift=shift.to(graph.positions.dtype)).edge_vectors()
    of_pairs = None if strain is None else strain[graph.graph_index[centre]]
    return Pairs.of(centre, neighbour, vectors, displacement, of_pairs)


def _first_contact(pairs: Pairs, radii: Tensor) -> tuple[Tensor, Tensor] | None:
    """Places of the pairs that touch, and the fraction of the path at which each first does; None if there are none."""
    limit = radii.index_select(0, pairs.centre).add_(radii.index_select(0, pairs.neighbour)).add_(MARGIN)
    gap = (pairs.c - limit.square_()).clamp_(min=0.0)
    discriminant = torch.addcmul(pairs.b.square(), pairs.a, gap, value=-1.0)
    touches = (pairs.b < 0) & (discriminant > 0)
    if not bool(touches.any()):
        return None
    place = torch.nonzero(touches).flatten()
    gap = gap[place]
    # The smaller root of a f² + 2 b f + gap, in the form without cancellation.
    return place, (gap / (discriminant[place].sqrt() - pairs.b[place])).clamp(max=1.0)


def _surely_bound(pairs: Pairs, cutoff: float, n_atoms: int) -> Tensor:
    """Atoms that have a neighbour so near that it is sure to stay one, (n_atoms,), bool."""
    stays = pairs.c.sqrt() + pairs.a.sqrt() <= cutoff - MARGIN
    bound = torch.zeros(n_atoms, dtype=torch.bool, device=pairs.c.device)
    bound[pairs.centre[stays]] = True
    bound[pairs.neighbour[stays]] = True
    return bound


def _first_loss(pairs: Pairs, cutoff: float, graph: AtomGraph) -> Tensor:
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
