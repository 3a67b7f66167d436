"""From what the network says of edges to displacements of all atoms, by the method that suits each structure's size."""

from __future__ import annotations

import torch
from torch import Tensor

from relaxrl.nn.assembly import Padding, pair_hessian, site_hessian
from relaxrl.nn.hessian_head import Curvature
from relaxrl.nn.inputs import NetworkInputs
from relaxrl.nn.krylov import krylov_step
from relaxrl.nn.newton import newton_step
from relaxrl.nn.strain import bond_strain_blocks, site_strains, stretched_edges
from relaxrl.strain import LENGTH_PER_ROOT_ATOM

DENSE_LIMIT = 160
"""Atoms up to which a structure is solved by a dense factorisation, together with others of the batch: 10 ms against 15
at 144 atoms, 51 against 24 at 256 (`benchmarks/large_cells.py`)."""


def newton_displacement(
    blocks: Tensor,
    rows: Tensor,
    forces: Tensor,
    edge_index: Tensor,
    graph_index: Tensor,
    n_graphs: int,
    floor: float = 0.05,
    dense_limit: int = DENSE_LIMIT,
) -> Tensor:
    """|H|⁻¹ F of each structure of a batch, in float64, with gradients through the solve.

    Args:
        blocks: (n_edges, 3, 3), symmetric, eV/Å²; see `pair_hessian`.
        rows: (n_edges, channels, 3), eV^½/Å; see `site_hessian`.
        forces: (n_atoms, 3), eV/Å.
        edge_index: (2, n_edges).
        graph_index: (n_atoms,), int64, sorted.
        n_graphs: Structures in the batch.
        floor: eV/Å²; softer modes, and those of negative curvature, are taken to be this stiff.
        dense_limit: Atoms; structures that have more never see a matrix of all their atoms.

    Returns:
        (n_atoms, 3), Å.
    """
    blocks, rows, forces = blocks.double(), rows.double(), forces.double()
    sizes = torch.bincount(graph_index, minlength=n_graphs)
    large = sizes > dense_limit
    if not large.any():
        return _dense(blocks, rows, forces, edge_index, graph_index, n_graphs, floor)
    graph_of_edge = graph_index[edge_index[0]]
    where, steps = [], []
    if not large.all():
        atoms, edges = ~large[graph_index], ~large[graph_of_edge]
        new_atom, new_graph = atoms.cumsum(0) - 1, (~large).cumsum(0) - 1
        where.append(torch.nonzero(atoms).squeeze(1))
        index = new_atom[edge_index[:, edges]]
        graphs = new_graph[graph_index[atoms]]
        steps.append(
            _dense(blocks[edges], rows[edges], forces[atoms], index, graphs, n_graphs - int(large.sum()), floor)
        )
    for graph in torch.nonzero(large).squeeze(1).tolist():
        atoms, edges = torch.nonzero(graph_index == graph).squeeze(1), graph_of_edge == graph
        where.append(atoms)
        index = edge_index[:, edges] - atoms[0]
        steps.append(krylov_step(blocks[edges], rows[edges], forces[atoms], index, floor))
    return forces.new_zeros(forces.shape).index_copy(0, torch.cat(where), torch.cat(steps))


def _dense(
    blocks: Tensor, rows: Tensor, forces: Tensor, edge_index: Tensor, graph_index: Tensor, n_graphs: int, floor: float
) -> Tensor:
    padding = Padding(graph_index, n_graphs)
    hessian = pair_hessian(blocks, edge_index, padding) + site_hessian(rows, edge_index, padding)
    return padding.unpad(newton_step(hessian, padding.pad(forces), padding.present, floor))


def newton_displacement_and_strain(
    curvature: Curvature, inputs: NetworkInputs, virial: Tensor, moving: Tensor, floor: float = 0.05
) -> tuple[Tensor, Tensor]:
    """|H|⁻¹ of forces and stress together, in float64, with gradients through the solve.

    Strain is scaled to a length as in `relaxrl.optimize.chart`, so that one floor holds for all eigenvalues. All dense,
    whatever the size.

    Args:
        curvature: What the network says of the edges.
        inputs: The structures.
        virial: (n_graphs, 6), eV; volume times stress in `relaxrl.strain.STRAIN_BASIS`, float64.
        moving: (n_graphs,), bool; structures whose cell strains. The step of the others is that of a fixed cell.
        floor: eV/Å²; softer modes, and those of negative curvature, are taken to be this stiff.

    Returns:
        Displacements (n_atoms, 3), Å, and strain (n_graphs, 6).
    """
    known, index, n_graphs = curvature.double(), inputs.edge_index, inputs.n_graphs
    padding = Padding(inputs.graph_index, n_graphs)
    hessian = pair_hessian(known.blocks, index, padding)
    n_dof, there = hessian.shape[-1], moving.to(hessian)
    inverse = there / (LENGTH_PER_ROOT_ATOM * torch.bincount(inputs.graph_index, minlength=n_graphs).to(hessian).sqrt())
    # Strain is no matter of edges in cells that are held.
    strained, vectors, edges = known, inputs.edge_vectors.double(), index
    if not bool(moving.all()):
        kept = torch.nonzero(moving[inputs.graph_index[index[0]]]).squeeze(1)
        strained, vectors, edges = known.select(kept), vectors[kept], index[:, kept]
    stretched = stretched_edges(vectors)
    coupling, elastic = bond_strain_blocks(strained, stretched, edges, inputs.graph_index, n_graphs)
    sums = site_strains(strained, stretched, edges, inputs.n_atoms) * inverse[inputs.graph_index, None, None]
    side = hessian.new_zeros(n_graphs * padding.n_max, 3, 6).index_copy(0, padding.slot, coupling)
    side = side.view(n_graphs, n_dof, 6) * inverse[:, None, None]
    # A cell that is held: stiff, apart from all else, and without a force.
    held = torch.diag_embed((1.0 - there).unsqueeze(-1).expand(-1, 6))
    corner = elastic * inverse.square()[:, None, None] + held
    whole = torch.cat([torch.cat([hessian, side], dim=2), torch.cat([side.mT, corner], dim=2)], dim=1)
    whole = whole + site_hessian(known.rows, index, padding, sums)
    force = torch.cat([padding.pad(inputs.forces.double()), -virial * inverse.unsqueeze(1)], dim=1)
    step = newton_step(whole, force, padding.present, floor)
    return padding.unpad(step[:, :n_dof]), step[:, n_dof:] * inverse.unsqueeze(1)
