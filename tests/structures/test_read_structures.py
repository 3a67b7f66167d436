import csv
import gzip
import io
import shutil
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from relaxrl.errors import StructureError
from relaxrl.structures import check_structure, read_structures
from relaxrl.structures.archive import Entry, save_archive


@pytest.fixture
def crystals() -> list[Atoms]:
    frames = [bulk("Cu", cubic=True), bulk("NiAl", "cesiumchloride", a=2.88), bulk("Mg")]
    frames[0].positions[1] += [0.1, 0.0, -0.05]
    return frames


def as_cif(atoms: Atoms) -> str:
    buffer = io.BytesIO()
    ase.io.write(buffer, atoms, format="cif")
    return buffer.getvalue().decode()


def write_table(path: Path, column: str, crystals: list[Atoms]) -> None:
    with path.open("w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["", "material_id", column, "note"])
        for k, atoms in enumerate(crystals):
            table.writerow([k, f"mp-{k}", as_cif(atoms), "a, b"])


@pytest.mark.parametrize("suffix", [".extxyz", ".traj", ".db", ".json", ".xyz", ".cif", ".extxyz.gz"])
def test_all_frames_of_a_file_with_ids_counted_from_zero(tmp_path: Path, crystals: list[Atoms], suffix: str) -> None:
    file = f"{tmp_path}/../{tmp_path.name}/set{suffix}"  # as the user wrote it, not a tidied path
    ase.io.write(file, crystals)
    read = read_structures(file)
    assert [crystal.id for crystal in read] == [f"{file}#{k}" for k in range(3)]
    for crystal, atoms in zip(read, crystals, strict=True):
        assert crystal.kind == "start"
        assert sorted(crystal.atoms.symbols) == sorted(atoms.symbols)
        np.testing.assert_allclose(crystal.atoms.cell.volume, atoms.cell.volume, rtol=1e-4)
        assert crystal.atoms.pbc.all()
    distances = [atoms.get_distance(0, 1, mic=True) for atoms in (read[0].atoms, crystals[0])]
    np.testing.assert_allclose(distances[0], distances[1], atol=1e-5)


def test_poscar_by_its_name(tmp_path: Path, crystals: list[Atoms]) -> None:
    ase.io.write(tmp_path / "POSCAR", crystals[0])
    (crystal,) = read_structures(tmp_path / "POSCAR")
    assert crystal.id == f"{tmp_path}/POSCAR#0"
    np.testing.assert_allclose(crystal.atoms.positions, crystals[0].positions, atol=1e-9)


def test_frames_can_be_picked_as_in_ase(tmp_path: Path, crystals: list[Atoms]) -> None:
    file = tmp_path / "set.extxyz"
    ase.io.write(file, crystals)
    read = read_structures(f"{file}@1:")
    assert [crystal.atoms.get_chemical_formula() for crystal in read] == ["AlNi", "Mg2"]
    assert read[0].id == f"{file}@1:#0"
    assert len(read_structures(f"{file}@-1")) == 1


def test_a_name_with_an_at_sign_is_the_name_of_the_file(tmp_path: Path, crystals: list[Atoms]) -> None:
    for name in ("Cu@300K.extxyz", "copper @1.extxyz"):
        ase.io.write(tmp_path / name, crystals)
        assert len(read_structures(tmp_path / name)) == len(crystals)


def test_database_keys_go_to_info_and_queries_select(tmp_path: Path, crystals: list[Atoms]) -> None:
    file = tmp_path / "set.db"
    with ase.db.connect(file) as database:
        for k, atoms in enumerate(crystals):
            database.write(atoms, hull=0.5 * k, relaxrl_kind="minimum", relaxrl_parent=f"family {k // 2}")
    read = read_structures(file)
    assert [crystal.atoms.info["hull"] for crystal in read] == [0.0, 0.5, 1.0]
    assert [crystal.parent for crystal in read] == ["family 0", "family 0", "family 1"]
    assert {crystal.kind for crystal in read} == {"minimum"}
    assert [crystal.atoms.get_chemical_formula() for crystal in read_structures(f"{file}@hull>0.7")] == ["Mg2"]


@pytest.mark.parametrize("column", ["cif", "structure", "Some CIF"])
def test_csv_with_cif_text_finds_the_column(tmp_path: Path, crystals: list[Atoms], column: str) -> None:
    file = tmp_path / "table.csv"
    write_table(file, column, crystals)
    read = read_structures(file)
    assert [crystal.id for crystal in read] == [f"{file}#{k}" for k in range(3)]
    assert [crystal.atoms.info["material_id"] for crystal in read] == ["mp-0", "mp-1", "mp-2"]
    np.testing.assert_allclose(
        read[0].atoms.get_all_distances(mic=True), crystals[0].get_all_distances(mic=True), atol=1e-4
    )


def test_csv_column_by_name(tmp_path: Path, crystals: list[Atoms]) -> None:
    file = tmp_path / "table.csv"
    with file.open("w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["cif", "relaxed"])
        table.writerow([as_cif(crystals[0]), as_cif(crystals[1])])
    assert read_structures(file)[0].atoms.get_chemical_formula() == "Cu4"
    assert read_structures(file, cif_column="relaxed")[0].atoms.get_chemical_formula() == "AlNi"
    with pytest.raises(StructureError, match="no column 'nope'; its columns are cif, relaxed"):
        read_structures(file, cif_column="nope")


def test_folder_is_read_in_order_and_passes_over_what_is_no_structure(tmp_path: Path, crystals: list[Atoms]) -> None:
    (tmp_path / "deep").mkdir()
    ase.io.write(tmp_path / "b.cif", crystals[0])
    ase.io.write(tmp_path / "a.extxyz", crystals)
    ase.io.write(tmp_path / "deep" / "POSCAR", crystals[1])
    write_table(tmp_path / "deep" / "table.csv", "cif", crystals[:1])
    (tmp_path / "README.md").write_text("# crystals")
    (tmp_path / "meta.json").write_text('{"source": "here"}')
    (tmp_path / "run.sh").write_text("echo")
    (tmp_path / ".hidden.xyz").write_text("not xyz")
    (tmp_path / "CONTCAR.journal").write_bytes(b"of relaxrl relax, interrupted")
    ids = [crystal.id.removeprefix(str(tmp_path)) for crystal in read_structures(tmp_path)]
    assert ids == ["/a.extxyz#0", "/a.extxyz#1", "/a.extxyz#2", "/b.cif#0", "/deep/POSCAR#0", "/deep/table.csv#0"]


def test_numpy_files_of_others_in_a_folder_are_passed_over(tmp_path: Path) -> None:
    entry = Entry(bulk("Cu"), -1.0, "copper", "fcc")
    save_archive(tmp_path / "set.npz", [entry])
    np.savez(tmp_path / "replay.npz", sizes=np.zeros(2), positions=np.zeros(3))
    np.savez(tmp_path / "other.npz", x=np.zeros(2))
    (tmp_path / "broken.npz").write_bytes((tmp_path / "set.npz").read_bytes()[:100])
    assert [crystal.id for crystal in read_structures(tmp_path)] == [f"{tmp_path}/set.npz#0"]
    for name in ("other.npz", "broken.npz"):
        with pytest.raises(StructureError, match=f"{name}: is not a set made by"):
            read_structures(tmp_path / name)
    (tmp_path / "set.npz").unlink()
    with pytest.raises(StructureError, match="the folder has no file in a format"):
        read_structures(tmp_path)


def test_relative_names_stay_as_given(tmp_path: Path, crystals: list[Atoms], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("set").mkdir()
    ase.io.write("set/x.cif", crystals[1])
    assert read_structures("./set/x.cif")[0].id == "./set/x.cif#0"
    assert read_structures("./set")[0].id == "./set/x.cif#0"
    assert read_structures("set/")[0].id == "set/x.cif#0"


def test_info_and_constraints_stay_and_stored_energies_go(tmp_path: Path, crystals: list[Atoms]) -> None:
    atoms = crystals[0]
    atoms.info["source"] = "experiment"
    atoms.set_constraint(FixAtoms([0]))
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.zeros((4, 3)))
    ase.io.write(tmp_path / "set.extxyz", atoms, columns=["symbols", "positions", "move_mask"])
    (crystal,) = read_structures(tmp_path / "set.extxyz")
    assert crystal.atoms.info["source"] == "experiment"
    assert crystal.atoms.constraints[0].index.tolist() == [0]
    assert crystal.atoms.calc is None


def test_kind_and_parents_as_asked(tmp_path: Path, crystals: list[Atoms]) -> None:
    file = tmp_path / "set.extxyz"
    crystals[1].info["relaxrl_parent"] = "nickel aluminide"
    ase.io.write(file, crystals)
    assert [crystal.parent for crystal in read_structures(file)] == [f"{file}#0", "nickel aluminide", f"{file}#2"]
    assert [crystal.parent for crystal in read_structures(file, parents="file")][::2] == [str(file)] * 2
    assert [crystal.parent for crystal in read_structures(file, parents="formula")] == ["Cu", "nickel aluminide", "Mg"]
    assert {crystal.kind for crystal in read_structures(file, kind="minimum")} == {"minimum"}


def test_molecules_and_single_atoms_are_read_and_remarked_on(tmp_path: Path) -> None:
    file = tmp_path / "odd.extxyz"
    ase.io.write(file, [molecule("H2O"), Atoms("Au", cell=[4, 4, 4], pbc=True), bulk("Cu", cubic=True)])
    water, gold, copper = (crystal.atoms for crystal in read_structures(file))
    assert check_structure(water) == ["not periodic"]
    assert "single atom" in check_structure(gold)[0]
    assert check_structure(copper) == []


@pytest.mark.parametrize(
    ("atoms", "remark"),
    [
        (Atoms("Cu2", [[0, 0, 0], [3.9, 0, 0]], cell=[4, 4, 4], pbc=True), "atoms 0 and 1 overlap: 0.100 Å"),
        (Atoms("Cu", cell=[4, 4, 0.9], pbc=True), "atom 0 overlaps its own periodic image: 0.900 Å"),
        (Atoms("Cu2", [[0, 0, 0], [0, 0, 2.5]], cell=[3, 3, 20], pbc=[True, True, False]), "along a, b only"),
    ],
)
def test_remarks_see_periodic_images(atoms: Atoms, remark: str) -> None:
    assert remark in " ".join(check_structure(atoms))


def spoil(crystals: list[Atoms], how: str) -> list[Atoms]:
    atoms = crystals[1]
    if how == "positions":
        atoms.positions[1, 2] = np.nan
    elif how == "no cell":
        atoms.cell[2] = 0.0
    elif how == "flat":
        atoms.cell[2] = atoms.cell[0]
    elif how == "element":
        atoms.numbers[0] = 0
    return crystals


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("positions", "frame 1: positions of atoms 1 are not finite"),
        ("no cell", "frame 1: periodic along c but without a lattice vector"),
        ("flat", "frame 1: the lattice vectors lie in one plane"),
        ("element", "frame 1: atoms 0 are of no known element"),
    ],
)
def test_errors_name_file_and_frame(tmp_path: Path, crystals: list[Atoms], how: str, message: str) -> None:
    file = tmp_path / "bad.traj"
    ase.io.write(file, spoil(crystals, how))
    with pytest.raises(StructureError, match=f"bad.traj, {message}"):
        read_structures(file)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.cif", "", "empty.cif: the file is empty"),
        ("empty.csv", "", "no rows"),
        ("header.csv", "cif,id\n", "no rows"),
        ("other.csv", "a,b\n1,2\n", "no column holds CIF text; its columns are a, b"),
        ("half.extxyz", '4\nLattice="4 0 0 0 4 0 0 0 4"\nCu 0 0 0\n', "half.extxyz: can't be read as extxyz"),
        ("noise.cif", "loop_\n_atom_site_label\n", "noise.cif: "),
        ("noise.traj", "nothing of the kind", "noise.traj: "),
        ("noise", "nothing of the kind", "doesn't recognise the format"),
        ("zero.xyz", "0\n\n", "has no atoms"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(StructureError, match=message):
        read_structures(tmp_path / name)


def test_bad_row_of_a_table(tmp_path: Path, crystals: list[Atoms]) -> None:
    (tmp_path / "t.csv").write_text(f'cif\n"{as_cif(crystals[0]).replace(chr(34), "")}"\n"junk"\n')
    with pytest.raises(StructureError, match=r"t\.csv, row 1: column 'cif' is not CIF text"):
        read_structures(tmp_path / "t.csv")


def test_partly_occupied_sites_are_refused(tmp_path: Path) -> None:
    cif = as_cif(bulk("NiAl", "cesiumchloride", a=2.88))
    (tmp_path / "disordered.cif").write_text(cif.replace("1.0000\n", "0.5000\n"))
    assert "0.5000" in (tmp_path / "disordered.cif").read_text()
    with pytest.raises(StructureError, match="occupied only in part"):
        read_structures(tmp_path / "disordered.cif")


def test_truncated_archives(tmp_path: Path, crystals: list[Atoms]) -> None:
    ase.io.write(tmp_path / "set.traj", crystals)
    whole = (tmp_path / "set.traj").read_bytes()
    (tmp_path / "set.traj").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StructureError, match=r"set\.traj: can't be read as traj"):
        read_structures(tmp_path / "set.traj")
    (tmp_path / "t.extxyz.gz").write_bytes(gzip.compress(b"4\n")[:-6])
    with pytest.raises(StructureError, match=r"t\.extxyz\.gz: "):
        read_structures(tmp_path / "t.extxyz.gz")


def test_missing_files_and_folders_without_structures(tmp_path: Path) -> None:
    with pytest.raises(StructureError, match=r"nothere\.cif: no such file"):
        read_structures(tmp_path / "nothere.cif")
    (tmp_path / "README.md").write_text("no crystals")
    with pytest.raises(StructureError, match="the folder has no file in a format that ASE recognises"):
        read_structures(tmp_path)
    with pytest.raises(StructureError, match="at least one file"):
        read_structures([])


def test_a_damaged_file_in_a_folder_is_not_passed_over(tmp_path: Path, crystals: list[Atoms]) -> None:
    ase.io.write(tmp_path / "a.cif", crystals[0])
    (tmp_path / "b.cif").write_text("")
    with pytest.raises(StructureError, match=r"b\.cif: the file is empty"):
        read_structures(tmp_path)


def test_unreadable_file(tmp_path: Path, crystals: list[Atoms]) -> None:
    folder = tmp_path / "folder.traj"  # a folder with the name of a file
    folder.mkdir()
    ase.io.write(tmp_path / "x.cif", crystals[0])
    shutil.copy(tmp_path / "x.cif", folder / "inside.cif")
    assert read_structures(folder)[0].id == f"{folder}/inside.cif#0"
