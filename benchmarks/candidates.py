"""How many structure types, compositions and crystals there are to draw: `python -m benchmarks.candidates`.

Needs the packages of the extra `prototypes`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import permutations, product
from math import gcd

from relaxrl.structures import CompoundConfig
from relaxrl.structures.charges import known_charges
from relaxrl.structures.compounds import candidate_crystals
from relaxrl.structures.similar import similar_elements
from relaxrl.structures.sources import SourceCrystal
from relaxrl.structures.substitution import charge_vectors

HALIDES = ("Li", "Na", "K", "Rb", "Cs", "F", "Cl", "Br", "I")

WHAT = {
    "Si": CompoundConfig(elements=("Si",)),
    "Si, coordination to 4.6": CompoundConfig(elements=("Si",), max_coordination=4.6),
    "Si C (or any two)": CompoundConfig(elements=("Si", "C")),
    "Si C, coordination to 4.6": CompoundConfig(elements=("Si", "C"), max_coordination=4.6),
    "Si C, by site, coordination to 4.6": CompoundConfig(elements=("Si", "C"), max_coordination=4.6, decorate="sites"),
    "B C N, coordination to 4.6": CompoundConfig(elements=("B", "C", "N"), max_coordination=4.6),
    "Si O, charges": CompoundConfig(elements=("Si", "O"), rule="charges"),
    "alkali halides (EIM), charges": CompoundConfig(elements=HALIDES, rule="charges"),
    "oxides of PMMCS, charges": CompoundConfig(rule="charges", charge_table="pmmcs", required=("O",)),
    "all elements (CHGNet), similar": CompoundConfig(rule="similar"),
}


def arrangements(crystal: SourceCrystal, config: CompoundConfig) -> Iterator[tuple[tuple[str, int], ...]]:
    """Elements and their numbers of atoms, for each way to put elements on a crystal."""
    if config.decorate == "sites":
        sites = Counter(crystal.sites)
        for names in product(config.symbols, repeat=len(sites)):
            if len(sites) == 1 or len(set(names)) > 1:
                yield tuple(zip(names, sites.values(), strict=True))
        return
    ways: Iterator[tuple[str, ...]]
    if config.rule == "any":
        ways = permutations(config.symbols, len(crystal.species))
    elif config.rule == "similar":
        fitting = [[name for name in similar_elements(own) if name in config.symbols] for own in crystal.species]
        ways = product(*fitting)
    else:
        charges = known_charges(config.elements, config.charges, config.charge_table)
        vectors = charge_vectors(crystal, tuple(charges.items()))[0]
        ways = (
            names
            for vector in vectors
            for names in product(*[[name for name in charges if charge in charges[name]] for charge in vector])
        )
    for names in ways:
        if len(set(names)) == len(names):
            yield tuple(zip(names, crystal.counts, strict=True))


def count(config: CompoundConfig) -> tuple[int, int, int]:
    """Families, reduced formulas, and pairs of both."""
    families, formulas, pairs = set(), set(), set()
    for crystal in (crystal for members in candidate_crystals(config) for crystal in members):
        for way in arrangements(crystal, config):
            atoms: Counter[str] = Counter()
            for name, number in way:
                atoms[name] += number
            if not set(config.required) <= set(atoms):
                continue
            divisor = gcd(*atoms.values())
            formula = frozenset((name, number // divisor) for name, number in atoms.items())
            ratio = tuple(sorted(number // divisor for number in atoms.values()))
            family = (ratio, crystal.spacegroup, len(crystal.atoms))
            families.add(family)
            formulas.add(formula)
            pairs.add((family, formula))
    return len(families), len(formulas), len(pairs)


def main() -> None:
    """Print a table in Markdown."""
    print("| elements and rule | families | reduced formulas | both |\n| --- | --- | --- | --- |")
    for name, config in WHAT.items():
        print(f"| {name} | {' | '.join(map(str, count(config)))} |", flush=True)


if __name__ == "__main__":
    main()
