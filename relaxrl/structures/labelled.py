"""Structures with energies and forces to learn from: those that files store, or those that a calculator gives."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from relaxrl.errors import CalculatorError, StructureError
from relaxrl.io import graph_from_atoms
from relaxrl.potentials import Potential
from relaxrl.structures.crystal import Crystal, Kind, perturb
from relaxrl.structures.read import Parents, given_names, read_file_or_folder
from relaxrl.structures.shipped import is_shipped
from relaxrl.typing import FloatArray

_CHUNK = 256
"""Structures per call of a potential."""


@dataclass(frozen=True)
class LabelledStructure:
    """A structure with what a potential should give for it.

    Attributes:
        crystal: The structure.
        energy: eV.
        forces: (n_atoms, 3), eV/Å.
    """

    crystal: Crystal
    energy: float
    forces: FloatArray

    def __post_init__(self) -> None:
        n_atoms = len(self.crystal.atoms)
        if not np.isfinite(self.energy):
            raise StructureError(f"{self.crystal.id}: its energy is {self.energy}; repair or remove the structure")
        if self.forces.shape != (n_atoms, 3):
            raise StructureError(
                f"{self.crystal.id}: its forces must have the shape (n_atoms={n_atoms}, 3), got {self.forces.shape}"
            )
        bad = np.flatnonzero(~np.isfinite(self.forces).all(axis=1))
        if len(bad):
            shown = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
            raise StructureError(
                f"{self.crystal.id}: forces on atoms {shown} are not finite; repair or remove the structure"
            )


def read_labelled(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    energy_key: str | None = None,
    forces_key: str | None = None,
    kind: Kind | None = None,
    parents: Parents = "id",
) -> list[LabelledStructure]:
    """Structures with the energies and forces that their files store: extxyz, ASE databases, trajectories, ...

    Args:
        paths: As for `read_structures`.
        energy_key: Name of the energy in `info`, where the file calls it other than ASE does; also the place for
            key-value pairs of a database.
        forces_key: Name of the forces in `arrays`.
        kind: As for `read_structures`.
        parents: As for `read_structures`.

    Raises:
        StructureError: A label is missing or not finite; names the structure.
    """
    found = []
    for name in given_names(paths):
        if is_shipped(name):
            raise StructureError(f"{name}: a shipped set has no labels of forces; name a calculator that makes them")
        for crystal in read_file_or_folder(name, kind, parents):
            energy = _stored(crystal, "energy", energy_key)
            forces = _stored(crystal, "forces", forces_key)
            crystal.atoms.calc = None
            found.append(LabelledStructure(crystal, float(energy), np.array(forces, dtype=np.float64)))
    return found


def label(crystals: Sequence[Crystal], potential: Potential) -> list[LabelledStructure]:
    """Structures with the energies and forces that a potential gives.

    Raises:
        CalculatorError: It fails for a structure; names it.
    """
    labelled = []
    for first in range(0, len(crystals), _CHUNK):
        part = crystals[first : first + _CHUNK]
        evaluation = potential.evaluate(graph_from_atoms([crystal.atoms for crystal in part]))
        for index, message in evaluation.messages.items():
            raise CalculatorError(f"{part[index].id}: no energy and forces: {message}")
        ends = np.cumsum([len(crystal.atoms) for crystal in part])[:-1]
        forces = np.split(evaluation.forces.cpu().numpy(), ends)
        for crystal, energy, force in zip(part, evaluation.energy.tolist(), forces, strict=True):
            labelled.append(LabelledStructure(crystal, energy, force.copy()))
    return labelled


def displaced(
    crystals: Sequence[Crystal], rattle: tuple[float, float], copies: int, generator: np.random.Generator
) -> list[Crystal]:
    """Minima displaced at random, several times each, since their own forces vanish; starts as they are.

    Args:
        crystals: Minima and starts.
        rattle: Å; lowest and highest standard deviation, drawn log-uniformly.
        copies: Of each minimum.
        generator: Source of randomness.
    """
    low, high = np.log(rattle)
    moved = []
    for crystal in crystals:
        if crystal.kind == "start":
            moved.append(crystal)
            continue
        for copy in range(copies):
            atoms = perturb(crystal.atoms, float(np.exp(generator.uniform(low, high))), generator)
            moved.append(Crystal(f"{crystal.id}~{copy}", atoms, crystal.parent))
    return moved


def _stored(crystal: Crystal, what: str, key: str | None) -> Any:
    """A label of a structure, under ASE's name for it or under the file's own."""
    atoms = crystal.atoms
    results = {} if atoms.calc is None else atoms.calc.results
    places = (results,) if key is None else (atoms.arrays, atoms.info, results)
    for place in places:
        value = place.get(key or what)
        if value is not None:
            return value
    others = _likely(atoms, results)
    hint = f"; the file has {', '.join(others)}: name yours with `{what}_key`" if others else ""
    wanted = f"`{key}`" if key else what
    raise StructureError(
        f"{crystal.id}: has no label: {wanted} is missing{hint}; or name a calculator that makes labels"
    )


def _likely(atoms: Atoms, results: dict[str, Any]) -> list[str]:
    """Names in a structure that sound like labels."""
    names = [*atoms.info, *atoms.arrays, *results]
    return [name for name in names if any(word in name.lower() for word in ("energy", "force", "energies"))]
