"""What potential files of LAMMPS hold, told without LAMMPS."""

from pathlib import Path

import pytest

from relaxrl.errors import CalculatorError
from relaxrl.potentials.lammps_files import read_lammps_file

REFERENCE = Path(__file__).parent / "reference"
TRIPLET = "C C C 1 2 3\nSi Si Si 1 2\n 3 # In a comment\n"
EIM = " global: 2 -1.6 1.6\nelement: Na 11 22.99 0.9\nelement:  Id 53 126.9 2.66\npair: Na Id 1 2\n"
LIBRARY = "".join(f"'{name}' 'fcc' 12. 13 26.98\n4.6 2 3\n" for name in ("AlS", "SiS", "C", "Si", "WL"))


@pytest.mark.parametrize(
    ("name", "style", "symbols"),
    [("Si.sw", "sw", ["Si"]), ("SiC.tersoff", "tersoff", ["C", "Si"]), ("AlCu.eam.fs", "eam/fs", ["Al", "Cu"])],
)
def test_style_and_elements_by_ending_and_content(name: str, style: str, symbols: list[str]) -> None:
    found = read_lammps_file(REFERENCE / name)
    assert found.style == style
    assert sorted(found.names) == symbols
    path = (REFERENCE / name).resolve()
    assert found.commands(symbols[:1]) == [f"pair_style {style}", f'pair_coeff * * "{path}" {symbols[0]}']


def test_longer_endings_win_and_headers_tell_where_endings_do_not(tmp_path: Path) -> None:
    for name in ("a.tersoff.zbl", "b.gw.zbl", "c.vashishta"):
        (tmp_path / name).write_text(TRIPLET)
        assert read_lammps_file(tmp_path / name).elements == {6, 14}
    assert read_lammps_file(tmp_path / "a.tersoff.zbl").style == "tersoff/zbl"
    (tmp_path / "mine.txt").write_text(f"# Stillinger-Weber parameters by me\n{TRIPLET}")
    assert read_lammps_file(tmp_path / "mine.txt").style == "sw"
    for form in ("alloy", "fs"):
        (tmp_path / "table").write_text((REFERENCE / f"AlCu.eam.{form}").read_text())
        assert read_lammps_file(tmp_path / "table").style == f"eam/{form}"
    (tmp_path / "unknown.txt").write_text(TRIPLET)
    with pytest.raises(CalculatorError, match=r"can't tell the pair style of .*unknown.txt.*style=STYLE"):
        read_lammps_file(tmp_path / "unknown.txt")
    assert read_lammps_file(tmp_path / "unknown.txt", style="sw", elements=["Si"]).elements == {14}


def test_a_file_of_one_element_is_given_type_by_type(tmp_path: Path) -> None:
    path = tmp_path / "Cu.eam"
    path.write_text("Cu\n29 63.55 3.6 FCC\n5 0.1 5 0.1 5.0\n")
    assert read_lammps_file(path).commands(["Cu"])[1] == f'pair_coeff 1 1 "{path}"'
    path.write_text("Cu\n0 63.55 3.6 FCC\n")
    with pytest.raises(CalculatorError, match="expected an atomic number in line 2, got '0 63"):
        read_lammps_file(path)


def test_names_of_eim_are_those_of_its_table(tmp_path: Path) -> None:
    path = tmp_path / "ffield.eim"
    path.write_text(EIM)
    found = read_lammps_file(path)
    assert found.names == {"Na": "Na", "I": "Id"}
    assert found.commands(["I", "Na"])[1] == f'pair_coeff * * Id Na "{path}" Id Na'


def test_meam_takes_its_names_from_comment_or_file_name(tmp_path: Path) -> None:
    (tmp_path / "library.meam").write_text(LIBRARY)
    (tmp_path / "AlSi.meam").write_text("# header\n# use with AlS SiS from library.meam\nrc = 4.0\n")
    (tmp_path / "SiC.meam").write_text("rc = 4.0\n")
    (tmp_path / "WL.meam").write_text("rc = 4.0\n")
    assert read_lammps_file(tmp_path / "AlSi.meam").names == {"Al": "AlS", "Si": "SiS"}
    assert read_lammps_file(tmp_path / "WL.meam").names == {"W": "WL"}
    found = read_lammps_file(tmp_path / "SiC.meam")
    expected = f'pair_coeff * * "{tmp_path}/library.meam" Si C "{tmp_path}/SiC.meam" C'
    assert found.commands(["C"]) == ["pair_style meam", expected]
    (tmp_path / "mine.meam").write_text("rc = 4.0\n")
    with pytest.raises(CalculatorError, match=r"can't tell its elements, got none .*elements=\['Si','C'\]"):
        read_lammps_file(tmp_path / "mine.meam")
    assert read_lammps_file(tmp_path / "mine.meam", elements=["C", "SiS"]).names == {"C": "C", "Si": "SiS"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"elements": "Si"}, r"`elements` must be a list such as \['Si','C'\], got 'Si'"),
        ({"elements": ["Sj"]}, "expected symbols of elements, got 'Sj'"),
        ({"library": "library.meam"}, "`library` goes with files of MEAM"),
    ],
)
def test_bad_arguments(arguments: dict[str, str], said: str) -> None:
    with pytest.raises(CalculatorError, match=said):
        read_lammps_file(REFERENCE / "Si.sw", **arguments)


def test_files_without_elements(tmp_path: Path) -> None:
    (tmp_path / "a.sw").write_text("# nothing\n")
    with pytest.raises(CalculatorError, match="found no elements in this file of pair style `sw`"):
        read_lammps_file(tmp_path / "a.sw")
    (tmp_path / "a.eam.alloy").write_text("1\n2\n3\nAl Cu\n")
    with pytest.raises(CalculatorError, match="number of elements and their names in line 4, got 'Al Cu'"):
        read_lammps_file(tmp_path / "a.eam.alloy")
