"""Random crystals: a random cell, atoms thrown into it and pushed apart until none are too close.

This is how random structure searching begins (C. J. Pickard and R. J. Needs, J. Phys.: Condens. Matter 23, 053201
(2011), doi:10.1088/0953-8984/23/5/053201), and how E. Zamaraeva et al. make their starts (arXiv:2506.04195).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import vesin
from ase import Atoms
from ase.cell import Cell
from ase.data import atomic_numbers, covalent_radii
from ase.formula import Formula
from ase.geometry import minkowski_reduce

from relaxrl.config import configclass
from relaxrl.errors import StructureError
from relaxrl.structures.expected_volume import ANIONS, expected_volume
from relaxrl.typing import FloatArray

BOND = 0.8
"""Smallest distance of two different kinds of atoms, anion and other or otherwise, in units of their covalent radii."""

ALIKE = 0.75
"""Smallest distance of two anions, or of two that are none, in units of the distance that they have where atoms of the
cell's volume are packed evenly."""

_CELLS = 200
"""Cells, and arrangements of atoms in them, that are tried before a composition is declared impossible."""
_PUSHES = 400
"""Rounds in which atoms that are too close are moved apart."""
_EXTRA = 1.02
"""A push aims at this multiple of the smallest distance, so that rounds come to an end."""
_TOLERANCE = 1e-3
"""Relative shortfall of a distance that is let pass."""
_APART = 3.5
"""Å; atoms that don't attract each other are never asked to be farther apart than this."""
_SPACING = 2 ** (1 / 6)
"""Distance of neighbours in a close packing, in units of the cube root of the volume per atom."""


