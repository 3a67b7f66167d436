"""Oxidation states that elements commonly have in solids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from relaxrl.potentials.pmmcs import formal_charges

COMMON_CHARGES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("H", "Li", "Na", "K", "Rb", "Cs", "Ag"), (1,)),
    **dict.fromkeys(("Be", "Mg", "Ca", "Sr", "Ba", "Zn", "Cd"), (2,)),
    **dict.fromkeys(("B", "Al", "Ga", "In", "Sc", "Y", "La", "Bi"), (3,)),
    **dict.fromkeys(("Nd", "Pm", "Sm", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Lu", "Pr"), (3,)),
    **dict.fromkeys(("Zr", "Hf", "Th", "Si", "Ge"), (4,)),
    "Cu": (1, 2),
    "Hg": (1, 2),
    "Tl": (1, 3),
    "Au": (1, 3),
    "Fe": (2, 3),
    "Co": (2, 3),
    "Ni": (2, 3),
    "Pd": (2, 4),
    "Pt": (2, 4),
    "Sn": (2, 4),
    "Pb": (2, 4),
    "Eu": (2, 3),
    "Yb": (2, 3),
    "Ti": (3, 4),
    "Ce": (3, 4),
    "V": (3, 4, 5),
    "Cr": (3, 6),
    "Mn": (2, 3, 4),
    "Rh": (3,),
    "Ir": (3, 4),
    "Ru": (3, 4),
    "Os": (4,),
    "U": (4, 6),
    "Nb": (4, 5),
    "Ta": (5,),
    "Mo": (4, 6),
    "W": (4, 6),
    "Re": (4, 7),
    "Tc": (4, 7),
    "C": (4, -4),
    "N": (5, -3),
    "P": (5, -3),
    "As": (3, 5, -3),
    "Sb": (3, 5, -3),
    "O": (-2,),
    "S": (6, -2),
    "Se": (4, 6, -2),
    "Te": (4, 6, -2),
    "F": (-1,),
    "Cl": (-1,),
    "Br": (-1,),
    "I": (-1,),
}
"""Formal charges by symbol, in units of the elementary charge, most common first or in order of size.

Those of N. N. Greenwood and A. Earnshaw, Chemistry of the Elements, 2nd ed. (1997), that occur in many solids.
"""


CHARGE_TABLES: dict[str, dict[str, tuple[int, ...]]] = {
    "common": COMMON_CHARGES,
    "pmmcs": {symbol: (charge,) for symbol, charge in formal_charges().items()},
}
"""Tables by name: the common ones, and those of a potential that knows one charge of each element."""


def known_charges(
    elements: Sequence[str], given: Mapping[str, Sequence[int]], table: str = "common"
) -> dict[str, tuple[int, ...]]:
    """Charges that each element may have: as given, else those of a table.

    Args:
        elements: Symbols; all of the table if empty.
        given: Charges by symbol, where they are others than in the table.
        table: Key of `CHARGE_TABLES`.

    Raises:
        ValueError: An element has no charges.
    """
    known = CHARGE_TABLES[table]
    charges = {name: tuple(given.get(name, known.get(name, ()))) for name in elements or (known | dict(given))}
    without = [name for name, states in charges.items() if not states]
    if without:
        raise ValueError(
            f"`charges` must name oxidation states of {', '.join(without)}: there are none in the table `{table}`; as "
            f"charges: {{{without[0]}: [2]}}"
        )
    return charges
