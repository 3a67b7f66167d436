"""From a trunk's features to the learned quadratic form: blocks of bonds, vectors of sites, and what strain adds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from e3nn import o3
from torch import Tensor, nn

from relaxrl.nn.config import HessianActorConfig
from relaxrl.nn.convolution import coupling
from relaxrl.nn.inputs import NetworkInputs
from relaxrl.nn.trunk import Trunk, TrunkOutput

MAX_LOG_STIFFNESS = 6.0
"""|log| of a bond's stiffness over its value before training: a factor of 400 either way."""
_FIRST = 0.02
"""Deviation of the last weights of sites before training. Not zero: the square of a site's vectors would have no
gradient."""


@dataclass(frozen=True)
class Curvature:
    """What a network says of a batch's quadratic form, edge by edge.

    Attributes:
        blocks: (n_edges, 3, 3), symmetric, eV/Å²; see `relaxrl.nn.assembly.pair_hessian`.
        rows: (n_edges, n_rows, 3), eV^½/Å; see `site_hessian`. Those of scalar sites first, then three of each vector
            and five of each tensor.
        mixed: (n_edges, 3, 3), in place of `blocks` where displacements meet strain; None for the same.
        strained: (n_edges, 3, 3), in place of `blocks` where strain meets strain; None for the same.
        strained_rows: (n_edges, n_rows, 3), in place of `rows` on what strain does to an edge; None for the same.
    """

    blocks: Tensor
    rows: Tensor
    mixed: Tensor | None = None
    strained: Tensor | None = None
    strained_rows: Tensor | None = None

    def double(self) -> Curvature:
        """All of it in float64."""
        return self._each(Tensor.double)

    def select(self, edges: Tensor) -> Curvature:
        """Some of the edges, by their numbers."""
        return self._each(lambda value: value.index_select(0, edges))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Curvature:
        of_strain = (self.mixed, self.strained, self.strained_rows)
        others = (None if value is None else change(value) for value in of_strain)
        return Curvature(change(self.blocks), change(self.rows), *others)


class HessianHead(nn.Module):
    """Blocks of bonds and vectors of sites from a trunk's features.

    Args:
        config: Sizes.
        trunk: Whose features are read.
    """

    def __init__(self, config: HessianActorConfig, trunk: Trunk) -> None:
        super().__init__()
        self.config = config
        self.n_scalars, self.channels, self.lmax = trunk.n_scalars, config.trunk.channels, config.trunk.lmax
        width = config.head_channels
        vectors = config.vector_channels
        self.of_edge = nn.Linear(trunk.edges.channels, width)
        self.of_centre = nn.Linear(self.n_scalars, width, bias=False)
        self.of_neighbour = nn.Linear(self.n_scalars, width, bias=False)
        self.of_projections = nn.Linear(2 * vectors, width, bias=False)
        self.vectors = o3.Linear(trunk.irreps, o3.Irreps([(vectors, (1, -1))]))
        self.tensors = o3.Linear(trunk.irreps, o3.Irreps([(vectors, (2, 1))])) if self.lmax >= 2 else None
        self.network = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        sites, of_vectors, of_tensors = config.site_channels, 2 * config.site_vectors, 2 * config.site_tensors
        of_strain = 4 + sites if config.learned_strain else 0
        self.sizes = [2, sites, 2 * vectors, 2 * vectors if self.lmax >= 2 else 0, of_vectors, of_tensors, of_strain]
        self.last = nn.Linear(width, sum(self.sizes))
        with torch.no_grad():
            self.last.weight.zero_()
            self.last.bias.zero_()
            nn.init.normal_(self.last.weight[2 : 2 + sites], std=_FIRST)
            first = sum(self.sizes[:4])
            if of_vectors + of_tensors:
                nn.init.normal_(self.last.weight[first : first + of_vectors + of_tensors], std=_FIRST)

    def forward(self, output: TrunkOutput, inputs: NetworkInputs) -> Curvature:
        """The quadratic form of a batch."""
        centre, neighbour = inputs.edge_index
        edges = output.edges
        # Components first, edges last: three products of long rows instead of many of rows of three.
        unit = (edges.vectors / edges.lengths.unsqueeze(-1)).T.contiguous()
        features = output.node_features
        scalars = features[:, : self.n_scalars]
        around = _both_ends(self.vectors(features).view(len(features), -1, 3), centre, neighbour)
        projections = around[:, 0] * unit[0, :, None]
        for axis in (1, 2):
            projections = torch.addcmul(projections, around[:, axis], unit[axis, :, None])
        # In place: of 64 numbers per edge, copies cost more than the sums.
        hidden = self.of_edge(edges.scalars).addmm_(projections, self.of_projections.weight.T)
        hidden += self.of_centre(scalars).index_select(0, centre)
        hidden += self.of_neighbour(scalars).index_select(0, neighbour)
        outputs = self.last(self.network(hidden)).split(self.sizes, dim=1)
        stiff, sites, mix, mix_tensors, of_vectors, of_tensors, of_strain = outputs
        scale = self.config.stiffness * edges.envelope
        along = torch.exp(MAX_LOG_STIFFNESS * torch.tanh(stiff[:, 0] / MAX_LOG_STIFFNESS))
        across = stiff[:, 1]
        # (along - across) r̂r̂ᵀ and ½ (b r̂ᵀ + r̂ bᵀ), with the bent direction b, are the symmetric part of one product.
        bent = torch.stack([(around[:, axis] * mix).sum(-1) for axis in range(3)])
        half = 0.5 * scale * ((along - across) * unit + bent)
        product = half.unsqueeze(1) * unit.unsqueeze(0)
        matrices = product + product.transpose(0, 1)
        matrices.diagonal().add_((scale * across).unsqueeze(-1))
        blocks = matrices.permute(2, 0, 1)
        if self.tensors is not None:
            tensors = _both_ends(self.tensors(features).view(len(features), -1, 5), centre, neighbour)
            general = scale.unsqueeze(-1) * (tensors * mix_tensors.unsqueeze(1)).sum(-1)
            blocks = blocks + torch.einsum("abm,em->eab", coupling(1, 1, 2, general.dtype, general.device), general)
        reach = (self.config.stiffness**0.5 * edges.envelope).unsqueeze(-1)
        radial = (reach * sites).unsqueeze(-1) * unit.T.unsqueeze(1)
        rows = [radial]
        if of_vectors.shape[1]:
            rows.append(_vector_rows(reach * of_vectors, unit.T))
        if of_tensors.shape[1]:
            rows.append(_tensor_rows(reach * of_tensors, unit.T))
        all_rows = torch.cat(rows, dim=1) if len(rows) > 1 else radial
        if not of_strain.shape[1]:
            return Curvature(blocks, all_rows)
        mixed = blocks + _pair_blocks(scale.unsqueeze(-1) * of_strain[:, :2], unit.T)
        strained = blocks + _pair_blocks(scale.unsqueeze(-1) * of_strain[:, 2:4], unit.T)
        changed = radial + (reach * of_strain[:, 4:]).unsqueeze(-1) * unit.T.unsqueeze(1)
        return Curvature(blocks, all_rows, mixed, strained, torch.cat([changed, *rows[1:]], dim=1))


