"""A guess of the Hessian from bond lengths alone: what a quasi-Newton method starts from before it has seen forces."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from scipy import sparse

from relaxrl.io import graph_from_atoms
from relaxrl.neighbors import with_edges
from relaxrl.strain import STRAIN_BASIS
from relaxrl.typing import FloatArray, IntArray

BADGER = 65.0
"""eV Å; a bond as long as the sum R of its covalent radii has the stiffness BADGER / R³ (Badger's rule): 3.5 eV/Å² for
copper, 6 for silicon, 70 for an O-H bond. This and the next two were chosen on `metals:dev` with an eye on silicon and
molecules; 20 % more or less of any of them changes the evaluations by a few per cent."""
DECAY = 5.0
"""Stiffness falls by exp(-DECAY) when the bond is twice as long."""
RANGE = 2.4
"""Pairs beyond this multiple of the sum of their covalent radii have no stiffness."""
STIFFEST = 100.0
"""eV/Å², of any one pair, so that overlapping atoms don't freeze all the others."""
GROUND_STIFFNESS = 1.0
"""eV/Å², that ties every atom to where it is: bends, torsions, and directions that no bond resists."""


def pair_hessian(atoms: Atoms) -> sparse.csr_array:
    """Hessian of springs along all bonds, plus a weak spring that holds each atom.

    The spring of a pair at distance r whose covalent radii add up to R has the stiffness
    `BADGER / R³ * exp(-DECAY * (r / R - 1)) * (1 - (r / (RANGE * R))²)²`. The form is that of model Hessians for
    molecules (Lindh et al. 1995) and of preconditioners for materials (Packwood et al. 2016); here only the part along
    the bond is kept. It is symmetric and positive definite, follows rotations of the structure, and knows nothing
    about the potential: measured force differences have to correct it.

    Args:
        atoms: The structure; its calculator is not used.

    Returns:
        (3 n_atoms, 3 n_atoms), eV/Å², sparse.

    References:
        doi:10.1016/0009-2614(95)00646-L, doi:10.1063/1.4947024, doi:10.1063/1.1749386

    Examples:
        >>> from ase.build import bulk
        >>> hessian = pair_hessian(bulk("Cu", cubic=True)).toarray()
        >>> bool(np.allclose(hessian, hessian.T)), bool(np.linalg.eigvalsh(hessian).min() > 0.99)
        (True, True)
    """
    n_atoms = len(atoms)
    centre, neighbour, _, blocks = _springs(atoms)
    # Each pair is there as i→j and j→i; each of the two gives the row of its centre.
    rows = np.concatenate([centre, centre])
    columns = np.concatenate([centre, neighbour])
    values = np.concatenate([blocks, -blocks])
    axis = np.arange(3)
    shape = (len(rows), 3, 3)
    row_index = np.broadcast_to(3 * rows[:, None, None] + axis[:, None], shape).ravel()
    column_index = np.broadcast_to(3 * columns[:, None, None] + axis, shape).ravel()
    springs = sparse.coo_array((values.ravel(), (row_index, column_index)), shape=(3 * n_atoms, 3 * n_atoms))
    ground = GROUND_STIFFNESS * sparse.eye_array(3 * n_atoms, format="csr")
    return (springs + ground).tocsr()


def pair_hessian_with_strain(atoms: Atoms) -> sparse.csr_array:
    """`pair_hessian` of positions and cell: the springs' lengths change with the strain, too.

    Args:
        atoms: The structure; its calculator is not used.

    Returns:
        (3 n_atoms + 6, 3 n_atoms + 6), sparse; displacements in Å, strain in `relaxrl.strain.STRAIN_BASIS`.

    Examples:
        >>> from ase.build import bulk
        >>> hessian = pair_hessian_with_strain(bulk("Cu", cubic=True)).toarray()
        >>> bool(np.linalg.eigvalsh(hessian).min() > 0)
        True
    """
    n_atoms = len(atoms)
    centre, neighbour, vectors, blocks = _springs(atoms)
    stretched = np.einsum("kab,eb->eak", STRAIN_BASIS, vectors)
    # Springs of both directions of a pair count half each.
    pull = 0.5 * blocks @ stretched
    # As stiff as atoms that are held, on the scale of an atom's distance to its neighbours.
    elastic = np.einsum("eak,eal->kl", stretched, pull) + 4 * n_atoms * GROUND_STIFFNESS * np.eye(6)
    coupling = np.zeros((n_atoms, 3, 6))
    np.add.at(coupling, neighbour, pull)
    np.subtract.at(coupling, centre, pull)
    side = coupling.reshape(-1, 6)
    rows = ((pair_hessian(atoms), side), (side.T, elastic))
    return sparse.csr_array(sparse.block_array([[sparse.coo_array(part) for part in row] for row in rows]))


def _springs(atoms: Atoms) -> tuple[IntArray, IntArray, FloatArray, FloatArray]:
    """Bonds in both directions: centres, neighbours, vectors (n_edges, 3), Å, and blocks (n_edges, 3, 3), eV/Å²."""
    radii = covalent_radii[atoms.numbers]
    graph = with_edges(graph_from_atoms(atoms), float(RANGE * 2 * radii.max()))
    assert graph.edge_index is not None  # just made
    centre, neighbour = graph.edge_index.numpy()
    vectors = graph.edge_vectors().numpy()
    return centre, neighbour, vectors, _spring_blocks(vectors, radii[centre] + radii[neighbour])


def _spring_blocks(vectors: FloatArray, bond_lengths: FloatArray) -> FloatArray:
    """Stiffness times r̂ r̂ᵀ of each edge, (n_edges, 3, 3), eV/Å²."""
    distances = np.linalg.norm(vectors, axis=1)
    stretch = distances / bond_lengths
    fade = np.maximum(1 - (stretch / RANGE) ** 2, 0.0) ** 2
    stiffness = np.minimum(BADGER / bond_lengths**3 * np.exp(-DECAY * (stretch - 1)), STIFFEST) * fade
    # Atoms on top of each other have no direction between them.
    directions = vectors / np.maximum(distances, 1e-12)[:, None]
    blocks: FloatArray = stiffness[:, None, None] * directions[:, :, None] * directions[:, None, :]
    return blocks
