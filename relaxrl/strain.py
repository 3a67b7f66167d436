"""Symmetric 3x3 tensors as vectors of six: the one convention for strain and stress."""

from __future__ import annotations

import numpy as np

from relaxrl.typing import FloatArray

_PAIRS = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


def _basis() -> FloatArray:
    basis = np.zeros((6, 3, 3))
    for k, (a, b) in enumerate(_PAIRS):
        basis[k, a, b] = basis[k, b, a] = 1.0 if a == b else 0.5**0.5
    return basis


STRAIN_BASIS: FloatArray = _basis()
"""(6, 3, 3); xx, yy, zz, yz, xz, xy as in Voigt's notation, but each of norm 1 (Mandel's notation). So lengths of
six-vectors are those of tensors, and a rotation of the crystal is a rotation of the six components."""

LENGTH_PER_ROOT_ATOM = 2.0
"""Å; strain times this and the square root of the number of atoms is as stiff as displacements are: a crystal of
16 Å³ an atom and 1 eV/Å³ (160 GPa) gets 4 eV/Å²."""
STRAIN_REACH = 5.0
"""Å; a strain counts as a displacement of this length times its norm: steps of 0.5 Å strain by 10 % at most."""


def vector_from_tensor(tensor: FloatArray) -> FloatArray:
    """Components (..., 6) of the symmetric part of tensors (..., 3, 3)."""
    vector: FloatArray = np.einsum("...ab,kab->...k", tensor, STRAIN_BASIS)
    return vector


def tensor_from_vector(vector: FloatArray) -> FloatArray:
    """Symmetric tensors (..., 3, 3) of components (..., 6).

    Examples:
        >>> tensor_from_vector(np.array([0.01, 0.0, 0.0, 0.0, 0.0, 0.02 * 2**0.5])).round(3).tolist()
        [[0.01, 0.02, 0.0], [0.02, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    tensor: FloatArray = np.einsum("...k,kab->...ab", vector, STRAIN_BASIS)
    return tensor