@configclass
class RandomCrystalConfig:
    """Which random crystals to draw."""

    formulas: tuple[str, ...]
    """Compositions, all equally often; formula units as in `SrTiO3`."""
    min_atoms: int = 20
    """Smallest number of atoms in a cell."""
    max_atoms: int = 40
    """Largest number of atoms in a cell; formula units are drawn evenly from the numbers that fit."""
    volume: tuple[float, float] = (0.95, 1.25)
    """Range of the volume, in units of what the elements take up in known crystals; random packings are looser."""
    angles: tuple[float, float] = (60.0, 120.0)
    """Degrees, range of the angles between lattice vectors."""
    max_elongation: float = 2.0
    """Longest lattice vector over the shortest, at most."""

    def __post_init__(self) -> None:
        if not self.formulas:
            raise ValueError("`formulas` must name at least one composition")
        for formula in self.formulas:
            parse_formula(formula)
            if not self._multiples(formula):
                raise ValueError(
                    f"`formulas`: no number of units of {formula} has {self.min_atoms} to {self.max_atoms} atoms"
                )
        if not 0 < self.volume[0] <= self.volume[1]:
            raise ValueError(f"`volume` must be a range of positive numbers, got {self.volume}")
        if not 30 <= self.angles[0] <= self.angles[1] <= 150:
            raise ValueError(f"`angles` must be a range within 30 to 150 degrees, got {self.angles}")
        if self.max_elongation < 1:
            raise ValueError(f"`max_elongation` must be at least 1, got {self.max_elongation}")

    def _multiples(self, formula: str) -> range:
        unit = sum(parse_formula(formula).values())
        return range(max(1, -(-self.min_atoms // unit)), self.max_atoms // unit + 1)

    def draw_size(self, generator: np.random.Generator) -> tuple[str, int]:
        """A formula and how many units of it."""
        formula = self.formulas[int(generator.integers(len(self.formulas)))]
        multiples = self._multiples(formula)
        return formula, int(generator.choice(multiples))


def random_crystal(
    formula: str,
    n_formula_units: int,
    generator: np.random.Generator,
    config: RandomCrystalConfig | None = None,
    separations: Mapping[tuple[str, str], float] | None = None,
) -> Atoms:
    """A crystal of this composition with nothing but sensible distances in it.

    Args:
        formula: Formula unit, such as `SrTiO3`.
        n_formula_units: How many of it are in the cell.
        generator: Source of randomness.
        config: Range of volumes and shapes; the defaults of its class if None.
        separations: Å; smallest distances of pairs of elements. Those that are not named follow from covalent radii
            for an anion and another element, and from the volume for pairs that don't attract each other.

    Returns:
        The crystal, all directions periodic, its cell described by its shortest vectors.

    Raises:
        StructureError: The formula can't be read, or no arrangement was found: the volume is too small for the
            separations.

    Examples:
        >>> random_crystal("SrTiO3", 2, np.random.default_rng(0)).get_chemical_formula()
        'O6Sr2Ti2'
    """
    counts = parse_formula(formula)
    if n_formula_units < 1:
        raise StructureError(f"`n_formula_units` must be at least 1, got {n_formula_units}")
    if config is None:
        config = RandomCrystalConfig(formulas=(formula,), min_atoms=1, max_atoms=10**6)
    symbols = [symbol for symbol, count in counts.items() for _ in range(count * n_formula_units)]
    for _ in range(_CELLS):
        volume = expected_volume(symbols) * generator.uniform(*config.volume)
        cell = random_cell(volume, config.angles, config.max_elongation, generator)
        smallest = smallest_distances(symbols, volume, separations or {})
        positions = generator.random((len(symbols), 3)) @ cell
        atoms = Atoms(symbols, positions, cell=cell, pbc=True)
        if _push_apart(atoms, smallest, generator):
            return atoms
    raise StructureError(
        f"no arrangement of {n_formula_units} {formula} in {config.volume[0]:g} to {config.volume[1]:g} of the "
        "expected volume keeps the smallest distances; allow a larger volume or smaller separations"
    )


def parse_formula(formula: str) -> dict[str, int]:
    """Atoms of each element in a formula unit.

    Raises:
        StructureError: It is no formula of known elements.
    """
    try:
        counts = Formula(formula).count()
    except ValueError as error:
        raise StructureError(f"expected a chemical formula such as SrTiO3, got {formula!r}") from error
    unknown = [symbol for symbol in counts if symbol not in atomic_numbers or symbol == "X"]
    if unknown or not counts:
        raise StructureError(f"expected a chemical formula such as SrTiO3, got {formula!r}")
    return dict(counts)


def random_cell(
    volume: float, angles: tuple[float, float], max_elongation: float, generator: np.random.Generator
) -> FloatArray:
    """Lattice vectors as rows, (3, 3), Å, with this volume in Å³, right-handed and as short as the lattice has them."""
    while True:
        lengths = generator.uniform(1.0, max_elongation, size=3)
        drawn = generator.uniform(*angles, size=3)
        cosines = np.cos(np.radians(drawn))
        # Relative volume; angles that can't be the three of one corner give none.
        solid = 1 + 2 * cosines.prod() - (cosines**2).sum()
        if solid <= 0.1:
            continue
        cell = Cell.fromcellpar([*lengths, *drawn]).array
        reduced, _ = minkowski_reduce(cell)
        if np.linalg.norm(reduced, axis=1).max() > max_elongation * np.linalg.norm(reduced, axis=1).min():
            continue
        reduced = reduced if np.linalg.det(reduced) > 0 else -reduced
        shape: FloatArray = reduced * (volume / np.linalg.det(reduced)) ** (1 / 3)
        return shape


def smallest_distances(symbols: list[str], volume: float, separations: Mapping[tuple[str, str], float]) -> FloatArray:
    """Smallest distance of each two atoms, (n_atoms, n_atoms), Å.

    Args:
        symbols: Elements of the atoms.
        volume: Å³, of the cell.
        separations: Å, of pairs of elements, in either order; wins over what follows from radii and volume.
    """
    radii = covalent_radii[[atomic_numbers[symbol] for symbol in symbols]]
    bonds = BOND * (radii[:, None] + radii[None])
    anion = np.isin(symbols, ANIONS)
    alike = anion[:, None] == anion[None]
    if anion.any() and not anion.all():
        share = np.where(anion, anion.sum(), (~anion).sum())
        even = ALIKE * _SPACING * (volume / share) ** (1 / 3)
        smallest = np.where(alike, np.maximum(bonds, np.minimum(even[:, None], _APART)), bonds)
    else:
        smallest = bonds
    names = np.array(symbols)
    for (first, second), distance in separations.items():
        pair = (names[:, None] == first) & (names[None] == second)
        smallest = np.where(pair | pair.T, distance, smallest)
    found: FloatArray = smallest
    return found


def _pairs(atoms: Atoms, cutoff: float) -> tuple[np.ndarray, np.ndarray, FloatArray, FloatArray]:
    """Pairs closer than a distance: indices, distances in Å, and vectors from first to second, (n_pairs, 3), Å."""
    i, j, distance, vectors = vesin.NeighborList(cutoff=cutoff, full_list=False).compute(
        points=atoms.positions, box=atoms.cell.array, periodic=np.ones(3, dtype=bool), quantities="ijdD"
    )
    return i.astype(np.int64), j.astype(np.int64), distance, vectors


def _push_apart(atoms: Atoms, smallest: FloatArray, generator: np.random.Generator) -> bool:
    """Move atoms that are too close to each other apart, each by half of what lacks, until none are; False if stuck."""
    widest = float(smallest.max())
    for _ in range(_PUSHES):
        i, j, distance, vectors = _pairs(atoms, widest)
        lacking = smallest[i, j] - distance
        close = lacking > _TOLERANCE * smallest[i, j]
        if not close.any():
            atoms.wrap()
            return True
        if (close & (i == j)).any():
            return False  # an atom is too close to its own image: the cell is too thin
        i, j, vectors, distance = i[close], j[close], vectors[close], distance[close]
        direction = vectors / np.maximum(distance, 1e-6)[:, None]
        on_top = distance < 1e-6
        direction[on_top] = generator.normal(size=(int(on_top.sum()), 3))
        push = 0.5 * (_EXTRA * smallest[i, j] - distance)[:, None] * direction
        np.subtract.at(atoms.positions, i, push)
        np.add.at(atoms.positions, j, push)
    return False
