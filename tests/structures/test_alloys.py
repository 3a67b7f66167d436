from collections import Counter

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.geometry import minkowski_reduce

from relaxrl.config import from_dict
from relaxrl.errors import ConfigError, StructureError
from relaxrl.structures import AlloyConfig, random_alloy
from relaxrl.structures.alloys import at_equilibrium_volume, random_supercell, strained
from relaxrl.structures.check import closest_pair
from relaxrl.structures.prototypes import PROTOTYPES, atomic_volume

SIX = ("Al", "Cu", "Ag", "Au", "Ni", "Pt")

ATOMS_PER_PRIMITIVE_CELL = {
    "fcc": 1,
    "bcc": 1,
    "hcp": 2,
    "L1_2": 4,
    "L1_0": 2,
    "L1_1": 2,
    "D0_22": 4,
    "D0_23": 8,
    "D1_a": 5,
    "MoPt2": 3,
    "Pt8Ti": 9,
    "B2": 2,
    "B32": 4,
    "D0_3": 4,
    "L2_1": 4,
    "C11_b": 3,
    "B11": 4,
    "D0_19": 8,
    "D0_24": 16,
    "B19": 4,
    "B20": 8,
    "B8_1": 4,
    "B8_2": 6,
    "B35": 6,
    "C1": 3,
    "C14": 12,
    "C15": 6,
    "C16": 6,
    "C37": 12,
    "D0_20": 16,
    "D2_d": 6,
    "D5_13": 5,
    "A15": 8,
    "A13": 20,
    "D8_b": 30,
}
"""Textbook numbers (Pearson symbols, centring taken out)."""


@pytest.mark.parametrize("name", PROTOTYPES)
def test_prototypes_are_the_textbook_structures(name: str) -> None:
    prototype = PROTOTYPES[name]
    atoms = prototype.build(["Cu", "Au", "Ag"][: len(prototype.species)])
    assert len(atoms) == ATOMS_PER_PRIMITIVE_CELL[name]
    np.testing.assert_allclose(
        atoms.cell.volume, np.sum([atomic_volume(symbol) for symbol in atoms.symbols]), rtol=1e-10
    )
    assert 0.85 < closest_pair(atoms)[3] < 1.05  # metallic distances, no atoms on top of each other


@pytest.mark.parametrize(
    ("name", "formula", "neighbours"),
    [("L1_2", "Cu3Au", 12), ("B2", "CuAu", 8), ("D0_3", "Cu3Au", 8), ("D0_22", "Cu3Au", 12), ("C15", "Cu2Au", 6)],
)
def test_composition_and_coordination_of_the_first_species(name: str, formula: str, neighbours: int) -> None:
    atoms = PROTOTYPES[name].build(["Cu", "Au"])
    assert atoms.symbols.formula.reduce()[0].count() == {"Cu": int(formula[2:-2] or 1), "Au": 1}
    distances = (atoms * (3, 3, 3)).get_all_distances(mic=True)
    first = int(np.flatnonzero(atoms.symbols == "Cu")[-1])
    shortest = distances[first][distances[first] > 0.1].min()
    within = {"D0_22": 1.06, "L1_2": 1.01}.get(name, 1.02)
    assert np.sum((distances[first] > 0.1) & (distances[first] < within * shortest)) == neighbours


def test_volumes_per_atom_against_densities() -> None:
    # Mass over density, CRC Handbook: Ni 8.908 g/cm³, Mg (hcp) 1.738, W (bcc) 19.25.
    for symbol, volume in {"Ni": 10.94, "Mg": 23.22, "W": 15.86}.items():
        assert atomic_volume(symbol) == pytest.approx(volume, rel=0.01)


@pytest.fixture(scope="module")
def draws() -> list:
    config = AlloyConfig(elements=SIX, max_elements=3)
    generator = np.random.default_rng(0)
    return [random_alloy(config, generator) for _ in range(500)]


def test_statistics_of_random_alloys(draws: list) -> None:
    sizes = np.array([len(alloy.atoms) for alloy in draws])
    assert sizes.min() >= 4
    assert sizes.max() <= 16
    assert np.histogram(sizes, bins=[4, 8, 12, 17])[0].min() > 100
    lattices = Counter(alloy.prototype for alloy in draws)
    assert set(lattices) == {"fcc", "hcp", "bcc"}
    assert min(lattices.values()) > 120
    counts = Counter(len(set(alloy.atoms.symbols)) for alloy in draws)
    assert counts[1] / len(draws) == pytest.approx(0.1, abs=0.05)
    assert counts[2] > 150
    assert counts[3] > 150
    present = Counter(symbol for alloy in draws for symbol in set(alloy.atoms.symbols))
    assert set(present) == set(SIX)
    assert max(present.values()) < 1.4 * min(present.values())


def test_three_in_ten_have_a_vacancy() -> None:
    config = AlloyConfig(elements=("Cu",), prototypes=("fcc",), min_atoms=6, max_atoms=6, strain=0.0)
    with_less = AlloyConfig(elements=("Cu",), prototypes=("fcc",), min_atoms=6, max_atoms=12, strain=0.0)
    generator = np.random.default_rng(1)
    # A vacancy leaves the cell as it was, so the volume per atom tells.
    loose = [random_alloy(with_less, generator).atoms for _ in range(400)]
    expected = atomic_volume("Cu")
    share = np.mean([atoms.cell.volume / len(atoms) > 1.01 * expected for atoms in loose])
    assert share == pytest.approx(0.3 * 6 / 7, abs=0.06)  # none at the smallest size
    tight = [random_alloy(config, generator).atoms for _ in range(50)]
    assert {len(atoms) for atoms in tight} == {6}


