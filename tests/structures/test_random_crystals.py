"""Cells with atoms thrown in: composition, distances, shapes, volumes, and the same crystal for the same seed."""

import numpy as np
import pytest
from ase.geometry import get_distances

from relaxrl.config import from_dict
from relaxrl.errors import ConfigError, StructureError
from relaxrl.structures.draw import draw
from relaxrl.structures.expected_volume import expected_volume
from relaxrl.structures.random_crystals import RandomCrystalConfig, random_cell, random_crystal, smallest_distances


def _shortest(atoms, first: str, second: str) -> float:
    supercell = atoms * (3, 3, 3)
    here = atoms.positions[atoms.symbols == first] + atoms.cell.sum(axis=0)
    there = supercell.positions[supercell.symbols == second]
    distances = get_distances(here, there)[1]
    return float(distances[distances > 1e-6].min())


@pytest.mark.parametrize(
    ("formula", "units"), [("SrTiO3", 8), ("Y2O3", 8), ("Ca3Ti2O7", 3), ("K3Fe5F15", 2), ("MgO", 1)]
)
def test_no_two_atoms_are_too_close(formula: str, units: int) -> None:
    for seed in range(3):
        atoms = random_crystal(formula, units, np.random.default_rng(seed))
        assert atoms.pbc.all()
        symbols = atoms.get_chemical_symbols()
        smallest = smallest_distances(symbols, atoms.cell.volume, {})
        for first in set(symbols):
            for second in set(symbols):
                bound = smallest[symbols.index(first), symbols.index(second)]
                assert _shortest(atoms, first, second) > 0.998 * bound


def test_oxygen_is_bound_to_metals_not_to_oxygen() -> None:
    atoms = random_crystal("SrTiO3", 8, np.random.default_rng(0))
    assert len(atoms) == 40
    assert _shortest(atoms, "O", "O") > 2.2
    assert _shortest(atoms, "Sr", "Ti") > 2.5
    assert 1.7 < _shortest(atoms, "Ti", "O") < 2.3


def test_separations_that_are_given_hold() -> None:
    atoms = random_crystal("NaCl", 8, np.random.default_rng(0), separations={("Cl", "Na"): 2.6, ("Na", "Na"): 3.3})
    assert _shortest(atoms, "Na", "Cl") > 2.59
    assert _shortest(atoms, "Na", "Na") > 3.29


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(StructureError, match="allow a larger volume or smaller separations"):
        random_crystal("NaCl", 4, np.random.default_rng(0), separations={("Na", "Na"): 9.0})
    with pytest.raises(StructureError, match="such as SrTiO3, got 'Sr!'"):
        random_crystal("Sr!", 4, np.random.default_rng(0))
    with pytest.raises(StructureError, match="at least 1, got 0"):
        random_crystal("NaCl", 0, np.random.default_rng(0))


def test_one_seed_one_crystal() -> None:
    first, again, other = (random_crystal("Y2O3", 4, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.positions, again.positions)
    assert abs(first.cell.array - other.cell.array).max() > 0.1


def test_shapes_and_volumes_are_within_bounds() -> None:
    generator = np.random.default_rng(0)
    cells = [random_cell(100.0, (60.0, 120.0), 2.0, generator) for _ in range(200)]
    lengths = np.linalg.norm(cells, axis=2)
    np.testing.assert_allclose(np.linalg.det(cells), 100.0)
    assert (lengths.max(axis=1) <= 2.0 * lengths.min(axis=1)).all()
    assert np.std(lengths / np.mean(lengths)) > 0.05
    config = RandomCrystalConfig(formulas=("MgO",), volume=(1.0, 1.1))
    volume = random_crystal("MgO", 4, generator, config).cell.volume
    assert 1.0 <= volume / expected_volume(["Mg", "O"] * 4) <= 1.1


@pytest.mark.parametrize(
    ("symbols", "volume"),
    # Å³ per formula unit at room temperature: periclase, perovskite, yttria, halite; copper, silicon.
    [("MgO", 18.7), ("SrTiOOO", 59.5), ("YYOOO", 74.5), ("NaCl", 44.9), ("Cu", 11.8), ("Si", 20.0)],
)
def test_expected_volumes_are_those_of_known_crystals(symbols: str, volume: float) -> None:
    from ase.symbols import Symbols

    names = list(Symbols.fromsymbols(symbols))
    assert expected_volume(names) == pytest.approx(volume, rel=0.18)


def test_draws_are_recipes_of_sizes() -> None:
    config = RandomCrystalConfig(formulas=("SrTiO3", "Y2O3"), min_atoms=10, max_atoms=30)
    drawn = [draw(config, np.random.default_rng(seed)) for seed in range(30)]
    assert {one.parent for one in drawn} == {"random O3SrTi", "random O3Y2"}
    assert {len(one.atoms) for one in drawn} == {10, 15, 20, 25, 30}
    assert {one.prototype for one in drawn} == {"random"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"formulas": []}, "at least one composition"),
        ({"formulas": ["SrTiO3"], "min_atoms": 21, "max_atoms": 24}, "no number of units of SrTiO3"),
        ({"formulas": ["Qq2"]}, "such as SrTiO3, got 'Qq2'"),
        ({"formulas": ["MgO"], "volume": [1.2, 1.0]}, "`volume` must be a range"),
        ({"formulas": ["MgO"], "angles": [10, 90]}, "within 30 to 150"),
        ({"formulas": ["MgO"], "max_elongation": 0.5}, "at least 1"),
    ],
)
def test_wrong_configurations_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(RandomCrystalConfig, values)
