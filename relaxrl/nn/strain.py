"""The learned quadratic form where the cell strains, too: coupling and elastic blocks out of the same bonds and sites.

A homogeneous strain ε adds ε r_ij to the difference of the displacements of two atoms. So what the network says of
bonds and sites gives the curvature in displacements and strain together, without a parameter more. Where the network
has learned strain for itself, it says what stands in for bonds and sites on ε r_ij; that is a sum over bonds and sites,
too. A rigid translation still costs nothing, and a supercell strains like its parts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from relaxrl.graph import scatter_sum
from relaxrl.nn.hessian_head import Curvature
from relaxrl.strain import STRAIN_BASIS


def strain_blocks(
    curvature: Curvature, edge_vectors: Tensor, edge_index: Tensor, graph_index: Tensor, n_graphs: int
) -> tuple[Tensor, Tensor]:
    r"""Second derivatives with respect to displacements and strain, and to strain twice.

    $$ \tfrac14 \sum_{ij} \big( u_{ij}^T B_{ij} u_{ij} + 2 u_{ij}^T B'_{ij} \varepsilon r_{ij}
       + (\varepsilon r_{ij})^T B''_{ij} \varepsilon r_{ij} \big)
       + \tfrac12 \sum_{ic} \Big( \sum_j g_{ijc} \cdot u_{ij} + g'_{ijc} \cdot \varepsilon r_{ij} \Big)^2 $$

    with $u_{ij} = u_j - u_i$; B' (`mixed`), B'' (`strained`) and g' (`strained_rows`) are B and g unless they are
    learned.

    Args:
        curvature: B, g and the others.
        edge_vectors: r, (n_edges, 3), Å, from centre to neighbour.
        edge_index: (2, n_edges); each pair is there as i→j and j→i.
        graph_index: (n_atoms,), int64; which structure an atom belongs to.
        n_graphs: Structures in the batch.

    Returns:
        Coupling (n_atoms, 3, 6), eV/Å, and elastic (n_graphs, 6, 6), eV, blocks; strain in `STRAIN_BASIS`.
    """
    stretched = stretched_edges(edge_vectors)
    coupling, elastic = bond_strain_blocks(curvature, stretched, edge_index, graph_index, n_graphs)
    sums = site_strains(curvature, stretched, edge_index, len(graph_index))
    elastic = elastic + scatter_sum(sums.mT @ sums, graph_index, n_graphs)
    centre, neighbour = edge_index
    pull = curvature.rows.mT @ sums[centre]
    n_atoms = len(graph_index)
    return coupling + scatter_sum(pull, neighbour, n_atoms) - scatter_sum(pull, centre, n_atoms), elastic


def stretched_edges(edge_vectors: Tensor) -> Tensor:
    """What each component of a strain adds to edges (n_edges, 3), Å: (n_edges, 3, 6), Å."""
    basis = torch.from_numpy(STRAIN_BASIS).to(edge_vectors)
    return torch.einsum("kab,eb->eak", basis, edge_vectors)


def bond_strain_blocks(
    curvature: Curvature, stretched: Tensor, edge_index: Tensor, graph_index: Tensor, n_graphs: int
) -> tuple[Tensor, Tensor]:
    """The bonds' part of `strain_blocks`; `stretched` is that of `stretched_edges`."""
    centre, neighbour = edge_index
    n_atoms = len(graph_index)
    mixed = curvature.blocks if curvature.mixed is None else curvature.mixed
    # Half of each directed edge.
    pull = 0.5 * mixed @ stretched
    own = pull if curvature.strained is None else 0.5 * curvature.strained @ stretched
    elastic = scatter_sum(stretched.mT @ own, graph_index[centre], n_graphs)
    return scatter_sum(pull, neighbour, n_atoms) - scatter_sum(pull, centre, n_atoms), elastic


def site_strains(curvature: Curvature, stretched: Tensor, edge_index: Tensor, n_atoms: int) -> Tensor:
    """What each strain makes of the sites' sums over neighbours, (n_atoms, n_rows, 6), eV^½."""
    rows = curvature.rows if curvature.strained_rows is None else curvature.strained_rows
    return scatter_sum(rows @ stretched, edge_index[0], n_atoms)


def virial_vector(virial: Tensor) -> Tensor:
    """Volume times stress (n_graphs, 3, 3), eV: the energy's derivatives by strain in `STRAIN_BASIS`, (n_graphs, 6)."""
    return torch.einsum("gab,kab->gk", virial, torch.from_numpy(STRAIN_BASIS).to(virial))


def bordered(hessian: Tensor, coupling: Tensor, elastic: Tensor) -> Tensor:
    """[[H, C], [Cᵀ, E]] of one structure, (3 n_atoms + 6, 3 n_atoms + 6).

    Args:
        hessian: H, (3 n_atoms, 3 n_atoms), eV/Å².
        coupling: C, (n_atoms, 3, 6), eV/Å.
        elastic: E, (6, 6), eV.
    """
    side = coupling.reshape(-1, 6)
    return torch.cat([torch.cat([hessian, side], dim=1), torch.cat([side.T, elastic], dim=1)])
