"""Potentials drawn at random: for training on surfaces that no potential in the literature has.

Two published potentials of the same elements differ in stiffness by up to a factor of two, and most pairs of elements
have none. What is trained on a few of them takes their peculiarities for nature's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement, product

import numpy as np
import torch
from ase.data import atomic_numbers, covalent_radii

from relaxrl.errors import CalculatorError
from relaxrl.potentials import stillinger_weber, tersoff
from relaxrl.potentials.stillinger_weber import StillingerWeberForm
from relaxrl.potentials.tersoff import TersoffForm
from relaxrl.potentials.triplet_file import TripletParameters

LAST = 96
"""Curium; of heavier elements ASE knows no covalent radius."""
SILICON_LENGTH = 2.22
"""Å; sum of the covalent radii of two silicon atoms."""
ALIKE = (0.3, 1.0)
"""Depth of bonds between two of a kind in a compound, in units of what the lengths say."""


class DrawnStillingerWeber(StillingerWeberForm):
    """A potential of Stillinger's and Weber's form with parameters drawn around what the elements' sizes say.

    Bonds are 0.9 to 1.1 times as long as the covalent radii say, those between two of a kind in a compound up to 1.2
    times; their depth falls with their length to the power of 1.5, times 0.5 to 2, and is less between two of a kind;
    angles are as stiff as in the potentials of the literature (lambda from 15 to 42).

    Args:
        elements: Symbols.
        seed: Decides all that is drawn.
        skin: Å; see `TorchPotential`.

    Raises:
        CalculatorError: An element or its covalent radius is unknown, or it is given twice.

    Examples:
        >>> potential = DrawnStillingerWeber(["Zn", "S"], seed=3)
        >>> sorted(potential.elements)
        [16, 30]
    """

    BOND_LENGTH = 0.8909
    """sigma over the length of a bond, with a reach of 1.8 sigma."""

    def __init__(self, elements: Sequence[str], seed: int = 0, skin: float = 0.5) -> None:
        generator = _generator(elements, seed)
        bonds = {}
        for pair, length in _lengths(elements):
            depth = 2.17 * (SILICON_LENGTH / length) ** 1.5 * generator.uniform(0.6, 1.6)
            sigma = self.BOND_LENGTH * length * generator.uniform(0.96, 1.06)
            if len(pair) == 1 < len(elements):
                depth, sigma = depth * generator.uniform(*ALIKE), sigma * generator.uniform(0.95, 1.1)
            bonds[pair] = (depth, sigma)
        stiffness, reach = generator.uniform(15, 42), generator.choice([1.7, 1.8, 1.8, 1.9])
        rows = []
        for centre, one, other in product(elements, repeat=3):
            (depth, sigma), (depth_2, sigma_2) = bonds[frozenset((centre, one))], bonds[frozenset((centre, other))]
            mean = (np.sqrt(depth * depth_2), np.sqrt(sigma * sigma_2))
            rows.append([*mean, reach, stiffness, 1.2, -1 / 3, 7.049556277, 0.6022245584, 4.0, 0.0, 0.0])
        name = f"drawn-sw of {'-'.join(elements)}, seed {seed}"
        super().__init__(name, _table(elements, rows, stillinger_weber.NAMES), skin)


class DrawnTersoff(TersoffForm):
    """A potential of Tersoff's form with parameters drawn around those of silicon, germanium and carbon.

    Pairs are Morse-like, with the depth, length, steepness and ratio of exponents of two atoms alone: length 0.97 to
    1.09 times the sum of the covalent radii; depth and steepness fall with it, times 0.6 to 1.6 and 0.85 to 1.15. How
    angles and competing bonds weaken a bond is drawn for each element. Bonds end at 1.2 to 1.4 times their length.

    Args:
        elements: Symbols.
        seed: Decides all that is drawn.
        skin: Å; see `TorchPotential`.

    Raises:
        CalculatorError: An element or its covalent radius is unknown, or it is given twice.

    References:
        The parameters in terms of a dimer: D. W. Brenner, Phys. Rev. B 42, 9458 (1990),
        doi:10.1103/PhysRevB.42.9458.
    """

    def __init__(self, elements: Sequence[str], seed: int = 0, skin: float = 0.5) -> None:
        generator = _generator(elements, seed)
        pairs, ranges = {}, {}
        for pair, radii in _lengths(elements):
            length = radii * generator.uniform(0.97, 1.09)
            depth = 2.66 * (SILICON_LENGTH / radii) ** 1.5 * generator.uniform(0.6, 1.6)
            steepness = 1.4655 * (SILICON_LENGTH / radii) ** 0.8 * generator.uniform(0.85, 1.15)
            ratio = generator.uniform(1.35, 1.6)
            if len(pair) == 1 < len(elements):
                depth *= generator.uniform(*ALIKE)
            repulsive, attractive = steepness * np.sqrt(2 * ratio), steepness * np.sqrt(2 / ratio)
            strength = depth / (ratio - 1)
            a, b = strength * np.exp(repulsive * length), ratio * strength * np.exp(attractive * length)
            pairs[pair] = (attractive, b, repulsive, a)
            ranges[pair] = (1.22 * length * generator.uniform(0.98, 1.08), 0.06 * length)
        competition = {}
        for symbol in sorted(elements):
            width, cosine = 16 * generator.uniform(0.85, 1.15), generator.uniform(-0.65, -0.35)
            competition[symbol] = (
                width,
                cosine,
                generator.uniform(0.7, 1.0),
                1e-6 * np.exp(generator.uniform(-0.7, 0.7)),
            )
        rows = []
        for centre, one, other in product(elements, repeat=3):
            attractive, b, repulsive, a = pairs[frozenset((centre, one))]
            middle, width = ranges[frozenset((centre, other))]
            d, h, n, beta = competition[centre]
            rows.append([3.0, 1.0, 0.0, 1e5, d, h, n, beta, attractive, b, middle, width, repulsive, a])
        name = f"drawn-tersoff of {'-'.join(elements)}, seed {seed}"
        super().__init__(name, _table(elements, rows, tersoff.NAMES), skin)


def _generator(elements: Sequence[str], seed: int) -> np.random.Generator:
    """Depends on which elements there are, not on their order."""
    unknown = [symbol for symbol in elements if not 0 < atomic_numbers.get(symbol, 0) <= LAST]
    if unknown or not elements or len(set(elements)) < len(elements):
        raise CalculatorError(f"expected `elements` as different symbols, ['Zn','S'], got {list(elements)}")
    return np.random.default_rng([seed, *sorted(atomic_numbers[symbol] for symbol in elements)])


def _lengths(elements: Sequence[str]) -> Iterator[tuple[frozenset[str], float]]:
    """All pairs, and the sums of their covalent radii, Å."""
    for first, second in combinations_with_replacement(sorted(elements), 2):
        yield (
            frozenset((first, second)),
            float(covalent_radii[atomic_numbers[first]] + covalent_radii[atomic_numbers[second]]),
        )


def _table(elements: Sequence[str], rows: list[list[float]], names: tuple[str, ...]) -> TripletParameters:
    values = torch.tensor(rows, dtype=torch.float64)
    return TripletParameters(tuple(atomic_numbers[symbol] for symbol in elements), values, names)
