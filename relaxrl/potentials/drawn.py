"""Potentials drawn at random: for training on surfaces that no potential in the literature has.

Two published potentials of the same elements differ in stiffness by up to a factor of two, and most pairs of elements
have none. What is trained on a few of them takes their peculiarities for nature's.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from ase.data import atomic_numbers, covalent_radii

from relaxrl.errors import CalculatorError
from relaxrl.potentials.stillinger_weber import NAMES, StillingerWeberForm
from relaxrl.potentials.triplet_file import TripletParameters

SILICON = 2.17
"""eV; depth of a bond as long as silicon's, before anything is drawn."""
SILICON_LENGTH = 2.22
"""Å; sum of the covalent radii."""
BOND_LENGTH = 0.8909
"""sigma over the length of a bond, in Stillinger's and Weber's form with a reach of 1.8 sigma."""
LAST = 96
"""Curium; of heavier elements ASE knows no covalent radius."""
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

    def __init__(self, elements: Sequence[str], seed: int = 0, skin: float = 0.5) -> None:
        unknown = [symbol for symbol in elements if not 0 < atomic_numbers.get(symbol, 0) <= LAST]
        if unknown or not elements or len(set(elements)) < len(elements):
            raise CalculatorError(f"expected `elements` as different symbols, ['Zn','S'], got {list(elements)}")
        parameters = _drawn(list(elements), np.random.default_rng([seed, *sorted(atomic_numbers[e] for e in elements)]))
        super().__init__(f"drawn-sw of {'-'.join(elements)}, seed {seed}", parameters, skin)


def _drawn(elements: list[str], generator: np.random.Generator) -> TripletParameters:
    bonds: dict[tuple[str, str], tuple[float, float]] = {}
    for first, second in product(sorted(elements), repeat=2):
        if first > second:
            continue
        length = covalent_radii[atomic_numbers[first]] + covalent_radii[atomic_numbers[second]]
        depth = SILICON * (SILICON_LENGTH / length) ** 1.5 * generator.uniform(0.6, 1.6)
        sigma = BOND_LENGTH * length * generator.uniform(0.96, 1.06)
        if first == second and len(elements) > 1:
            depth, sigma = depth * generator.uniform(*ALIKE), sigma * generator.uniform(0.95, 1.1)
        bonds[first, second] = bonds[second, first] = (depth, sigma)
    stiffness, reach = generator.uniform(15, 42), generator.choice([1.7, 1.8, 1.8, 1.9])
    rows = []
    for centre, one, other in product(elements, repeat=3):
        (depth, sigma), (depth_2, sigma_2) = bonds[centre, one], bonds[centre, other]
        mean = (np.sqrt(depth * depth_2), np.sqrt(sigma * sigma_2))
        rows.append([*mean, reach, stiffness, 1.2, -1 / 3, 7.049556277, 0.6022245584, 4.0, 0.0, 0.0])
    values = torch.tensor(rows, dtype=torch.float64)
    return TripletParameters(tuple(atomic_numbers[symbol] for symbol in elements), values, NAMES)