def test_strain_is_symmetric_and_bounded() -> None:
    atoms = PROTOTYPES["B2"].build(["Ni", "Al"])
    generator = np.random.default_rng(0)
    strains = []
    for _ in range(300):
        moved = strained(atoms, 0.03, generator)
        strains.append(np.linalg.solve(atoms.cell.array, moved.cell.array) - np.eye(3))
        np.testing.assert_allclose(moved.get_scaled_positions(), atoms.get_scaled_positions(), atol=1e-12)
    array = np.array(strains)
    np.testing.assert_allclose(array, array.swapaxes(1, 2), atol=1e-12)
    assert 0.028 < np.abs(array).max() <= 0.03 + 1e-12
    assert np.abs(array.mean(axis=0)).max() < 0.004


@pytest.mark.parametrize("multiple", [1, 2, 7, 12, 32])
def test_supercells_repeat_the_crystal_exactly(multiple: int) -> None:
    primitive = PROTOTYPES["B2"].build(["Ni", "Al"])
    supercell = random_supercell(primitive, multiple, np.random.default_rng(multiple))
    assert len(supercell) == 2 * multiple
    assert supercell.cell.volume == pytest.approx(multiple * primitive.cell.volume)
    assert supercell.cell.volume == pytest.approx(np.linalg.det(supercell.cell.array))  # right-handed
    np.testing.assert_allclose(minkowski_reduce(supercell.cell)[0], supercell.cell.array, atol=1e-8)
    assert closest_pair(supercell)[2] == pytest.approx(closest_pair(primitive)[2])
    distances = np.sort(supercell.get_all_distances(mic=True)[0])
    assert len(distances) < 2 or distances[1] > 2.0  # no two atoms on one site


def test_supercells_come_in_many_shapes() -> None:
    primitive = PROTOTYPES["fcc"].build(["Cu"])
    generator = np.random.default_rng(0)
    shapes = {tuple(np.round(random_supercell(primitive, 12, generator).cell.cellpar(), 3)) for _ in range(40)}
    assert len(shapes) > 8


def test_ordered_compounds_keep_their_order() -> None:
    config = AlloyConfig(elements=SIX, prototypes=("L1_2",), min_atoms=4, max_atoms=24, vacancy_probability=0.0)
    generator = np.random.default_rng(0)
    for _ in range(20):
        atoms = random_alloy(config, generator).atoms
        counts = sorted(Counter(atoms.symbols).values())
        assert counts == [len(atoms) // 4, 3 * len(atoms) // 4]


def test_named_compounds_and_required_elements() -> None:
    known = AlloyConfig(elements=(), compounds=("L1_2 Cu Au",), vacancy_probability=0.0)
    assert random_alloy(known, np.random.default_rng(0)).parent == "fcc AuCu3"
    wanted = AlloyConfig(elements=(*SIX, "Pd"), required=("Pd",), prototypes=("fcc", "L1_2", "bcc"))
    generator = np.random.default_rng(0)
    assert all("Pd" in random_alloy(wanted, generator).atoms.symbols for _ in range(60))


def test_variants_of_one_composition_on_one_lattice_have_one_parent() -> None:
    generator = np.random.default_rng(0)
    parents = {
        random_alloy(AlloyConfig(elements=(), compounds=(compound,), max_atoms=32), generator).parent
        for compound in ("L1_2 Cu Au", "D0_22 Cu Au", "D0_23 Cu Au")
        for _ in range(5)  # other cells, strains and vacancies
    }
    assert parents == {"fcc AuCu3"}


def test_equilibrium_volume_is_that_of_the_calculator() -> None:
    atoms = at_equilibrium_volume(PROTOTYPES["L1_2"].build(["Ni", "Al"]), EMT())
    atoms.calc = EMT()
    pressure = -atoms.get_stress()[:3].mean()
    assert abs(pressure) < 0.002  # eV/Å³; 1 % of the lattice constant is worth 0.03
    config = AlloyConfig(elements=("Ni", "Al"))
    first, second = (random_alloy(config, np.random.default_rng(4), calculator) for calculator in (None, EMT()))
    assert first.atoms.symbols.get_chemical_formula() == second.atoms.symbols.get_chemical_formula()
    assert first.atoms.cell.volume != pytest.approx(second.atoms.cell.volume, rel=1e-3)


def test_equal_seeds_give_equal_alloys() -> None:
    config = AlloyConfig(elements=SIX, rattle=0.1)
    a, b = (random_alloy(config, np.random.default_rng(9)).atoms for _ in range(2))
    assert a == b
    still = random_alloy(AlloyConfig(elements=SIX), np.random.default_rng(9)).atoms
    assert not np.allclose(a.positions, still.positions)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"elements": ["Zz"]}, "'Zz' is not an element's symbol"),
        ({"elements": []}, "at least one element"),
        ({"elements": ["Cu"], "prototypes": ["A99"]}, "'A99' is unknown; there are fcc"),
        ({"elements": ["Cu"], "min_atoms": 9, "max_atoms": 3}, "`min_atoms` must be in"),
        ({"elements": ["Cu"], "strain": 0.7}, "`strain` must be in"),
        ({"elements": [], "compounds": ["L1_2 Cu"]}, "one element for each species"),
        ({"elements": ["Cu"], "strian": 0.1}, "strain"),
    ],
)
def test_wrong_settings(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(AlloyConfig, values)


def test_impossible_sizes() -> None:
    config = AlloyConfig(elements=("Cu", "Au"), prototypes=("D8_b",), min_atoms=4, max_atoms=8)
    with pytest.raises(StructureError, match="4 to 8 atoms"):
        random_alloy(config, np.random.default_rng(0))
