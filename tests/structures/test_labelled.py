from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from relaxrl.errors import CalculatorError, StructureError
from relaxrl.potentials import parse_calculator
from relaxrl.structures import displaced, label, read_labelled, read_structures


def copper(seed: int, energy: float | None = None, forces: np.ndarray | None = None) -> Atoms:
    """A displaced crystal with labels of EMT, or with those given."""
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=seed)
    atoms.calc = EMT()
    energy = atoms.get_potential_energy() if energy is None else energy
    forces = atoms.get_forces() if forces is None else forces
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


def broken() -> np.ndarray:
    forces = np.zeros((4, 3))
    forces[2, 1] = np.nan
    return forces


@pytest.mark.parametrize("name", ["a.extxyz", "a.db", "a.traj"])
def test_stored_labels_are_read(tmp_path: Path, name: str):
    images = [copper(1), copper(2)]
    path = str(tmp_path / name)
    if name.endswith(".db"):
        with ase.db.connect(path) as database:
            for image in images:
                database.write(image)
    else:
        ase.io.write(path, images)
    found = read_labelled(path)
    assert [each.crystal.id for each in found] == [f"{path}#0", f"{path}#1"]
    for each, image in zip(found, images, strict=True):
        np.testing.assert_allclose(each.energy, image.get_potential_energy(), atol=1e-8)
        np.testing.assert_allclose(each.forces, image.get_forces(), atol=1e-8)
        assert each.crystal.atoms.calc is None


def test_labels_under_names_of_their_own(tmp_path: Path):
    atoms = bulk("Cu", cubic=True)
    atoms.info["REF_energy"] = -1.5
    atoms.arrays["REF_forces"] = np.full((4, 3), 0.25)
    ase.io.write(tmp_path / "a.extxyz", atoms)
    found = read_labelled(tmp_path / "a.extxyz", "REF_energy", "REF_forces")
    assert (found[0].energy, found[0].forces.tolist()) == (-1.5, np.full((4, 3), 0.25).tolist())
    with pytest.raises(
        StructureError, match=r"a.extxyz#0: has no label: energy is missing; the file has REF_energy, REF"
    ):
        read_labelled(tmp_path / "a.extxyz")


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (lambda: copper(2, energy=np.nan), r"a.traj#1: its energy is nan; repair or remove"),
        (lambda: copper(2, forces=broken()), r"a.traj#1: forces on atoms 2 are not finite"),
        (lambda: bulk("Cu", cubic=True), r"a.traj#1: has no label: energy is missing; or name a calculator"),
    ],
)
def test_bad_labels_name_the_structure(tmp_path: Path, atoms: Callable[[], Atoms], message: str):
    ase.io.write(tmp_path / "a.traj", [copper(1), atoms()])
    with pytest.raises(StructureError, match=message):
        read_labelled(tmp_path / "a.traj")


def test_missing_forces_name_the_structure(tmp_path: Path):
    atoms = bulk("Cu", cubic=True)
    atoms.calc = SinglePointCalculator(atoms, energy=1.0)
    ase.io.write(tmp_path / "a.extxyz", atoms)
    with pytest.raises(StructureError, match=r"a.extxyz#0: has no label: forces is missing"):
        read_labelled(tmp_path / "a.extxyz")
    with pytest.raises(StructureError, match="a shipped set has no labels of forces"):
        read_labelled("metals:train")


def test_a_calculator_makes_labels_of_displaced_minima():
    crystals = read_structures("metals:dev-minima")[:3]
    moved = displaced(crystals, (0.05, 0.2), 2, np.random.default_rng(0))
    assert [crystal.parent for crystal in moved] == [crystal.parent for crystal in crystals for _ in range(2)]
    assert len({crystal.id for crystal in moved}) == 6
    labelled = label(moved, parse_calculator("emt").potential())
    for each in labelled:
        atoms = each.crystal.atoms.copy()
        atoms.calc = EMT()
        np.testing.assert_allclose(each.energy, atoms.get_potential_energy(), atol=1e-9)
        np.testing.assert_allclose(each.forces, atoms.get_forces(), atol=1e-9)
    starts = read_structures("metals:dev")[:2]
    assert displaced(starts, (0.05, 0.2), 2, np.random.default_rng(0)) == starts


def test_a_calculator_that_fails_names_the_structure(tmp_path: Path):
    ase.io.write(tmp_path / "a.extxyz", [bulk("Cu"), bulk("Fe")])
    with pytest.raises(CalculatorError, match=r"a.extxyz#1: no energy and forces: .* Fe"):
        label(read_structures(tmp_path / "a.extxyz"), parse_calculator("emt").potential())
