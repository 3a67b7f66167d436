"""Elements that take each other's place in crystals of one type."""

from __future__ import annotations

_SETS = (
    # Single charge.
    "Li Na", "Na K", "K Rb Cs", "Na Ag", "Cu Ag Au", "K Tl", "F", "Cl Br", "Br I", "H",
    # Double charge.
    "Be Zn", "Mg Mn Fe Co Ni Zn", "Mg Ca", "Ca Sr", "Sr Ba", "Ca Cd", "Zn Cd", "Cd Hg", "Sr Pb", "Sr Eu", "Ca Yb",
    "S Se", "Se Te", "O",
    # Triple charge.
    "Al Ga", "Ga In", "In Tl", "Al Cr Fe", "V Cr Mn Fe Co", "Sc In", "Sc Lu Y", "N", "B", "P As", "As Sb", "Sb Bi",
    "Y La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu",
    # Four and more.
    "Si Ge", "Ge Sn", "Sn Pb", "Ti Zr Hf", "Ti Sn", "Ti Nb", "V Nb Ta", "Cr Mo W", "Mn Tc Re", "Fe Ru Os", "Th U Np Pu",
    "C", "Ce Th", "Ac La", "Pa U",
    # Metals of alloys.
    "Mn Fe Co Ni", "Co Rh Ir", "Ni Pd Pt", "Ru Rh", "Pd Ag", "Pt Au", "Mo Nb", "Ta W", "Re Os", "Os Ir", "Cu Zn",
)  # fmt: skip

SIMILAR: dict[str, tuple[str, ...]] = {
    symbol: tuple(sorted({other for names in _SETS if symbol in names.split() for other in names.split()}))
    for symbol in sorted({symbol for names in _SETS for symbol in names.split()})
}
"""For each element, itself and those that may stand in for it: of like size, and of a charge that both may have, as in
the substitutions that are found to be likely among known crystals (G. Hautier et al., Inorg. Chem. 50, 656 (2011),
doi:10.1021/ic102031h). So a crystal whose charges add up still does after each of them."""


def similar_elements(symbol: str) -> tuple[str, ...]:
    """The element and those that may stand in for it.

    Examples:
        >>> similar_elements("Sr")
        ('Ba', 'Ca', 'Eu', 'Pb', 'Sr')
    """
    return SIMILAR.get(symbol, (symbol,))
