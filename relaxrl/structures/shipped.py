"""The sets of crystals that come with the package: `metals:train`, `metals:dev`, `metals:test`, ..."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from relaxrl.errors import StructureError
from relaxrl.potentials.arguments import nearest
from relaxrl.structures.archive import load_archive
from relaxrl.structures.crystal import Crystal, Kind

SETS = {"metals": "emt"}
"""Names of the shipped sets, and what their crystals are minima of."""

_DATA = resources.files("relaxrl.structures") / "data"
_MINIMA = "-minima"


def is_shipped(name: str) -> bool:
    """Whether a name means a shipped set rather than a file."""
    family, colon, _ = name.partition(":")
    return family in SETS and (bool(colon) or not Path(name).exists())


def shipped_names() -> list[str]:
    """Names of all shipped sets, such as `metals:train`."""
    stems = sorted(file.name.removesuffix(".npz") for file in _DATA.iterdir() if file.name.endswith(".npz"))
    return [stem.replace("-", ":", 1) for stem in stems]


def near_shipped(name: str) -> str:
    """A hint for a misspelt name of a shipped set, such as `metals:trian`; else nothing."""
    return nearest(name, [each + ending for each in shipped_names() for ending in ("", _MINIMA)])


def read_shipped(name: str) -> list[Crystal]:
    """The crystals of a shipped set.

    Splits for training hold minima; splits for comparisons hold the starts that everybody is to relax. The minima
    that those starts were displaced from are to be had by adding `-minima`: `metals:test-minima`.

    Raises:
        StructureError: There is no such set.
    """
    split = name.removesuffix(_MINIMA)
    if split not in shipped_names():
        raise StructureError(
            f"no shipped set is called {name!r}{near_shipped(name)}; there are {', '.join(shipped_names())}, "
            f"and with {_MINIMA!r} added the minima that the starts of a set belong to"
        )
    entries = load_archive(_DATA / f"{split.replace(':', '-', 1)}.npz")
    crystals = []
    for index, entry in enumerate(entries):
        kind: Kind = "minimum" if entry.start is None or name.endswith(_MINIMA) else "start"
        calculator = entry.calculator or SETS[split.partition(":")[0]]
        crystals.append(Crystal(f"{name}#{index}", entry.atoms(kind), entry.parent, kind, calculator))
    return crystals
