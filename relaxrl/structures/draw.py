"""One crystal, whatever kind of configuration it is drawn from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from relaxrl.structures.alloys import AlloyConfig, random_alloy
from relaxrl.structures.compounds import CompoundConfig, random_compound
from relaxrl.structures.random_crystals import RandomCrystalConfig, parse_formula, random_crystal

SOURCE_KEY = "relaxrl_source"
"""Key of `atoms.info` under which files carry package, version and licence that a crystal's coordinates come from."""

Drawable = AlloyConfig | CompoundConfig | RandomCrystalConfig
"""What crystals can be drawn from."""


@dataclass(frozen=True)
class Drawn:
    """A crystal to begin with.

    Attributes:
        atoms: The structure.
        parent: Name of the crystal it is a variant of; sets are split by it.
        prototype: Name of its structure type.
        source: Package, version and licence that its coordinates come from; empty for those of this package.
    """

    atoms: Atoms
    parent: str
    prototype: str
    source: str = ""


def elements_of(config: Drawable) -> tuple[str, ...]:
    """Symbols of all elements that may be drawn; of alloys with named compounds, also of these."""
    if isinstance(config, RandomCrystalConfig):
        return tuple(sorted({symbol for formula in config.formulas for symbol in parse_formula(formula)}))
    if isinstance(config, CompoundConfig):
        return config.symbols
    named = {symbol for compound in config.compounds for symbol in compound.split()[1:]}
    return tuple(sorted(named or config.elements))


def draw(config: Drawable, generator: np.random.Generator, calculator: Calculator | None = None) -> Drawn:
    """Draw one crystal.

    Args:
        config: What to draw.
        generator: Source of randomness; a calculator makes no difference to what is drawn.
        calculator: Finds the volume; that of random crystals is drawn.

    Raises:
        StructureError: Nothing can be drawn; or, with a calculator alone, the crystal drawn has no volume of lowest
            energy, and another draw may do.
    """
    if isinstance(config, AlloyConfig):
        alloy = random_alloy(config, generator, calculator)
        return Drawn(alloy.atoms, alloy.parent, alloy.prototype)
    if isinstance(config, RandomCrystalConfig):
        formula, multiple = config.draw_size(generator)
        atoms = random_crystal(formula, multiple, generator, config)
        return Drawn(atoms, f"random {atoms.symbols.formula.reduce()[0].format('hill')}", "random")
    compound = random_compound(config, generator, calculator)
    return Drawn(compound.atoms, compound.parent, compound.prototype, compound.provenance)
