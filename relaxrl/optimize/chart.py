"""Coordinates of a crystal whose cell strains: one vector for positions and cell, and its derivatives."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse

from relaxrl.strain import STRAIN_BASIS, tensor_from_vector, vector_from_tensor
from relaxrl.typing import FloatArray


class Geometry(NamedTuple):
    """Positions (n_atoms, 3) and cell (3, 3), Å."""

    positions: FloatArray
    cell: FloatArray


class Chart:
    r"""x = (w, q): displacements in Å, and strain from a reference, scaled to a length.

    $$ \text{cell} = \text{cell}_0 (1 + E), \quad r_i = z_i (1 + E) + w_i, \quad E = \sum_a q_a E_a / L $$

    E is symmetric: a rotation of the crystal changes nothing. Energies differentiated with respect to x are exact
    derivatives, whatever the strain, so that changes of the gradient belong to steps.

    Args:
        reference: Geometry at x = 0.
        directions: (6, 6), orthonormal rows, the E_a in `STRAIN_BASIS`; those that are free first.
        length: L, Å.
    """

    def __init__(self, reference: Geometry, directions: FloatArray, length: float) -> None:
        self.reference = reference
        self.directions = directions
        self.length = length

    def geometry(self, x: FloatArray) -> Geometry:
        """Where the atoms stand, and their cell."""
        deformation = np.eye(3) + self.strain(x)
        displacements = x[:-6].reshape(-1, 3)
        return Geometry(self.reference.positions @ deformation + displacements, self.reference.cell @ deformation)

    def coordinates(self, geometry: Geometry) -> FloatArray:
        """X of a geometry; a rotation of its cell against the reference is not part of it."""
        deformation = np.linalg.solve(self.reference.cell, geometry.cell)
        strain = vector_from_tensor(deformation - np.eye(3))
        displacements = geometry.positions - self.reference.positions @ (np.eye(3) + tensor_from_vector(strain))
        return np.concatenate([displacements.ravel(), self.length * (self.directions @ strain)])

    def strain(self, x: FloatArray) -> FloatArray:
        """E, (3, 3)."""
        return tensor_from_vector(x[-6:] @ self.directions / self.length)

    def strain_columns(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """What a change of q is at x itself: displacements (3 n_atoms, 6) and strain (6, 6); w is displacements alone.

        A change dE of the strain, seen from where the crystal is, is (1 + E)⁻¹ dE, of which the antisymmetric part only
        rotates; w does not strain.
        """
        along = np.einsum("ak,kbc->abc", self.directions, STRAIN_BASIS) / self.length
        here = np.linalg.solve(np.eye(3) + self.strain(x), along)
        displacements = -np.einsum("nb,abc->nca", x[:-6].reshape(-1, 3), here).reshape(-1, 6)
        return displacements, vector_from_tensor(here).T

    def gradient(self, x: FloatArray, of_atoms: FloatArray, of_strain: FloatArray) -> FloatArray:
        """Derivatives with respect to x from those at x itself: (3 n_atoms,), eV/Å, and (6,), eV."""
        displacements, strain = self.strain_columns(x)
        return np.concatenate([of_atoms, displacements.T @ of_atoms + strain.T @ of_strain])

    def hessian(self, x: FloatArray, local: FloatArray | sparse.csr_array) -> FloatArray | sparse.csr_array:
        """The Hessian in these coordinates, from that in displacements and strain at x; as dense as it was.

        What the curvature of the coordinates adds where forces have not vanished is left out.

        Args:
            x: (3 n_atoms + 6,).
            local: (3 n_atoms + 6, 3 n_atoms + 6); displacements in Å, strain in `STRAIN_BASIS`.
        """
        displacements, strain = self.strain_columns(x)
        borders = np.asarray(local[:, -6:] if isinstance(local, np.ndarray) else local[:, -6:].toarray())
        coupling, elastic = borders[:-6], borders[-6:]
        atoms = local[:-6, :-6]
        pulled = np.asarray(atoms @ displacements)
        side = pulled + coupling @ strain
        mixed = displacements.T @ coupling @ strain
        corner = displacements.T @ pulled + mixed + mixed.T + strain.T @ elastic @ strain
        corner = 0.5 * (corner + corner.T)
        if isinstance(atoms, np.ndarray):
            whole: FloatArray = np.block([[atoms, side], [side.T, corner]])
            return whole
        parts = [[sparse.coo_array(part) for part in row] for row in ((atoms, side), (side.T, corner))]
        return sparse.csr_array(sparse.block_array(parts))
