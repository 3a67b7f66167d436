"""Known crystals with other elements: a prototype or mineral, substituted, brought to its volume, strained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
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
from relaxrl.structures.similar import SIMILAR
from relaxrl.structures.sources import SOURCES, SourceCrystal, family_of, read_source
from relaxrl.structures.substitution import (
    Charges,
    any_elements,
    any_elements_on_sites,
    charged_elements,
    similar_elements_for,
)
from relaxrl.structures.volume import at_bond_lengths, at_lowest_energy, stretched

Rule = Literal["any", "charges", "similar"]

_UNSEEN = 26
"""Of 256: one family in ten."""

_ALL = 10_000
"""More atoms than any known crystal has in its primitive cell."""

_DRAWS = 1000
"""Draws of prototype and elements before a configuration is declared impossible."""


@configclass
class CompoundConfig:
    """Which known crystals to draw, and which elements to put on their sites."""

    elements: tuple[str, ...] = ()
    """Symbols to draw from; must be known to the calculator. If empty, all of the table of charges, or all that other
    elements are similar to."""
    rule: Rule = "any"
    """How: `any` puts different elements on the species at random, for covalent potentials of few elements; `charges`
    only such that formal charges add up to zero and nearest neighbours are of opposite sign, for ionic ones; `similar`
    keeps each element or takes one of like size and charge, for potentials that know nearly all elements."""
    decorate: Literal["species", "sites"] = "species"
    """What gets one element: all sites of one species, or each Wyckoff position by itself, which makes other crystals
    of the same coordinates, of two elements at least; for the rule `any`, and of use with AFLOW's alone, since the
    positions of minerals are not known."""
    charges: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Oxidation states by symbol, where they are others than in the table; for the rule `charges`."""
    charge_table: Literal["common", "pmmcs"] = "common"
    """Where the other oxidation states are from: those common in solids, or those of the potential PMMCS."""
    sources: tuple[str, ...] = ("aflow", "minerals")
    """Where the crystals come from."""
    prototypes: tuple[str, ...] = ()
    """Only these: labels of AFLOW (`AB_hP4_186_b_b`), names of minerals and compounds (`Wurtzite`) or families
    (`AB_186_4`); all if empty."""
    exclude_prototypes: tuple[str, ...] = ()
    """None of the families of these."""
    families: Literal["all", "seen", "unseen"] = "all"
    """`unseen` are one family in ten, `seen` the others, told apart by a hash of their name: the same in all sets, so
    that tests can have structure types that no training has met."""
    required: tuple[str, ...] = ()
    """Elements that each structure must contain."""
    max_species: int = 4
    """Different elements of a structure at most."""
    max_coordination: float | None = None
    """Largest mean number of nearest neighbours of a prototype; any if None. It is 4 in diamond, 6 in rock salt, 12 in
    close packings: most potentials of covalent crystals know nothing of the latter."""
    min_coordination: float | None = None
    """Smallest one; any if None. Networks of fewer bonds than some 2.4 an atom are floppy under short-ranged
    potentials: they have no stiff minima."""
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
        if (self.rule == "any" and not self.elements) or len(set(self.elements)) < len(self.elements):
            raise ValueError("`elements` must name at least one element, and none twice")
        if not set(self.required) <= set(self.symbols):
            raise ValueError(f"`required` must be among `elements`, got {', '.join(self.required)}")
        if self.decorate == "sites" and self.rule != "any":
            raise ValueError(f"`decorate: sites` goes with the rule `any`, got `{self.rule}`")
        if not self.sources or not set(self.sources) <= set(SOURCES):
            raise ValueError(f"`sources` must be some of {', '.join(SOURCES)}, got {', '.join(self.sources) or 'none'}")
        if not 1 <= self.min_atoms <= self.max_atoms:
            raise ValueError(f"`min_atoms` must be in 1..max_atoms, got {self.min_atoms}..{self.max_atoms}")
        if self.max_species < 1 or self.max_multiple < 1 or (self.max_coordination or 1) <= 0:
            raise ValueError("`max_species`, `max_multiple` and `max_coordination` must be positive")
        if (self.min_coordination or 0) > (self.max_coordination or np.inf):
            raise ValueError("`min_coordination` must not be above `max_coordination`")
        if not 0 <= self.strain < 0.5 or not 0 <= self.vacancy_probability <= 1 or self.rattle < 0:
            raise ValueError("`strain` must be in [0, 0.5), `vacancy_probability` in [0, 1], `rattle` not negative")
        if self.rule == "charges":
            known_charges(self.elements, self.charges, self.charge_table)
            if self.vacancy_probability:
                raise ValueError("`vacancy_probability` must be 0 with the rule `charges`: a vacancy would be charged")

    @property
    def symbols(self) -> tuple[str, ...]:
        """Elements to draw from."""
        if self.rule == "charges":
            return tuple(known_charges(self.elements, self.charges, self.charge_table))
        return self.elements or tuple(SIMILAR)


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
    charges: Charges = ()
    if config.rule == "charges":
        charges = tuple(known_charges(config.elements, config.charges, config.charge_table).items())
    for _ in range(_DRAWS):
        members = families[int(generator.integers(len(families)))]
        crystal = members[int(generator.integers(len(members)))]
        drawn = _draw_elements(crystal, config, charges, generator)
        multiple = _draw_multiple(len(crystal.atoms), config, generator)
        if drawn is None or multiple is None or not set(config.required) <= set(drawn.values()):
            continue
        atoms = _decorated(crystal, drawn, config)
        # Elements by site make crystals of other families than that of the known one.
        if config.families in ("all", fold(family_of(atoms, crystal.spacegroup))):
            return _build(crystal, atoms, multiple, config, generator, calculator)
    raise StructureError(
        f"{_DRAWS} draws gave no crystal with the elements {', '.join(config.symbols)} by the rule `{config.rule}`; "
        "allow more elements, charges or prototypes"
    )


