"""Crystals displaced from their minima with their cells: which can be, and how."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms

from relaxrl.errors import StructureError
from relaxrl.io import graph_from_atoms
from relaxrl.potentials import Potential, PotentialSource
from relaxrl.strain import tensor_from_vector
from relaxrl.structures import perturb
from relaxrl.typing import BoolArray

STRESS_FREE = 5e-4
"""eV/Å³ (0.08 GPa); minima under more stress were relaxed at a fixed cell, and are no minima of the cell. Below it they
are off by less than a thousandth of strain."""
LARGEST = 0.2
"""Norm of a random strain; beyond it crystals are others."""
_CHUNK = 128
"""Structures per call of the potential."""
_HALVINGS = 6
"""Of a displacement that leaves no room between atoms."""


def are_minima_of_cell(minima: Sequence[Atoms], potentials: Potential | PotentialSource) -> BoolArray:
    """Which crystals are periodic in three directions and free of stress, (n,)."""
    found = np.zeros(len(minima), dtype=bool)
    for first in range(0, len(minima), _CHUNK):
        part = minima[first : first + _CHUNK]
        graph = graph_from_atoms(part)
        evaluated = potentials.of(part).evaluate(graph, stress=True)
        if evaluated.stress is not None:
            free = evaluated.stress.abs().amax((1, 2)) < STRESS_FREE  # so that NaN is none
            found[first : first + len(part)] = (free & ~evaluated.failed & graph.pbc.all(1)).cpu().numpy()
    return found


def strained(atoms: Atoms, deviation: float, generator: np.random.Generator) -> Atoms:
    """A copy whose cell, with all in it, is strained at random.

    Args:
        atoms: The crystal.
        deviation: Standard deviation of each component of the symmetric strain, in `relaxrl.strain.STRAIN_BASIS`.
        generator: Source of randomness.
    """
    strain = generator.normal(0.0, deviation, 6)
    strain *= LARGEST / max(LARGEST, float(np.linalg.norm(strain)))
    copy = atoms.copy()
    copy.set_cell(atoms.cell.array @ (np.eye(3) + tensor_from_vector(strain)), scale_atoms=True, apply_constraint=False)
    return copy


def displaced(atoms: Atoms, deviation: float, generator: np.random.Generator) -> Atoms:
    """A copy displaced at random, by less where there is no room for more; see `relaxrl.structures.perturb`."""
    for _ in range(_HALVINGS):
        try:
            return perturb(atoms, deviation, generator)
        except StructureError:
            deviation *= 0.5
    return perturb(atoms, deviation, generator)


def log_uniform(bounds: tuple[float, float], n: int, generator: np.random.Generator) -> list[float]:
    """Numbers drawn between two positive ones, each decade as often as the others."""
    low, high = np.log(bounds)
    drawn: list[float] = np.exp(generator.uniform(low, high, size=n)).tolist()
    return drawn


def as_tensor(mask: BoolArray | Sequence[bool], device: torch.device | str) -> torch.Tensor:
    """A mask of structures on a device."""
    return torch.as_tensor(np.asarray(mask, dtype=bool), device=device)
