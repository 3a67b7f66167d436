"""Edge features, computed once per call and shared by all layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from e3nn import o3
from torch import Tensor, nn

from relaxrl.graph import scatter_sum
from relaxrl.nn.config import TrunkConfig
from relaxrl.nn.elements import covalent_radii
from relaxrl.nn.embedding import bessel_basis, gaussians, polynomial_envelope
from relaxrl.nn.inputs import NetworkInputs

REDUCED_RANGE = (0.6, 3.0)
"""Lengths in units of the sum of the covalent radii that are told apart: from strong overlap to the third shell."""


@dataclass(frozen=True)
class Edges:
    """Features of directed edges from a centre to its neighbours.

    Attributes:
        index: (2, n_edges), int64; row 0 the centre, row 1 the neighbour.
        vectors: (n_edges, 3), Å.
        lengths: (n_edges,), Å.
        envelope: (n_edges,), 1 at short distance, 0 from the cutoff on.
        scalars: (n_edges, radial_channels), invariants of the edge and its two elements; not cut off.
        radial: (n_edges, radial_functions), learned radial functions, vanishing at the cutoff.
        harmonics: (n_edges, (lmax + 1)²), spherical harmonics of the directions, component-normalised.
        neighbours: (n_atoms, k), int64; each atom's neighbours in a row, filled up with the atom itself.
        basis: (n_atoms, (lmax + 1)² * radial_functions, k); harmonics times radial functions, normalised, and 0 where a
            row of `neighbours` is filled up.
    """

    index: Tensor
    vectors: Tensor
    lengths: Tensor
    envelope: Tensor
    scalars: Tensor
    radial: Tensor
    harmonics: Tensor
    neighbours: Tensor
    basis: Tensor


class EdgeEmbedding(nn.Module):
    """Spherical harmonics times radial functions that are learned from length and elements.

    Args:
        config: Size of the trunk.
        element_channels: Features per element.
        action: Whether lengths after the action are an input too.
    """

    def __init__(self, config: TrunkConfig, element_channels: int, action: bool = False) -> None:
        super().__init__()
        self.cutoff = config.cutoff
        self.number = config.radial_basis
        self.harmonics = o3.SphericalHarmonics(
            o3.Irreps.spherical_harmonics(config.lmax), normalize=True, normalization="component"
        )
        hidden = max(config.channels, config.radial_functions)
        self.channels = hidden
        self.of_length = nn.Linear((3 * self.number + 1) if action else 2 * self.number, hidden)
        self.of_centre = nn.Linear(element_channels, hidden, bias=False)
        self.of_neighbour = nn.Linear(element_channels, hidden, bias=False)
        self.to_radial = nn.Linear(hidden, config.radial_functions)
        radii = torch.tensor(covalent_radii(), dtype=torch.get_default_dtype())
        self.register_buffer("radii", radii, persistent=False)

    def forward(self, inputs: NetworkInputs, elements: Tensor, displacement: Tensor | None = None) -> Edges:
        """Features of all edges.

        Args:
            inputs: The structures.
            elements: (n_atoms, element_channels), element features.
            displacement: (n_atoms, 3), Å; the action, for networks that see it.
        """
        centre, neighbour = inputs.edge_index
        vectors = inputs.edge_vectors
        lengths = torch.linalg.vector_norm(vectors, dim=-1)
        radii = self.get_buffer("radii")[inputs.atomic_numbers]
        reduced = lengths / (radii[centre] + radii[neighbour])
        of_length = [bessel_basis(lengths, self.cutoff, self.number), gaussians(reduced, *REDUCED_RANGE, self.number)]
        if displacement is not None:
            moved = torch.linalg.vector_norm(vectors + displacement[neighbour] - displacement[centre], dim=-1)
            # Bonds stretch by hundredths of Å: scaled to order 1.
            of_length += [bessel_basis(moved, self.cutoff, self.number), 10.0 * (moved - lengths).unsqueeze(-1)]
        scalars = nn.functional.silu(
            self.of_length(torch.cat(of_length, dim=1))
            + self.of_centre(elements).index_select(0, centre)
            + self.of_neighbour(elements).index_select(0, neighbour)
        )
        envelope = polynomial_envelope(lengths, self.cutoff)
        radial = self.to_radial(scalars) * envelope.unsqueeze(-1)
        harmonics: Tensor = self.harmonics(vectors)
        neighbours, basis = _rows_of_neighbours(inputs, envelope, radial, harmonics)
        return Edges(
            index=inputs.edge_index,
            vectors=vectors,
            lengths=lengths,
            envelope=envelope,
            scalars=scalars,
            radial=radial,
            harmonics=harmonics,
            neighbours=neighbours,
            basis=basis,
        )


def _rows_of_neighbours(
    inputs: NetworkInputs, envelope: Tensor, radial: Tensor, harmonics: Tensor
) -> tuple[Tensor, Tensor]:
    """Edges laid out as one row of equal length per atom, so that sums over neighbours are matrix products."""
    centre, neighbour = inputs.edge_index
    n_atoms = inputs.n_atoms
    counts = torch.bincount(centre, minlength=n_atoms)
    width = int(counts.max()) if n_atoms else 0
    slot = torch.arange(len(centre), device=centre.device) - (counts.cumsum(0) - counts)[centre]
    place = centre * width + slot
    # Filled up with the atom itself, not with any fixed atom: nothing may pass between structures.
    neighbours = torch.arange(n_atoms, device=centre.device).repeat_interleave(width)
    neighbours = neighbours.index_copy(0, place, neighbour).view(n_atoms, width)
    # Sums over neighbours stay of order 1 whatever the coordination; an isolated atom divides by 1.
    norm = torch.rsqrt(1.0 + scatter_sum(envelope.square(), centre, n_atoms))
    weighted = radial * norm[centre].unsqueeze(-1)
    basis = (harmonics.unsqueeze(2) * weighted.unsqueeze(1)).flatten(1)
    rows = basis.new_zeros(n_atoms * width, basis.shape[1]).index_copy(0, place, basis)
    return neighbours, rows.view(n_atoms, width, basis.shape[1]).transpose(1, 2)
