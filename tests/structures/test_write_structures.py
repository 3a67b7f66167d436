from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms, FixBondLength, FixCartesian, FixedPlane, FixScaled, Hookean
from ase.db import connect
from ase.spacegroup import Spacegroup

from relaxrl.cli.main import main
from relaxrl.errors import StructureError
from relaxrl.structures import Crystal, read_structures, write_structures
from relaxrl.structures.write import ConstraintsLostWarning, check_writable, database_row, unheld_constraints


@pytest.fixture
def crystals() -> list[Crystal]:
    first, second = bulk("NiAl", "cesiumchloride", a=2.88), bulk("Cu", cubic=True)
    first.info["relaxrl_minimum_energy"] = -1.25
    second.positions[1] += 0.01234567
    return [Crystal("x#0", first, "nickel aluminide", "minimum"), Crystal("x#1", second, "copper", "start")]


@pytest.mark.parametrize("suffix", ["extxyz", "traj", "db", "json", "xyz"])
def test_round_trip_keeps_parent_and_kind(tmp_path: Path, crystals: list[Crystal], suffix: str) -> None:
    file = tmp_path / "new" / f"set.{suffix}"
    write_structures(file, crystals)
    write_structures(file, crystals)  # replaces, does not append
    read = read_structures(file)
    assert [(crystal.parent, crystal.kind) for crystal in read] == [
        ("nickel aluminide", "minimum"),
        ("copper", "start"),
    ]
    assert read[0].minimum_energy == -1.25
    for new, old in zip(read, crystals, strict=True):
        np.testing.assert_allclose(new.atoms.positions, old.atoms.positions, atol=1e-8)
        assert new.atoms.numbers.tolist() == old.atoms.numbers.tolist()


def test_fixed_atoms_stay_fixed_in_extxyz(tmp_path: Path, crystals: list[Crystal]) -> None:
    crystals[1].atoms.set_constraint(FixAtoms([1, 3]))
    write_structures(tmp_path / "set.extxyz", crystals)
    first, second = (crystal.atoms for crystal in read_structures(tmp_path / "set.extxyz"))
    assert not first.constraints or len(first.constraints[0].index) == 0
    assert second.constraints[0].index.tolist() == [1, 3]


@pytest.mark.parametrize("suffix", ["extxyz", "extxyz.gz"])
def test_what_one_frame_says_of_its_atoms_stays(tmp_path: Path, crystals: list[Crystal], suffix: str) -> None:
    crystals[0].atoms.set_initial_magnetic_moments([2.0, -1.0])
    crystals[1].atoms.set_array("label", np.array([3, 1, 4, 1]))
    write_structures(tmp_path / f"set.{suffix}", crystals)
    first, second = (crystal.atoms for crystal in read_structures(tmp_path / f"set.{suffix}"))
    assert first.get_initial_magnetic_moments().tolist() == [2.0, -1.0]
    assert second.arrays["label"].tolist() == [3, 1, 4, 1]
    assert not second.has("initial_magmoms")
    assert not first.has("label")


@pytest.mark.parametrize(
    ("constraint", "held"),
    [
        (FixAtoms([1]), {"extxyz", "traj", "db", "POSCAR"}),
        (FixAtoms([]), {"extxyz", "traj", "db", "POSCAR", "cif"}),
        (FixCartesian([0], [True, False, False]), {"extxyz", "traj", "db"}),
        (FixScaled([0], [True, False, False]), {"traj", "db", "POSCAR"}),
        (FixedPlane([0], [0, 0, 1]), {"traj", "db", "POSCAR"}),
        (FixBondLength(0, 1), {"traj", "db"}),
        (Hookean(0, 1, 5.0, 1.0), {"traj", "db"}),
        (Hookean(0, (0.0, 0.0, 0.0), 5.0, 1.0), {"traj", "db"}),
    ],
)
def test_constraints_that_a_format_does_not_hold_are_named(
    tmp_path: Path, crystals: list[Crystal], constraint: object, held: set[str]
) -> None:
    atoms = crystals[1].atoms
    atoms.set_constraint(constraint)
    for name in ("extxyz", "traj", "db", "POSCAR", "cif"):
        file = tmp_path / (name if name == "POSCAR" else f"a.{name}")
        said = unheld_constraints(file, [atoms])
        assert (said == "") == (name in held), (name, said)
        assert name in held or type(constraint).__name__ in said


