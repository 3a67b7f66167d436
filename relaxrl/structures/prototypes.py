"""Structure types of metals and intermetallic compounds, to be built from any elements.

Coordinates are those of the compounds named, as tabulated in the AFLOW library of crystallographic prototypes
(Mehl et al. 2017, doi:10.1016/j.commatsci.2017.01.017). They only have to be right enough to be relaxed from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii, reference_states
from ase.spacegroup import crystal

from relaxrl.errors import StructureError

Site = tuple[str, float, float, float]


@dataclass(frozen=True)
class Prototype:
    """A structure type.

    Attributes:
        name: Strukturbericht symbol or usual name.
        example: A compound that crystallises in it.
        lattice: Simple lattice of which it is an ordered decoration ("fcc", "bcc", "hcp"); its own name where there is
            none. Crystals of one lattice and one composition count as variants of each other.
        spacegroup: International number; second origin choice where there are two.
        sites: Letter of the species and fractional coordinates of each occupied Wyckoff position.
        b_over_a: Axis ratio.
        c_over_a: Axis ratio.
        gamma: Angle between a and b, degrees; the others are right angles.
    """

    name: str
    example: str
    lattice: str
    spacegroup: int
    sites: tuple[Site, ...]
    b_over_a: float = 1.0
    c_over_a: float = 1.0
    gamma: float = 90.0

    @property
    def species(self) -> tuple[str, ...]:
        """Letters of the species, in alphabetical order; one species means that any decoration is allowed."""
        return tuple(sorted({site[0] for site in self.sites}))

    def build(self, elements: Sequence[str]) -> Atoms:
        """The primitive cell, at the mean of the elements' volumes per atom (see `atomic_volume`).

        Args:
            elements: Symbol of each species, in the order of `species`.

        Raises:
            ValueError: The number of elements is not that of the species.
        """
        if len(elements) != len(self.species):
            raise ValueError(f"{self.name} has species {self.species}, got elements {tuple(elements)}")
        names = dict(zip(self.species, elements, strict=True))
        atoms = crystal(
            [names[site[0]] for site in self.sites],
            [site[1:] for site in self.sites],
            spacegroup=self.spacegroup,
            setting=2 if self.spacegroup == 227 else 1,
            cellpar=[1.0, self.b_over_a, self.c_over_a, 90.0, 90.0, self.gamma],
            primitive_cell=True,
            symprec=1e-4,
        )
        atoms = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
        return scale_volume(atoms, float(np.mean([atomic_volume(symbol) for symbol in atoms.symbols])))


def atomic_volume(symbol: str) -> float:
    """Volume per atom of the element's crystal, Å³; that of dense spheres of covalent radius where none is tabulated.

    Examples:
        >>> round(atomic_volume("Cu"), 2)
        11.76
    """
    number = atomic_numbers[symbol]
    state = reference_states[number]
    atoms_per_cell = {"fcc": 4, "bcc": 2, "diamond": 8, "sc": 1}
    if state is not None and state["symmetry"] in atoms_per_cell:
        return float(state["a"]) ** 3 / atoms_per_cell[state["symmetry"]]
    if state is not None and state["symmetry"] == "hcp":
        return float(state["a"] ** 3 * state["c/a"] * np.sqrt(3) / 4)
    return float((2 * covalent_radii[number]) ** 3 / np.sqrt(2))


def scale_volume(atoms: Atoms, volume_per_atom: float) -> Atoms:
    """A copy stretched alike in all directions to a volume per atom in Å³."""
    scaled = atoms.copy()
    factor = (volume_per_atom * len(atoms) / atoms.cell.volume) ** (1 / 3)
    scaled.set_cell(atoms.cell.array * factor, scale_atoms=True)
    return scaled


def find_prototype(name: str) -> Prototype:
    """The prototype of this name.

    Raises:
        StructureError: There is none.
    """
    if name not in PROTOTYPES:
        raise StructureError(f"no prototype is called {name!r}; there are {', '.join(PROTOTYPES)}")
    return PROTOTYPES[name]


_THIRD = 1 / 3
_TWO_THIRDS = 2 / 3

PROTOTYPES: dict[str, Prototype] = {
    prototype.name: prototype
    for prototype in (
        Prototype("fcc", "Cu", "fcc", 225, (("A", 0, 0, 0),)),
        Prototype("bcc", "W", "bcc", 229, (("A", 0, 0, 0),)),
        Prototype("hcp", "Mg", "hcp", 194, (("A", _THIRD, _TWO_THIRDS, 0.25),), c_over_a=1.633, gamma=120),
        # Ordered on fcc.
        Prototype("L1_2", "AuCu3", "fcc", 221, (("A", 0, 0.5, 0.5), ("B", 0, 0, 0))),
        Prototype("L1_0", "AuCu", "fcc", 123, (("A", 0, 0, 0), ("B", 0.5, 0.5, 0.5)), c_over_a=1.35),
        Prototype("L1_1", "CuPt", "fcc", 166, (("A", 0, 0, 0), ("B", 0, 0, 0.5)), c_over_a=4.9, gamma=120),
        Prototype("D0_22", "Al3Ti", "fcc", 139, (("A", 0, 0, 0.5), ("A", 0, 0.5, 0.25), ("B", 0, 0, 0)), c_over_a=2.15),
        Prototype(
            "D0_23",
            "Al3Zr",
            "fcc",
            139,
            (("A", 0, 0.5, 0), ("A", 0, 0.5, 0.25), ("A", 0, 0, 0.375), ("B", 0, 0, 0.1186)),
            c_over_a=4.2,
        ),
        Prototype("D1_a", "Ni4Mo", "fcc", 87, (("A", 0.2, 0.4, 0), ("B", 0, 0, 0)), c_over_a=0.63),
        Prototype("MoPt2", "MoPt2", "fcc", 71, (("A", 0, _THIRD, 0), ("B", 0, 0, 0)), b_over_a=3.0, c_over_a=1.42),
        Prototype(
            "Pt8Ti",
            "Pt8Ti",
            "fcc",
            139,
            (("A", _THIRD, _THIRD, 0), ("A", _THIRD, 0, 0), ("B", 0, 0, 0)),
            c_over_a=0.47,
        ),
        # Ordered on bcc.
        Prototype("B2", "CsCl", "bcc", 221, (("A", 0, 0, 0), ("B", 0.5, 0.5, 0.5))),
        Prototype("B32", "NaTl", "bcc", 227, (("A", 0.125, 0.125, 0.125), ("B", 0.375, 0.375, 0.375))),
        Prototype("D0_3", "Fe3Al", "bcc", 225, (("A", 0.5, 0.5, 0.5), ("A", 0.25, 0.25, 0.25), ("B", 0, 0, 0))),
        Prototype("L2_1", "AlCu2Mn", "bcc", 225, (("A", 0.25, 0.25, 0.25), ("B", 0, 0, 0), ("C", 0.5, 0.5, 0.5))),
        Prototype("C11_b", "MoSi2", "bcc", 139, (("A", 0, 0, _THIRD), ("B", 0, 0, 0)), c_over_a=2.7),
        Prototype("B11", "CuTi", "bcc", 129, (("A", 0, 0.5, 0.1), ("B", 0, 0.5, 0.65)), c_over_a=1.885),
        # Ordered on hcp and its relatives.
        Prototype(
            "D0_19",
            "Ni3Sn",
            "hcp",
            194,
            (("A", 0.8333, 0.6667, 0.25), ("B", _THIRD, _TWO_THIRDS, 0.25)),
            c_over_a=0.803,
            gamma=120,
        ),
        Prototype(
            "D0_24",
            "Ni3Ti",
            "dhcp",
            194,
            (("A", 0.5, 0, 0), ("A", 0.8333, 0.6667, 0.25), ("B", 0, 0, 0), ("B", _THIRD, _TWO_THIRDS, 0.25)),
            c_over_a=1.63,
            gamma=120,
        ),
        Prototype(
            "B19",
            "AuCd",
            "hcp",
            51,
            (("A", 0.25, 0, 0.812), ("B", 0.25, 0.5, 0.313)),
            b_over_a=0.662,
            c_over_a=1.021,
        ),
        # Their own lattices.
        Prototype("B20", "FeSi", "B20", 198, (("A", 0.1358, 0.1358, 0.1358), ("B", 0.844, 0.844, 0.844))),
        Prototype(
            "B8_1", "NiAs", "B8_1", 194, (("A", 0, 0, 0), ("B", _THIRD, _TWO_THIRDS, 0.25)), c_over_a=1.39, gamma=120
        ),
        Prototype(
            "B8_2",
            "Ni2In",
            "B8_2",
            194,
            (("A", 0, 0, 0), ("A", _THIRD, _TWO_THIRDS, 0.75), ("B", _THIRD, _TWO_THIRDS, 0.25)),
            c_over_a=1.22,
            gamma=120,
        ),
        Prototype(
            "B35",
            "CoSn",
            "B35",
            191,
            (("A", 0.5, 0, 0), ("B", 0, 0, 0), ("B", _THIRD, _TWO_THIRDS, 0.5)),
            c_over_a=0.807,
            gamma=120,
        ),
        Prototype("C1", "CaF2", "C1", 225, (("A", 0.25, 0.25, 0.25), ("B", 0, 0, 0))),
        Prototype(
            "C14",
            "MgZn2",
            "C14",
            194,
            (("A", 0, 0, 0), ("A", 0.8305, 0.661, 0.25), ("B", _THIRD, _TWO_THIRDS, 0.062)),
            c_over_a=1.64,
            gamma=120,
        ),
        Prototype("C15", "Cu2Mg", "C15", 227, (("A", 0.5, 0.5, 0.5), ("B", 0.125, 0.125, 0.125))),
        Prototype("C16", "Al2Cu", "C16", 140, (("A", 0.1581, 0.6581, 0), ("B", 0, 0, 0.25)), c_over_a=0.804),
        Prototype(
            "C37",
            "Co2Si",
            "C37",
            62,
            (("A", 0.038, 0.25, 0.218), ("A", 0.174, 0.25, 0.562), ("B", 0.702, 0.25, 0.611)),
            b_over_a=0.76,
            c_over_a=1.4455,
        ),
        Prototype(
            "D0_20",
            "Al3Ni",
            "D0_20",
            62,
            (("A", 0.011, 0.25, 0.415), ("A", 0.174, 0.053, 0.856), ("B", 0.869, 0.25, 0.945)),
            b_over_a=1.114,
            c_over_a=0.728,
        ),
        Prototype(
            "D2_d",
            "CaCu5",
            "D2_d",
            191,
            (("A", _THIRD, _TWO_THIRDS, 0), ("A", 0.5, 0, 0.5), ("B", 0, 0, 0)),
            c_over_a=0.803,
            gamma=120,
        ),
        Prototype(
            "D5_13",
            "Al3Ni2",
            "D5_13",
            164,
            (("A", 0, 0, 0), ("A", _THIRD, _TWO_THIRDS, 0.648), ("B", _THIRD, _TWO_THIRDS, 0.141)),
            c_over_a=1.213,
            gamma=120,
        ),
        Prototype("A15", "Cr3Si", "A15", 223, (("A", 0.25, 0, 0.5), ("B", 0, 0, 0))),
        Prototype("A13", "Mn", "A13", 213, (("A", 0.125, 0.2022, 0.4522), ("B", 0.0636, 0.0636, 0.0636))),
        Prototype(
            "D8_b",
            "CrFe",
            "D8_b",
            136,
            (
                ("A", 0, 0, 0),
                ("A", 0.7393, 0.0661, 0),
                ("B", 0.3986, 0.3986, 0),
                ("B", 0.4635, 0.1313, 0),
                ("B", 0.1827, 0.1827, 0.252),
            ),
            c_over_a=0.519,
        ),
    )
}
"""All prototypes by name."""
