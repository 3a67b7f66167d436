"""Known crystals with other elements: a prototype or mineral, substituted, brought to its volume, strained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.data import atomic_numbers

from relaxrl.config import configclass
from relaxrl.errors import StructureError
from relaxrl.structures.alloys import random_supercell, strained
from relaxrl.structures.charges import known_charges
from relaxrl.structures.crystal import perturb
from relaxrl.structures.sources import SOURCES, SourceCrystal, read_source
from relaxrl.structures.substitution import Charges, any_elements, charged_elements, similar_elements_for
from relaxrl.structures.volume import at_bond_lengths, at_lowest_energy, stretched

Rule = Literal["any", "charges", "similar"]

_ALL = 10_000
"""More atoms than any known crystal has in its primitive cell."""

_DRAWS = 1000
"""Draws of prototype and elements before a configuration is declared impossible."""


@configclass
class CompoundConfig:
    """Which known crystals to draw, and which elements to put on their sites."""

    elements: tuple[str, ...]
    """Symbols to draw from; those of the calculator's that are wanted."""
    rule: Rule = "any"
    """How: `any` puts different elements on the species at random, for covalent potentials of few elements; `charges`
    only such that formal charges add up to zero and nearest neighbours are of opposite sign, for ionic ones; `similar`
    keeps each element or takes one of like size and charge, for potentials that know nearly all elements."""
    charges: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Oxidation states by symbol, where they are others than the common ones; for the rule `charges`."""
    sources: tuple[str, ...] = ("aflow", "minerals")
    """Where the crystals come from."""
    prototypes: tuple[str, ...] = ()
    """Only these: labels of AFLOW (`AB_hP4_186_b_b`), names of minerals (`Quartz`) or families (`AB_186_4`); all if
    empty."""
    exclude_prototypes: tuple[str, ...] = ()
    """None of the families of these."""
    required: tuple[str, ...] = ()
    """Elements that each structure must contain."""
    max_species: int = 4
    """Different elements of a structure at most."""
    max_coordination: float | None = None
    """Largest mean number of nearest neighbours of a prototype; any if None. It is 4 in diamond, 6 in rock salt, 12 in
    close packings: most potentials of covalent crystals know nothing of the latter."""
    min_atoms: int = 2
    """Smallest number of atoms in a cell; smaller primitive cells are repeated."""
    max_atoms: int = 24
    """Largest number of atoms in a cell."""
    max_multiple: int = 4
    """Primitive cells in a supercell at most, where fewer reach `min_atoms`."""
    strain: float = 0.03
    """Largest component of a random strain."""
    vacancy_probability: float = 0.0
    """Share of structures with one atom taken out; only where at least `min_atoms` remain. Not for ionic crystals,
    which it would charge."""
    rattle: float = 0.0
    """Å, standard deviation of a random displacement of all atoms."""

    def __post_init__(self) -> None:
        for name in (*self.elements, *self.required, *self.charges):
            if name not in atomic_numbers or name == "X":
                raise ValueError(f"`elements`: {name!r} is not an element's symbol")
        if not self.elements or len(set(self.elements)) < len(self.elements):
            raise ValueError("`elements` must name at least one element, and none twice")
        if not set(self.required) <= set(self.elements):
            raise ValueError(f"`required` must be among `elements`, got {', '.join(self.required)}")
        if not self.sources or not set(self.sources) <= set(SOURCES):
            raise ValueError(f"`sources` must be some of {', '.join(SOURCES)}, got {', '.join(self.sources) or 'none'}")
        if not 1 <= self.min_atoms <= self.max_atoms:
            raise ValueError(f"`min_atoms` must be in 1..max_atoms, got {self.min_atoms}..{self.max_atoms}")
        if self.max_species < 1 or self.max_multiple < 1 or (self.max_coordination or 1) <= 0:
            raise ValueError("`max_species`, `max_multiple` and `max_coordination` must be positive")
        if not 0 <= self.strain < 0.5 or not 0 <= self.vacancy_probability <= 1 or self.rattle < 0:
            raise ValueError("`strain` must be in [0, 0.5), `vacancy_probability` in [0, 1], `rattle` not negative")
        if self.rule == "charges":
            known_charges(self.elements, self.charges)
            if self.vacancy_probability:
                raise ValueError("`vacancy_probability` must be 0 with the rule `charges`: a vacancy would be charged")


@dataclass(frozen=True)
class Compound:
    """A crystal drawn, and where it comes from.

    Attributes:
        atoms: The structure.
        prototype: Label of the known crystal.
        family: Its structure type, under which two sources' versions of one crystal meet.
        parent: Family and reduced formula before vacancies.
        provenance: Package, version and licence of the source.
    """

    atoms: Atoms
    prototype: str
    family: str
    parent: str
    provenance: str


def random_compound(
    config: CompoundConfig, generator: np.random.Generator, calculator: Calculator | None = None
) -> Compound:
    """Draw one crystal: family, member, elements, supercell, strain, vacancy, displacement.

    Args:
        config: What to draw.
        generator: Source of randomness; a calculator makes no difference to what is drawn.
        calculator: Finds the volume of lowest energy of the ideal crystal. Without it, the closest pair is brought to
            the sum of its covalent radii.

    Raises:
        StructureError: Nothing can be drawn, a source is not installed, or the crystal has no volume of lowest energy
            under this calculator: another draw may have.
    """
    families = candidate_crystals(config)
    if not families:
        raise StructureError(
            "no known crystal fits: allow more atoms, species, coordination, elements, sources or prototypes"
        )
    charges = tuple(known_charges(config.elements, config.charges).items()) if config.rule == "charges" else ()
    for _ in range(_DRAWS):
        members = families[int(generator.integers(len(families)))]
        crystal = members[int(generator.integers(len(members)))]
        drawn = _draw_elements(crystal, config, charges, generator)
        multiple = _draw_multiple(len(crystal.atoms), config, generator)
        if drawn is None or multiple is None or not set(config.required) <= set(drawn):
            continue
        return _build(crystal, drawn, multiple, config, generator, calculator)
    raise StructureError(
        f"{_DRAWS} draws gave no crystal with the elements {', '.join(config.elements)} by the rule `{config.rule}`; "
        "allow more elements, charges or prototypes"
    )


def _draw_elements(
    crystal: SourceCrystal, config: CompoundConfig, charges: Charges, generator: np.random.Generator
) -> list[str] | None:
    if config.rule == "charges":
        return charged_elements(crystal, charges, generator)
    draw = any_elements if config.rule == "any" else similar_elements_for
    return draw(crystal, config.elements, generator)


def candidate_crystals(config: CompoundConfig) -> tuple[tuple[SourceCrystal, ...], ...]:
    """The known crystals that fit, by family.

    Raises:
        StructureError: A source is not installed, or a prototype that is named is in none.
    """
    return _families(
        config.sources,
        config.prototypes,
        config.exclude_prototypes,
        (config.max_species, config.max_coordination, config.max_atoms),
    )


@lru_cache(maxsize=64)
def _families(
    sources: tuple[str, ...], wanted: tuple[str, ...], excluded: tuple[str, ...], limits: tuple[int, float | None, int]
) -> tuple[tuple[SourceCrystal, ...], ...]:
    max_species, max_coordination, max_atoms = limits
    every = [crystal for source in sources for crystal in read_source(source, max_atoms)]
    _check_names(sources, every, (*wanted, *excluded))
    chosen = [crystal for crystal in every if not wanted or {crystal.label, crystal.family} & set(wanted)]
    out = {crystal.family for crystal in every if {crystal.label, crystal.family} & set(excluded)}
    families: dict[str, list[SourceCrystal]] = {}
    for crystal in chosen:
        if len(crystal.species) > max_species or crystal.family in out:
            continue
        if max_coordination is None or crystal.coordination <= max_coordination:
            families.setdefault(crystal.family, []).append(crystal)
    return tuple(tuple(families[family]) for family in sorted(families))


def _check_names(sources: tuple[str, ...], crystals: Sequence[SourceCrystal], names: tuple[str, ...]) -> None:
    """Refuse names of no crystal; those of larger ones than are read are no mistake."""
    missing = set(names) - {name for crystal in crystals for name in (crystal.label, crystal.family)}
    if missing:
        every = [crystal for source in sources for crystal in read_source(source, _ALL)]
        missing -= {name for crystal in every for name in (crystal.label, crystal.family)}
    if missing:
        raise StructureError(
            f"no crystal of {', '.join(sources)} is called {', '.join(sorted(missing))}; expected labels of AFLOW such "
            "as AB_hP4_186_b_b, names of minerals such as Halite, or families such as AB_186_4"
        )


def _draw_multiple(n_primitive: int, config: CompoundConfig, generator: np.random.Generator) -> int | None:
    """How many primitive cells: drawn evenly from the numbers that fit; None if none does."""
    fewest = -(-config.min_atoms // n_primitive)
    most = min(config.max_atoms // n_primitive, max(fewest, config.max_multiple))
    return int(generator.integers(fewest, most + 1)) if fewest <= most else None


def _build(
    crystal: SourceCrystal,
    elements: list[str],
    multiple: int,
    config: CompoundConfig,
    generator: np.random.Generator,
    calculator: Calculator | None,
) -> Compound:
    name = dict(zip(crystal.species, elements, strict=True))
    atoms = Atoms(
        [name[symbol] for symbol in crystal.atoms.symbols], crystal.atoms.positions, cell=crystal.atoms.cell, pbc=True
    )
    formula = atoms.symbols.formula.reduce()[0].format("hill")
    primitive = at_bond_lengths(atoms)
    # The supercell is drawn before the volume is known: its shape must not depend on the calculator's last digits.
    atoms = random_supercell(primitive, multiple, generator)
    if calculator is not None:
        lowest = at_lowest_energy(primitive, calculator, f"{formula} as {crystal.label}")
        atoms = stretched(atoms, float(np.cbrt(lowest.cell.volume / primitive.cell.volume)))
    if generator.random() < config.vacancy_probability and len(atoms) > max(config.min_atoms, 1):
        del atoms[int(generator.integers(len(atoms)))]
    atoms = strained(atoms, config.strain, generator)
    if config.rattle:
        atoms = perturb(atoms, config.rattle, generator)
    return Compound(atoms, crystal.label, crystal.family, f"{crystal.family} {formula}", crystal.provenance)