def test_lost_constraints_are_warned_of_once(
    tmp_path: Path, crystals: list[Crystal], capsys: pytest.CaptureFixture[str]
) -> None:
    for crystal in crystals:
        crystal.atoms.set_constraint([FixAtoms([0]), FixBondLength(0, 1)])
    with pytest.warns(ConstraintsLostWarning, match="does not hold the constraints FixBondLengths; ") as said:
        write_structures(tmp_path / "set.extxyz", crystals)
    assert len(said) == 1
    (tmp_path / "set.extxyz").unlink()
    check_writable(tmp_path / "set.extxyz", crystals)  # a trial: no warning, no file
    assert not (tmp_path / "set.extxyz").exists()
    write_structures(tmp_path / "set.traj", crystals)
    given, out = str(tmp_path / "set.traj"), str(tmp_path / "out.extxyz")
    for words in (["structures", "convert"], ["relax", "--steps", "0", "--agent", "none", "--calculator", "emt"]):
        main([*words, given, "--out", out])
        assert capsys.readouterr().err.count("does not hold the constraints FixBondLengths; ") == 1


def test_plain_formats_hold_the_geometry(tmp_path: Path, crystals: list[Crystal]) -> None:
    write_structures(tmp_path / "set.cif", crystals)
    assert [len(crystal.atoms) for crystal in read_structures(tmp_path / "set.cif")] == [2, 4]
    write_structures(tmp_path / "POSCAR", crystals[:1])
    assert read_structures(tmp_path / "POSCAR")[0].atoms.cell.volume == pytest.approx(2.88**3)
    write_structures(tmp_path / "water.xyz", [Crystal("w", molecule("H2O"), "water")])
    assert not read_structures(tmp_path / "water.xyz")[0].atoms.pbc.any()


@pytest.mark.parametrize(
    ("name", "message"),
    [("POSCAR", "holds one structure, got 2"), ("set.nope", "can't write this format"), ("set", "can't write")],
)
def test_formats_that_do_not_fit(tmp_path: Path, crystals: list[Crystal], name: str, message: str) -> None:
    with pytest.raises(StructureError, match=message):
        write_structures(tmp_path / name, crystals)


def test_nothing_to_write(tmp_path: Path) -> None:
    with pytest.raises(StructureError, match="no structures to write"):
        write_structures(tmp_path / "set.extxyz", [])


def test_info_that_comes_from_cif_does_not_get_in_the_way(tmp_path: Path) -> None:
    bulk("Cu").write(tmp_path / "a.cif")
    write_structures(tmp_path / "a.extxyz", read_structures(tmp_path / "a.cif"))
    assert isinstance(read_structures(tmp_path / "a.extxyz")[0].atoms, Atoms)


def test_what_a_database_takes_of_the_info(tmp_path: Path) -> None:
    spacegroup = Spacegroup(225)
    odd = {"spacegroup": spacegroup, "when": datetime(2020, 1, 1), "set": {1}, "names": np.array(["a", "b"])}
    pairs, data = database_row({"mp_id": "mp-30", "gap": 0.5, "count": "7", "tags": [1, 2], **odd})
    assert pairs == {"mp_id": "mp-30", "gap": 0.5}
    assert data["count"] == "7"
    assert data["tags"] == [1, 2]
    with connect(tmp_path / "one.db") as database:
        database.write(bulk("Cu"), pairs, data)
    row = connect(tmp_path / "one.db").get(1)
    assert (row.mp_id, row.gap, row.data["tags"]) == ("mp-30", 0.5, [1, 2])


def test_a_database_in_a_database_out(tmp_path: Path) -> None:
    with connect(tmp_path / "in.db") as database:
        database.write(bulk("Cu"), mp_id="mp-30")
    write_structures(tmp_path / "out.db", read_structures(tmp_path / "in.db"))
    assert connect(tmp_path / "out.db").get(1).mp_id == "mp-30"
