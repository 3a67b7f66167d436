"""Coordinates of a crystal whose cell strains: one vector for positions and cell, and its derivatives."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

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

    def jacobian(self, x: FloatArray) -> FloatArray:
        """What a change of x is in displacements and strain at x itself, (3 n_atoms + 6, 3 n_atoms + 6).

        A change dE of the strain, seen from where the crystal is, is (1 + E)⁻¹ dE, of which the antisymmetric part only
        rotates; w does not strain.
        """
        n_dof = len(x)
        along = np.einsum("ak,kbc->abc", self.directions, STRAIN_BASIS) / self.length
        here = np.linalg.solve(np.eye(3) + self.strain(x), along)
        matrix = np.zeros((n_dof, n_dof))
        matrix[:-6, :-6] = np.eye(n_dof - 6)
        matrix[:-6, -6:] = -np.einsum("nb,abc->nca", x[:-6].reshape(-1, 3), here).reshape(-1, 6)
        matrix[-6:, -6:] = vector_from_tensor(here).T
        return matrix
