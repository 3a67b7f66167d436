"""The learned-Hessian actor: predict the curvature between neighbours, solve for the displacement of all atoms."""

from __future__ import annotations

import torch
from e3nn import o3
from scipy import sparse
from torch import Tensor, nn

from relaxrl.graph import AtomGraph
from relaxrl.nn.actor import Actor
from relaxrl.nn.assembly import Padding, pair_hessian, site_hessian
from relaxrl.nn.config import HessianActorConfig
from relaxrl.nn.convolution import coupling
from relaxrl.nn.inputs import NetworkInputs
from relaxrl.nn.solve import DENSE_LIMIT, newton_displacement
from relaxrl.nn.sparse import sparse_hessian
from relaxrl.nn.strain import bordered, strain_blocks
from relaxrl.nn.trunk import Trunk, TrunkOutput
from relaxrl.typing import FloatArray

MAX_LOG_STIFFNESS = 6.0
"""|log| of a bond's stiffness over its value before training: a factor of 400 either way."""


class HessianActor(Actor):
    r"""Newton's step with a predicted Hessian.

    $$ |H_\theta| \, d = F, \qquad
       \tfrac12 \delta^T H_\theta \delta = \tfrac14 \sum_{ij} \delta_{ij}^T B_{ij} \delta_{ij}
       + \tfrac12 \sum_{ic} \Big( \sum_j g_{ijc} \cdot \delta_{ij} \Big)^2 $$

    with $\delta_{ij} = \delta_j - \delta_i$. B_ij is a symmetric 3x3 block of each bond: a stiffness along the bond,
    one across it, and a general l = 0 + 2 part made of the vectors and tensors of its two atoms. The sites' vectors
    g_ijc are the many-body part: what embedding functions and angles contribute. Layers see a few Å, the solve sees the
    whole crystal, so the policy carries over to cells larger than those it was trained on. Rigid translations cost
    nothing by construction, and no forces give no action.

    Before training every bond is a spring along itself of `stiffness` times the cutoff envelope.

    Raises:
        ValueError: The trunk reads forces or history; curvature depends on where atoms stand alone.
    """

    def __init__(self, config: HessianActorConfig) -> None:
        super().__init__(config.trunk.cutoff, config.trunk.max_neighbors, config.env_input_dim, config.max_step)
        self.config = config
        self.trunk = Trunk(config.trunk)
        self.head = HessianHead(config, self.trunk)
        self.add_heads(config.policy_heads)

    def raw_displacement(self, inputs: NetworkInputs, output: TrunkOutput) -> Tensor:
        """See the class; assembled and solved in float64."""
        blocks, rows = self.head(output, inputs)
        return newton_displacement(
            blocks, rows, inputs.forces, inputs.edge_index, inputs.graph_index, inputs.n_graphs, self.config.floor
        )

    @torch.no_grad()
    def hessian(self, graph: AtomGraph) -> FloatArray | sparse.csr_array:
        """H of one structure, before any floor, (3 n_atoms, 3 n_atoms), eV/Å²; sparse beyond `DENSE_LIMIT` atoms.

        Args:
            graph: One structure; its forces don't matter.

        Raises:
            ValueError: It is a batch of several.
        """
        inputs, blocks, rows = self._of_one(graph)
        if inputs.n_atoms > DENSE_LIMIT:
            return sparse_hessian(blocks, rows, inputs.edge_index, inputs.n_atoms)
        padding, index = Padding(inputs.graph_index, 1), inputs.edge_index
        matrix = pair_hessian(blocks.double(), index, padding) + site_hessian(rows.double(), index, padding)
        array: FloatArray = matrix[0].cpu().numpy()
        return array

    @torch.no_grad()
    def hessian_with_strain(self, graph: AtomGraph) -> FloatArray:
        """H of one structure and its cell, before any floor, (3 n_atoms + 6, 3 n_atoms + 6); see `strain_blocks`.

        Positions are x + ε x + u: displacements u in Å, strain ε in `relaxrl.strain.STRAIN_BASIS`. The units are thus
        eV/Å², eV/Å and eV. All dense, whatever the size.

        Args:
            graph: One structure; its forces don't matter.

        Raises:
            ValueError: It is a batch of several.
        """
        inputs, blocks, rows = self._of_one(graph)
        blocks, rows = blocks.double(), rows.double()
        padding, index = Padding(inputs.graph_index, 1), inputs.edge_index
        matrix = pair_hessian(blocks, index, padding) + site_hessian(rows, index, padding)
        coupling, elastic = strain_blocks(blocks, rows, inputs.edge_vectors.double(), index, inputs.graph_index, 1)
        array: FloatArray = bordered(matrix[0], coupling, elastic[0]).cpu().numpy()
        return array

    def _of_one(self, graph: AtomGraph) -> tuple[NetworkInputs, Tensor, Tensor]:
        """What the networks read and say of one structure."""
        if graph.n_graphs != 1:
            raise ValueError(f"a Hessian is that of one structure, got a batch of {graph.n_graphs}; unbatch it first")
        if graph.forces is None:
            graph = graph.replace(forces=torch.zeros_like(graph.positions))
        inputs = self._inputs(graph)
        blocks, rows = self.head(self.trunk(inputs), inputs)
        return inputs, blocks, rows


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
        self.sizes = [2, config.site_channels, 2 * vectors, 2 * vectors if self.lmax >= 2 else 0]
        self.last = nn.Linear(width, sum(self.sizes))
        with torch.no_grad():
            self.last.weight.zero_()
            self.last.bias.zero_()
            # Not zero: the square of a site's vectors would have no gradient.
            nn.init.normal_(self.last.weight[2 : 2 + config.site_channels], std=0.02)

    def forward(self, output: TrunkOutput, inputs: NetworkInputs) -> tuple[Tensor, Tensor]:
        """Symmetric blocks (n_edges, 3, 3), eV/Å², and site vectors (n_edges, site_channels, 3), eV^½/Å."""
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
        stiff, sites, mix, mix_tensors = self.last(self.network(hidden)).split(self.sizes, dim=1)
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
        rows = (self.config.stiffness**0.5 * edges.envelope).unsqueeze(-1) * sites
        return blocks, rows.unsqueeze(-1) * unit.T.unsqueeze(1)


def _both_ends(features: Tensor, centre: Tensor, neighbour: Tensor) -> Tensor:
    """Features of atoms (n_atoms, channels, components) at both ends of edges, (n_edges, components, 2 channels)."""
    rows = features.mT.contiguous()
    # index_select is several times faster than indexing.
    return torch.cat([rows.index_select(0, centre), rows.index_select(0, neighbour)], dim=2)
