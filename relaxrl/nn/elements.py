"""What a network knows of an element: tabulated properties, so that elements never trained on have neighbours too."""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Mapping
from importlib import resources

import torch
from torch import Tensor, nn

MAX_ATOMIC_NUMBER = 118

_PERIODIC = ("period", "valence_electrons", "d_electrons", "f_electrons")
_MEASURED = ("covalent_radius", "electronegativity", "atomization_enthalpy", "log_polarizability")
_BLOCKS = ("s", "p", "d", "f")
PROPERTY_NAMES = (*_PERIODIC, *_MEASURED, *(f"block_{block}" for block in _BLOCKS))
"""Columns of `property_table`."""
ESTIMATED: dict[str, dict[int, float]] = {
    "electronegativity": {
        2: 4.160,
        10: 4.787,
        18: 3.242,
        36: 2.966,
        61: 1.155,
        63: 1.185,
        65: 1.21,
        70: 1.125,
    },
    "atomization_enthalpy": {2: 0.0, 10: 0.0, 18: 0.0, 36: 0.0, 54: 0.0, 61: 267.0},
}
"""By column and atomic number, where the database has nothing. Electronegativities of noble gases are Allen's
(doi:10.1021/ja00207a003); noble gases are atoms in their standard state; lanthanides lie between their two neighbours,
those of the table."""


@functools.cache
def covalent_radii() -> tuple[float, ...]:
    """Covalent radius of each atomic number, Å; entry 0 stands for no element and holds 1.

    References:
        Pyykkö and Atsumi, Chem. Eur. J. 15, 186 (2009), doi:10.1002/chem.200800987.
    """
    return (1.0, *(float(row["covalent_radius"]) for row in _rows()))


@functools.cache
def property_table() -> tuple[tuple[float, ...], ...]:
    """Standardised properties of all elements, (119, len(PROPERTY_NAMES)); row 0 stands for no element.

    Each measured or counted column has mean 0 and standard deviation 1 over the elements whose value was measured. No
    element up to bismuth lacks one: what is not measured is estimated, see `ESTIMATED`; beyond, a missing value becomes
    the mean. The values come from the `mendeleev` database (MIT): Pyykkö's covalent radii, Pauling's
    electronegativities, enthalpies of atomization (a measure of the cohesive energy) and dipole polarizabilities.

    References:
        mendeleev, https://github.com/lmmentel/mendeleev; the original sources are named there.
    """
    rows = _rows()
    columns = [_standardised([_counts(row)[name] for row in rows]) for name in _PERIODIC]
    columns += [
        _standardised([_number(row["covalent_radius"]) for row in rows]),
        _standardised([_number(row["electronegativity"]) for row in rows], ESTIMATED["electronegativity"]),
        _standardised([_number(row["atomization_enthalpy"]) for row in rows], ESTIMATED["atomization_enthalpy"]),
        _standardised([_log(_number(row["polarizability"])) for row in rows]),
    ]
    columns += [[float(row["block"] == block) for row in rows] for block in _BLOCKS]
    return ((0.0,) * len(columns), *(tuple(values) for values in zip(*columns, strict=True)))


class ElementEmbedding(nn.Module):
    """Invariant features of elements: a small network of the tabulated properties, plus, if wanted, free parameters.

    Args:
        channels: Number of features.
        learned: Add a free vector per element (zero at the start, and for ever for elements never trained on).
    """

    def __init__(self, channels: int, learned: bool = False) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(len(PROPERTY_NAMES), channels), nn.SiLU(), nn.Linear(channels, channels))
        self.learned = nn.Embedding(MAX_ATOMIC_NUMBER + 1, channels) if learned else None
        if self.learned is not None:
            nn.init.zeros_(self.learned.weight)
        table = torch.tensor(property_table(), dtype=torch.get_default_dtype())
        self.register_buffer("properties", table, persistent=False)

    def forward(self, atomic_numbers: Tensor) -> Tensor:
        """Features of atoms, (n_atoms, channels), from their atomic numbers (n_atoms,)."""
        # The whole table is cheaper than looking for the elements that occur.
        features: Tensor = self.network(self.get_buffer("properties"))
        if self.learned is not None:
            features = features + self.learned.weight
        return features[atomic_numbers]


@functools.cache
def _rows() -> tuple[dict[str, str], ...]:
    text = resources.files("relaxrl.nn").joinpath("elements.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


def _counts(row: dict[str, str]) -> dict[str, float]:
    """Period and numbers of electrons outside the noble-gas core, by the Aufbau rule (exceptions ignored)."""
    number, period, block = int(row["number"]), int(row["period"]), row["block"]
    group = int(row["group"]) if row["group"] else 3
    # Lanthanides start after Z = 57, actinides after 89; later elements of the row carry the filled shell.
    f_start = {6: 57, 7: 89}.get(period)
    f_electrons = 0 if f_start is None else min(max(number - f_start, 0), 14)
    if block == "d":
        d_electrons, valence = group - 2, group
    elif block == "f":
        d_electrons, valence = 1, 3 + f_electrons
    elif block == "p":
        d_electrons, valence = (10 if period >= 4 else 0), group - 10
    else:
        d_electrons, valence = 0, min(group, 2)
    return {
        "period": period,
        "valence_electrons": valence,
        "d_electrons": d_electrons,
        "f_electrons": f_electrons,
    }


def _number(text: str) -> float | None:
    return float(text) if text else None


def _log(value: float | None) -> float | None:
    return None if value is None else math.log(value)


def _standardised(
    values: list[float | None] | list[float], estimated: Mapping[int, float] | None = None
) -> list[float]:
    """Values in order of the atomic numbers, those missing replaced by estimates, which count in neither moment."""
    known = torch.tensor([value for value in values if value is not None], dtype=torch.float64)
    mean, deviation = float(known.mean()), float(known.std())
    filled = [(estimated or {}).get(k, mean) if value is None else value for k, value in enumerate(values, start=1)]
    return [(value - mean) / deviation for value in filled]
