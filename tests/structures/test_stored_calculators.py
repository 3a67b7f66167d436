from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

from relaxrl.potentials import CALCULATOR_KEY
from relaxrl.structures import Crystal, MinimumConfig, find_minima, read_structures, write_structures
from relaxrl.structures.archive import Entry, load_archive, save_archive

LJ = "lj,sigma=2.3,epsilon=0.2"


def entry(calculator: str | None, start_cell: np.ndarray | None = None) -> Entry:
    atoms = bulk("Cu", cubic=True)
    return Entry(atoms, -1.0, "fcc Cu", "fcc", atoms.positions + 0.1, calculator, start_cell)


def test_an_archive_keeps_calculators_and_cells_of_starts(tmp_path: Path) -> None:
    strained = bulk("Cu", cubic=True).cell.array * 1.02
    save_archive(tmp_path / "a.npz", [entry("emt"), entry(LJ, strained), entry(None)])
    first, second, third = load_archive(tmp_path / "a.npz")
    assert (first.calculator, second.calculator, third.calculator) == ("emt", LJ, None)
    np.testing.assert_array_equal(second.start_cell, strained)
    starts = read_structures(tmp_path / "a.npz")
    assert [crystal.calculator for crystal in starts] == ["emt", LJ, None]
    np.testing.assert_array_equal(starts[1].atoms.cell.array, strained)
    np.testing.assert_array_equal(starts[0].atoms.cell.array, bulk("Cu", cubic=True).cell.array)
    np.testing.assert_array_equal(starts[1].atoms.positions, first.minimum.positions + 0.1)
    np.testing.assert_array_equal(second.atoms("minimum").cell.array, bulk("Cu", cubic=True).cell.array)


def test_archives_without_calculators_are_as_before(tmp_path: Path) -> None:
    save_archive(tmp_path / "old.npz", [replace(entry("emt"), calculator=None)])
    with np.load(tmp_path / "old.npz") as arrays:
        assert "calculators" not in arrays
        assert "start_cells" not in arrays
    assert load_archive(tmp_path / "old.npz")[0].calculator is None


@pytest.mark.parametrize("name", ["some.extxyz", "some.db", "some.traj"])
def test_files_keep_calculators(tmp_path: Path, name: str) -> None:
    crystals = [Crystal("x#0", bulk("Cu"), "a", "minimum", "emt"), Crystal("x#1", bulk("Cu"), "b", "minimum", LJ)]
    write_structures(tmp_path / name, crystals)
    assert [crystal.calculator for crystal in read_structures(tmp_path / name)] == ["emt", LJ]


def test_a_crystal_and_its_atoms_agree_on_the_calculator() -> None:
    atoms = bulk("Cu")
    named = Crystal("x#0", atoms, "a", calculator="emt")
    assert named.atoms.info[CALCULATOR_KEY] == "emt"
    assert CALCULATOR_KEY not in atoms.info
    assert Crystal("x#0", named.atoms.copy(), "a").calculator == "emt"
    assert Crystal("x#0", bulk("Cu"), "a").calculator is None


def test_the_shipped_sets_name_theirs() -> None:
    assert {crystal.calculator for crystal in read_structures("metals:dev")} == {"emt"}


def test_minima_are_found_under_each_crystals_own_calculator() -> None:
    atoms = bulk("Cu", cubic=True)
    crystals = [Crystal(f"x#{k}", atoms, "a", "start", name) for k, name in enumerate(["emt", LJ])]
    found = list(find_minima(crystals, "stored", MinimumConfig(fmax=1e-4), seed=0))
    assert [None if one is None else one.calculator for one in found] == ["emt", LJ]
    energies = [one.minimum_energy for one in found if one is not None]
    assert energies[0] is not None
    assert energies[1] is not None
    assert energies[0] == pytest.approx(-0.026, abs=0.02)
    assert energies[1] < -1