def _both_ends(features: Tensor, centre: Tensor, neighbour: Tensor) -> Tensor:
    """Features of atoms (n_atoms, channels, components) at both ends of edges, (n_edges, components, 2 channels)."""
    rows = features.mT.contiguous()
    # index_select is several times faster than indexing.
    return torch.cat([rows.index_select(0, centre), rows.index_select(0, neighbour)], dim=2)


def _pair_blocks(weights: Tensor, unit: Tensor) -> Tensor:
    """A r̂r̂ᵀ + b 1 of edges, (n_edges, 3, 3), from a and b (n_edges, 2) and r̂ (n_edges, 3)."""
    blocks = weights[:, :1, None] * unit.unsqueeze(2) * unit.unsqueeze(1)
    return blocks + weights[:, 1:, None] * torch.eye(3, dtype=unit.dtype, device=unit.device)


def _vector_rows(weights: Tensor, unit: Tensor) -> Tensor:
    """Rows of the sites Σ_j [a (r̂·δ) r̂ + b δ], (n_edges, 3 n, 3), from a's and b's (n_edges, 2 n)."""
    along, across = weights.chunk(2, dim=1)
    outer = unit.unsqueeze(2) * unit.unsqueeze(1)
    eye = torch.eye(3, dtype=unit.dtype, device=unit.device)
    return (along[:, :, None, None] * outer.unsqueeze(1) + across[:, :, None, None] * eye).flatten(1, 2)


def _tensor_rows(weights: Tensor, unit: Tensor) -> Tensor:
    """Rows of the sites Σ_j [a (r̂·δ) Y₂(r̂) + b (r̂ ⊗ δ)₂], (n_edges, 5 n, 3), from a's and b's (n_edges, 2 n)."""
    along, across = weights.chunk(2, dim=1)
    half = torch.einsum("abm,ea->emb", coupling(1, 1, 2, unit.dtype, unit.device), unit)
    harmonics = (half @ unit.unsqueeze(2)) * unit.unsqueeze(1)
    return (along[:, :, None, None] * harmonics.unsqueeze(1) + across[:, :, None, None] * half.unsqueeze(1)).flatten(
        1, 2
    )
