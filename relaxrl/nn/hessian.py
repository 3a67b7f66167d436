"""The learned-Hessian actor: predict the curvature between neighbours, solve for the displacement of all atoms."""

from __future__ import annotations

import torch
from scipy import sparse
from torch import Tensor

from relaxrl.graph import AtomGraph
from relaxrl.nn.actor import Actor, limited
from relaxrl.nn.assembly import Padding, pair_hessian, site_hessian
from relaxrl.nn.config import HessianActorConfig
from relaxrl.nn.hessian_head import Curvature, HessianHead
from relaxrl.nn.inputs import NetworkInputs
from relaxrl.nn.solve import DENSE_LIMIT, newton_displacement, newton_displacement_and_strain
from relaxrl.nn.sparse import sparse_hessian
from relaxrl.nn.strain import bordered, strain_blocks, virial_vector
from relaxrl.nn.trunk import Trunk, TrunkOutput
from relaxrl.strain import STRAIN_REACH
from relaxrl.typing import FloatArray


class HessianActor(Actor):
    r"""Newton's step with a predicted Hessian.

    $$ |H_\theta| \, d = F, \qquad
       \tfrac12 \delta^T H_\theta \delta = \tfrac14 \sum_{ij} \delta_{ij}^T B_{ij} \delta_{ij}
       + \tfrac12 \sum_{ic} \Big( \sum_j g_{ijc} \cdot \delta_{ij} \Big)^2 $$

    with $\delta_{ij} = \delta_j - \delta_i$. B_ij is a symmetric 3x3 block of each bond: a stiffness along the bond,
    one across it, and a general l = 0 + 2 part made of the vectors and tensors of its two atoms. The sites' vectors
    g_ijc are the many-body part: what embedding functions and angles contribute. They make scalars out of δ_ij, g along
    the bond, and where the configuration says so vectors and l = 2 tensors as well, whose components count as one term
    each. Layers see a few Å, the solve sees the whole crystal, so the policy carries over to cells larger than those it
    was trained on. Rigid translations cost nothing by construction, and no forces give no action.

    A strain ε of the cell adds ε r_ij to δ_ij, so that the same terms say how the cell moves, see `strain_blocks`.

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
        known = self.head(output, inputs)
        return newton_displacement(
            known.blocks,
            known.rows,
            inputs.forces,
            inputs.edge_index,
            inputs.graph_index,
            inputs.n_graphs,
            self.config.floor,
        )

    def displacement_and_strain(self, graph: AtomGraph, strains: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Newton's step of positions and cell together: positions become x (1 + ε) + u, the cell becomes cell (1 + ε).

        Both are limited smoothly: u of each atom by `max_step`, the norm of ε by `max_step` over `STRAIN_REACH`. A gate
        multiplies both; a trust radius holds for u alone.

        Args:
            graph: The structures, with forces and stress.
            strains: (n_graphs,), bool; whose cell moves. None for all that are periodic in three directions; others
                never strain.

        Returns:
            u, (n_atoms, 3), Å, and ε, (n_graphs, 6), in `relaxrl.strain.STRAIN_BASIS`, in the dtype of the graph's
            positions and on their device.

        Raises:
            ValueError: The graph has no forces or no stress.
        """
        if graph.stress is None:
            raise ValueError(
                "a step of the cell needs stress, but the graph has none; evaluate a potential with stress"
            )
        inputs = self._inputs(graph)
        output = self.trunk(inputs)
        periodic = graph.pbc.all(dim=1)
        moving = (periodic if strains is None else periodic & strains.to(periodic.device)).to(inputs.forces.device)
        virial = graph.stress.double() * torch.linalg.det(graph.cell.double()).abs()[:, None, None]
        step, strain = newton_displacement_and_strain(
            self.head(output, inputs),
            inputs,
            virial_vector(virial).to(inputs.forces.device),
            moving,
            self.config.floor,
        )
        gate = self.step_gate(step, output, inputs)
        if gate is not None:
            strain = strain * gate.to(strain).unsqueeze(-1)
        strain = self.limited_strain(strain)
        return self.decide(step, output, inputs).to(graph.positions), strain.to(graph.positions)

    def limited_strain(self, strain: Tensor) -> Tensor:
        """Strains (n_graphs, 6) as far as one step goes: shortened smoothly to `max_step` over `STRAIN_REACH`."""
        return limited(strain, self.max_step / STRAIN_REACH)

    @torch.no_grad()
    def hessian(self, graph: AtomGraph) -> FloatArray | sparse.csr_array:
        """H of one structure, before any floor, (3 n_atoms, 3 n_atoms), eV/Å²; sparse beyond `DENSE_LIMIT` atoms.

        Args:
            graph: One structure; its forces don't matter.

        Raises:
            ValueError: It is a batch of several.
        """
        inputs, known = self._of_one(graph)
        if inputs.n_atoms > DENSE_LIMIT:
            return sparse_hessian(known.blocks, known.rows, inputs.edge_index, inputs.n_atoms)
        padding, index, known = Padding(inputs.graph_index, 1), inputs.edge_index, known.double()
        matrix = pair_hessian(known.blocks, index, padding) + site_hessian(known.rows, index, padding)
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
        inputs, known = self._of_one(graph)
        padding, index, known = Padding(inputs.graph_index, 1), inputs.edge_index, known.double()
        matrix = pair_hessian(known.blocks, index, padding) + site_hessian(known.rows, index, padding)
        coupling, elastic = strain_blocks(known, inputs.edge_vectors.double(), index, inputs.graph_index, 1)
        array: FloatArray = bordered(matrix[0], coupling, elastic[0]).cpu().numpy()
        return array

    def _of_one(self, graph: AtomGraph) -> tuple[NetworkInputs, Curvature]:
        """What the networks read and say of one structure."""
        if graph.n_graphs != 1:
            raise ValueError(f"a Hessian is that of one structure, got a batch of {graph.n_graphs}; unbatch it first")
        if graph.forces is None:
            graph = graph.replace(forces=torch.zeros_like(graph.positions))
        inputs = self._inputs(graph)
        return inputs, self.head(self.trunk(inputs), inputs)