def _draw_elements(
    crystal: SourceCrystal, config: CompoundConfig, charges: Charges, generator: np.random.Generator
) -> dict[str, str] | None:
    """The element of each species or site; None if there are none that fit."""
    if config.decorate == "sites":
        return any_elements_on_sites(crystal, config.symbols, generator)
    if config.rule == "charges":
        drawn = charged_elements(crystal, charges, generator)
    else:
        draw = any_elements if config.rule == "any" else similar_elements_for
        drawn = draw(crystal, config.symbols, generator)
    return None if drawn is None else dict(zip(crystal.species, drawn, strict=True))


def candidate_crystals(config: CompoundConfig) -> tuple[tuple[SourceCrystal, ...], ...]:
    """The known crystals that fit, by family.

    Raises:
        StructureError: A source is not installed, or a prototype that is named is in none.
    """
    return _families(
        config.sources,
        config.prototypes,
        config.exclude_prototypes,
        config.families,
        (config.max_species, config.max_atoms),
        (config.min_coordination or 0.0, config.max_coordination or np.inf),
    )


@lru_cache(maxsize=64)
def _families(
    sources: tuple[str, ...],
    wanted: tuple[str, ...],
    excluded: tuple[str, ...],
    part: str,
    limits: tuple[int, int],
    coordination: tuple[float, float],
) -> tuple[tuple[SourceCrystal, ...], ...]:
    max_species, max_atoms = limits
    every = [crystal for source in sources for crystal in read_source(source, max_atoms)]
    _check_names(sources, every, (*wanted, *excluded))
    chosen = [crystal for crystal in every if not wanted or _names(crystal) & set(wanted)]
    out = {crystal.family for crystal in every if _names(crystal) & set(excluded)}
    families: dict[str, list[SourceCrystal]] = {}
    for crystal in chosen:
        if len(crystal.species) > max_species or crystal.family in out or part not in ("all", fold(crystal.family)):
            continue
        if coordination[0] <= crystal.coordination <= coordination[1]:
            families.setdefault(crystal.family, []).append(crystal)
    return tuple(tuple(families[family]) for family in sorted(families))


def fold(family: str) -> str:
    """`unseen` for one family in ten, else `seen`; by its name alone.

    Examples:
        >>> fold("AB_225_2"), fold("A2B_136_6")
        ('seen', 'seen')
    """
    return "unseen" if sha256(family.encode()).digest()[0] < _UNSEEN else "seen"


def _names(crystal: SourceCrystal) -> set[str]:
    return {crystal.label, crystal.name, crystal.family}


def _check_names(sources: tuple[str, ...], crystals: Sequence[SourceCrystal], names: tuple[str, ...]) -> None:
    """Refuse names of no crystal; those of larger ones than are read are no mistake."""
    missing = set(names).difference(*map(_names, crystals))
    if missing:
        every = [crystal for source in sources for crystal in read_source(source, _ALL)]
        missing = missing.difference(*map(_names, every))
    if missing:
        raise StructureError(
            f"no crystal of {', '.join(sources)} is called {', '.join(sorted(missing))}; expected labels of AFLOW such "
            "as AB_hP4_186_b_b, names of minerals such as Halite or families such as AB_186_4"
        )


def _draw_multiple(n_primitive: int, config: CompoundConfig, generator: np.random.Generator) -> int | None:
    """How many primitive cells: drawn evenly from the numbers that fit; None if none does."""
    fewest = -(-config.min_atoms // n_primitive)
    most = min(config.max_atoms // n_primitive, max(fewest, config.max_multiple))
    return int(generator.integers(fewest, most + 1)) if fewest <= most else None


def _decorated(crystal: SourceCrystal, elements: dict[str, str], config: CompoundConfig) -> Atoms:
    """The primitive cell with these elements on its species or sites."""
    slots = crystal.sites if config.decorate == "sites" else crystal.atoms.get_chemical_symbols()
    return Atoms([elements[slot] for slot in slots], crystal.atoms.positions, cell=crystal.atoms.cell, pbc=True)


def _build(
    crystal: SourceCrystal,
    atoms: Atoms,
    multiple: int,
    config: CompoundConfig,
    generator: np.random.Generator,
    calculator: Calculator | None,
) -> Compound:
    family = family_of(atoms, crystal.spacegroup)
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
    return Compound(atoms, crystal.label, family, f"{family} {formula}", crystal.provenance)
