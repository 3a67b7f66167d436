"""The learned quadratic form where the cell strains, too: coupling and elastic blocks out of the same bonds and sites.

A homogeneous strain ε adds ε r_ij to the difference of the displacements of two atoms. So what the network says of
bonds and sites gives the curvature in displacements and strain together, without a parameter more. A rigid translation
still costs nothing, and a supercell strains like its parts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from relaxrl.graph import scatter_sum
from relaxrl.strain import STRAIN_BASIS


def strain_blocks(
    blocks: Tensor, rows: Tensor, edge_vectors: Tensor, edge_index: Tensor, graph_index: Tensor, n_graphs: int
) -> tuple[Tensor, Tensor]:
    r"""Second derivatives with respect to displacements and strain, and to strain twice.

    $$ \tfrac14 \sum_{ij} \delta_{ij}^T B_{ij} \delta_{ij}
       + \tfrac12 \sum_{ic} \Big( \sum_j g_{ijc} \cdot \delta_{ij} \Big)^2, \qquad
       \delta_{ij} = u_j - u_i + \varepsilon r_{ij} $$

    Args:
        blocks: B, (n_edges, 3, 3), symmetric, eV/Å².
        rows: g, (n_edges, channels, 3), eV^½/Å.
        edge_vectors: r, (n_edges, 3), Å, from centre to neighbour.
        edge_index: (2, n_edges); each pair is there as i→j and j→i.
        graph_index: (n_atoms,), int64; which structure an atom belongs to.
        n_graphs: Structures in the batch.

    Returns:
        Coupling (n_atoms, 3, 6), eV/Å, and elastic (n_graphs, 6, 6), eV, blocks; strain in `STRAIN_BASIS`.
    """
    centre, neighbour = edge_index
    n_atoms, graph_of_edge = len(graph_index), graph_index[edge_index[0]]
    basis = torch.from_numpy(STRAIN_BASIS).to(edge_vectors)
    stretched = torch.einsum("kab,eb->eak", basis, edge_vectors)
    # Bonds: half of each directed edge.
    pull = 0.5 * blocks @ stretched
    elastic = scatter_sum(stretched.mT @ pull, graph_of_edge, n_graphs)
    coupling = scatter_sum(pull, neighbour, n_atoms) - scatter_sum(pull, centre, n_atoms)
    # Sites: what each strain makes of the sums over neighbours.
    sums = scatter_sum(rows @ stretched, centre, n_atoms)
    elastic = elastic + scatter_sum(sums.mT @ sums, graph_index, n_graphs)
    pull = rows.mT @ sums[centre]
    coupling = coupling + scatter_sum(pull, neighbour, n_atoms) - scatter_sum(pull, centre, n_atoms)
    return coupling, elastic


def bordered(hessian: Tensor, coupling: Tensor, elastic: Tensor) -> Tensor:
    """[[H, C], [Cᵀ, E]] of one structure, (3 n_atoms + 6, 3 n_atoms + 6).

    Args:
        hessian: H, (3 n_atoms, 3 n_atoms), eV/Å².
        coupling: C, (n_atoms, 3, 6), eV/Å.
        elastic: E, (6, 6), eV.
    """
    side = coupling.reshape(-1, 6)
    return torch.cat([torch.cat([hessian, side], dim=1), torch.cat([side.T, elastic], dim=1)])
