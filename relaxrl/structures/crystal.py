"""A structure with a name and a family, sets of them, and the random displacement that episodes start from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, overload

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from numpy.typing import ArrayLike

from relaxrl.errors import StructureError
from relaxrl.potentials import CALCULATOR_KEY
from relaxrl.structures.check import close_pairs
from relaxrl.typing import FloatArray

Kind = Literal["minimum", "start"]

KIND_KEY = "relaxrl_kind"
PARENT_KEY = "relaxrl_parent"
MINIMUM_ENERGY_KEY = "relaxrl_minimum_energy"
"""Keys of `atoms.info` under which files carry what `Crystal` knows beyond the atoms."""

MIN_SEPARATION = 0.7
"""Closest pair after a random displacement, as a fraction of the sum of covalent radii: below it energies explode."""

_REDRAWS = 200
"""Attempts to move apart atoms that a random displacement has pushed together."""


@dataclass(frozen=True)
class Crystal:
    """A structure that an episode or a comparison begins with.

    Attributes:
        id: `FILE#INDEX`, FILE as the user wrote it and INDEX counted from 0; unique within a set.
        atoms: The structure, with its `info` and constraints, without a calculator. Copy it before changing it.
        parent: Name of the crystal it descends from; sets are split by it, so that variants never part.
        kind: "minimum": relaxed, has to be displaced before it is of use; "start": unrelaxed, to be taken as it is.
        calculator: What it is a minimum of, or to be relaxed under, as `parse_calculator` reads it; None where the file
            doesn't say. It stands in the atoms' info, too, so that copies of them know it.
    """

    id: str
    atoms: Atoms
    parent: str
    kind: Kind = "start"
    calculator: str | None = None

    def __post_init__(self) -> None:
        known = self.atoms.info.get(CALCULATOR_KEY)
        if self.calculator is None:
            object.__setattr__(self, "calculator", known or None)
        elif self.calculator != known:
            atoms = self.atoms.copy()
            atoms.calc = self.atoms.calc
            atoms.info[CALCULATOR_KEY] = self.calculator
            object.__setattr__(self, "atoms", atoms)

    @property
    def minimum_energy(self) -> float | None:
        """Energy in eV of the minimum that the structure belongs to, where the set that holds it knows one."""
        energy = self.atoms.info.get(MINIMUM_ENERGY_KEY)
        return None if energy is None else float(energy)


class StructureSet(Sequence[Crystal]):
    """Crystals and how often to draw each of them.

    Args:
        crystals: At least one; ids must differ.
        weights: (n_crystals,), not negative, relative; equal if None.

    Raises:
        StructureError: There are no crystals, or two have one id.
        ValueError: The weights do not fit.

    Examples:
        >>> a, b = (Crystal(f"two.xyz#{k}", Atoms("Cu"), parent=f"copper {k}") for k in range(2))
        >>> crystals = StructureSet([a, b], weights=[0.0, 1.0])
        >>> crystals.sample(np.random.default_rng(0)).id
        'two.xyz#1'
    """

    def __init__(self, crystals: Sequence[Crystal], weights: ArrayLike | None = None) -> None:
        if not crystals:
            raise StructureError("a set needs at least one structure, got none")
        self._crystals = tuple(crystals)
        seen: set[str] = set()
        for crystal in self._crystals:
            if crystal.id in seen:
                raise StructureError(f"two structures of the set are called {crystal.id!r}; was a file given twice?")
            seen.add(crystal.id)
        self.weights = np.ones(len(self)) if weights is None else weights

    @property
    def weights(self) -> FloatArray:
        """(n_crystals,), relative frequency of each crystal in `sample`; a copy."""
        return self._weights.copy()

    @weights.setter
    def weights(self, weights: ArrayLike) -> None:
        values = np.array(weights, dtype=np.float64)
        if values.shape != (len(self),):
            raise ValueError(f"`weights` must have shape (n_crystals={len(self)},), got {values.shape}")
        if not np.isfinite(values).all() or (values < 0).any() or values.sum() <= 0:
            raise ValueError("`weights` must be finite and not negative, and not all of them zero")
        self._weights = values

    def __len__(self) -> int:
        return len(self._crystals)

    @overload
    def __getitem__(self, index: int) -> Crystal: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Crystal]: ...
    def __getitem__(self, index: int | slice) -> Crystal | Sequence[Crystal]:
        return self._crystals[index]

    def __iter__(self) -> Iterator[Crystal]:
        return iter(self._crystals)

    def sample(self, generator: np.random.Generator) -> Crystal:
        """A crystal drawn with the probabilities weights / sum(weights)."""
        return self._crystals[int(generator.choice(len(self), p=self._weights / self._weights.sum()))]

    def split(self, fractions: Mapping[str, float], generator: np.random.Generator) -> dict[str, StructureSet]:
        """Parts that share no parent; see `split_by_parent`. Weights go along."""
        weight = {crystal.id: value for crystal, value in zip(self, self._weights, strict=True)}
        parts = split_by_parent(self._crystals, fractions, generator)
        return {
            name: StructureSet(part, [weight[crystal.id] for crystal in part]) for name, part in parts.items() if part
        }


def split_by_parent(
    crystals: Sequence[Crystal], fractions: Mapping[str, float], generator: np.random.Generator
) -> dict[str, list[Crystal]]:
    """Parts of a set such that all crystals with one parent are in the same part.

    Parents are dealt out in random order, each to the part that lacks most of its share; so shares of crystals are met
    as well as the sizes of the families allow.

    Args:
        crystals: The set.
        fractions: Share of each part by name; they must sum to 1.
        generator: Decides the order of parents.

    Returns:
        The crystals of each part, in their original order.

    Raises:
        ValueError: The fractions are negative or don't sum to 1.
    """
    shares = dict(fractions)
    if not shares or min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"`fractions` must not be negative and must sum to 1, got {shares}")
    families: dict[str, int] = {}
    for crystal in crystals:
        families[crystal.parent] = families.get(crystal.parent, 0) + 1
    names = list(families)
    filled = dict.fromkeys(shares, 0)
    home: dict[str, str] = {}
    for k in generator.permutation(len(names)):
        parent = names[int(k)]
        part = max(shares, key=lambda name: shares[name] * len(crystals) - filled[name])
        home[parent] = part
        filled[part] += families[parent]
    return {name: [crystal for crystal in crystals if home[crystal.parent] == name] for name in shares}


def perturb(
    atoms: Atoms,
    rattle: float | tuple[float, float],
    generator: np.random.Generator,
    min_separation: float = MIN_SEPARATION,
) -> Atoms:
    """A copy with each free atom displaced at random.

    Every component of every displacement is normal with mean 0. Atoms that come too close are drawn again, alone, so
    that large cells, where some pair always collides, are displaced as strongly as small ones. Constraints hold.

    Args:
        atoms: The structure; left as it is.
        rattle: Standard deviation, Å; or its lowest and highest value, between which it is drawn once per call.
        generator: Source of randomness.
        min_separation: No pair comes closer than this fraction of the sum of its covalent radii; or than 0.9 of the
            closest pair's fraction before, if that is less.

    Raises:
        ValueError: `rattle` is negative or its range is upside down.
        StructureError: No displacement without close pairs was found.
    """
    low, high = (rattle, rattle) if isinstance(rattle, int | float) else rattle
    if not 0 <= low <= high:
        raise ValueError(f"`rattle` must be at least 0 and its range in order, got {rattle}")
    scale = low if low == high else generator.uniform(low, high)
    moved = atoms.copy()
    if scale == 0:
        return moved
    displacement = generator.normal(0.0, scale, size=(len(atoms), 3))
    bound = min(min_separation, 0.9 * _smallest_ratio(atoms, min_separation))
    for _ in range(_REDRAWS):
        moved.positions[:] = atoms.positions
        moved.set_positions(atoms.positions + displacement, apply_constraint=True)
        crowded = _crowded(moved, bound)
        if len(crowded) == 0:
            return moved
        displacement[crowded] = generator.normal(0.0, scale, size=(len(crowded), 3))
    raise StructureError(
        f"no random displacement of {scale:.3f} Å keeps the atoms of {atoms.get_chemical_formula()} apart "
        f"({bound:.2f} of the sum of covalent radii); use a smaller rattle"
    )


def _ratios(atoms: Atoms, bound: float) -> tuple[np.ndarray, np.ndarray, FloatArray]:
    radii = covalent_radii[atoms.numbers]
    i, j, distance = close_pairs(atoms, bound * 2 * float(radii.max()))
    return i, j, distance / (radii[i] + radii[j])


def _smallest_ratio(atoms: Atoms, bound: float) -> float:
    ratio = _ratios(atoms, bound / 0.9)[2]
    return float(ratio.min(initial=np.inf))


def _crowded(atoms: Atoms, bound: float) -> np.ndarray:
    """Indices of the atoms that are closer to another than allowed; an atom's own images don't count."""
    i, j, ratio = _ratios(atoms, bound)
    close = (ratio < bound) & (i != j)
    return np.unique(np.concatenate([i[close], j[close]]))
