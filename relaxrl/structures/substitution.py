"""Which elements may stand on the sites of a known crystal."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from math import perm, prod

import numpy as np

from relaxrl.structures.similar import similar_elements
from relaxrl.structures.sources import SourceCrystal

_MAX_SPECIES = 5
"""Crystals with more species are left out: there are few, and too many ways to charge their sites."""

Charges = tuple[tuple[str, tuple[int, ...]], ...]
"""Symbols and the formal charges that each may have."""


def any_elements(crystal: SourceCrystal, elements: Sequence[str], generator: np.random.Generator) -> list[str] | None:
    """Different elements for the species, drawn evenly from all arrangements; None if there are too few."""
    if len(crystal.species) > len(elements):
        return None
    drawn = generator.choice(len(elements), size=len(crystal.species), replace=False)
    return [elements[int(k)] for k in drawn]


def any_elements_on_sites(
    crystal: SourceCrystal, elements: Sequence[str], generator: np.random.Generator
) -> dict[str, str] | None:
    """An element for each Wyckoff position, two different ones at least; None if there are too few of either.

    With one element, a crystal of another type might come out: diamond, of zincblende.
    """
    sites = tuple(dict.fromkeys(crystal.sites))
    if len(sites) == 1:
        drawn = [int(generator.integers(len(elements)))]
    elif len(elements) == 1:
        return None
    else:
        drawn = [0] * len(sites)
        while len(set(drawn)) == 1:
            drawn = generator.integers(len(elements), size=len(sites)).tolist()
    return {site: elements[k] for site, k in zip(sites, drawn, strict=True)}


def similar_elements_for(
    crystal: SourceCrystal, elements: Sequence[str], generator: np.random.Generator
) -> list[str] | None:
    """For each species itself or an element like it, all different; None if one has none among these elements."""
    drawn: list[str] = []
    for symbol in crystal.species:
        fitting = [name for name in similar_elements(symbol) if name in elements and name not in drawn]
        if not fitting:
            return None
        drawn.append(fitting[int(generator.integers(len(fitting)))])
    return drawn


def charged_elements(crystal: SourceCrystal, charges: Charges, generator: np.random.Generator) -> list[str] | None:
    """Elements such that charges add up to zero and nearest neighbours attract each other; None if there are none.

    All arrangements are equally likely.
    """
    vectors, weights = charge_vectors(crystal, charges)
    if not vectors:
        return None
    by_charge = _by_charge(charges)
    vector = vectors[int(generator.choice(len(vectors), p=np.array(weights) / sum(weights)))]
    drawn: list[str] = []
    for charge in vector:
        left = [name for name in by_charge[charge] if name not in drawn]
        if not left:
            return None
        drawn.append(left[int(generator.integers(len(left)))])
    return drawn


def charge_vectors(crystal: SourceCrystal, charges: Charges) -> tuple[list[tuple[int, ...]], list[int]]:
    """Charges of the species that are possible, and how many arrangements of elements have each."""
    if not 2 <= len(crystal.species) <= _MAX_SPECIES:
        return [], []
    return _charge_vectors(crystal.counts, crystal.contacts, charges)


@lru_cache(maxsize=65536)
def _charge_vectors(
    counts: tuple[int, ...], contacts: frozenset[tuple[int, int]], charges: Charges
) -> tuple[list[tuple[int, ...]], list[int]]:
    by_charge = _by_charge(charges)
    every = np.stack(np.meshgrid(*[sorted(by_charge)] * len(counts), indexing="ij"), axis=-1).reshape(-1, len(counts))
    allowed = every @ np.array(counts) == 0
    for i, j in contacts:
        allowed &= every[:, i] * every[:, j] < 0
    vectors, weights = [], []
    for vector in map(tuple, every[allowed].tolist()):
        weight = prod(perm(len(names), vector.count(charge)) for charge, names in by_charge.items())
        if weight:
            vectors.append(vector)
            weights.append(weight)
    return vectors, weights


@cache
def _by_charge(charges: Charges) -> dict[int, tuple[str, ...]]:
    found: dict[int, list[str]] = {}
    for name, states in charges:
        for charge in states:
            found.setdefault(charge, []).append(name)
    return {charge: tuple(names) for charge, names in found.items()}
