import argparse
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms

from relaxrl.cli import structures
from relaxrl.errors import CalculatorError, ConfigError, RelaxRLError, StructureError
from relaxrl.structures import read_structures


def relaxrl(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    structures.add_parser(parser.add_subparsers())
    args = parser.parse_args(["structures", *argv])
    return int(args.run(args))


@pytest.fixture
def file(tmp_path: Path) -> str:
    saddle = bulk("Cu", "bcc", a=2.87, cubic=True) * (2, 2, 1)
    minimum = bulk("Cu", cubic=True)
    ase.io.write(tmp_path / "copper.extxyz", [saddle, minimum])
    return str(tmp_path / "copper.extxyz")


@pytest.mark.parametrize("command", ["", "inspect", "minimize", "split", "generate", "make", "convert"])
def test_help_explains(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        relaxrl(*command.split(), "--help")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert len(text) > 300
    assert max(map(len, text.splitlines())) <= 120


def test_inspect_tells_minima_from_saddle_points(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert relaxrl("inspect", file, "--calculator", "emt", "--hessian") == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(f"{file}#0" in line and "Cu8" in line and "saddle point" in line for line in lines)
    assert any(f"{file}#1" in line and "8.97" in line and "minimum" in line for line in lines)
    assert any("2 structures (2 x start) of 2 parents, 4 to 8 atoms, elements Cu" in line for line in lines)


def test_inspect_shows_so_many_rows_and_what_is_odd(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    close = bulk("Cu", cubic=True)
    close.positions[1] = [0.3, 0, 0]
    ase.io.write(tmp_path / "odd.extxyz", [close, bulk("Cu"), bulk("Cu")])
    assert relaxrl("inspect", str(tmp_path / "odd.extxyz"), "--rows", "1") == 0
    text = capsys.readouterr().out
    assert "atoms 0 and 1 overlap: 0.300 Å" in text
    assert "... and 2 more" in text
    assert "2 x a single atom" in text


def test_minimize_leaves_saddle_points(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "minima.extxyz"
    assert relaxrl("minimize", file, "--calculator", "emt", "--jobs", "1", "--out", str(out)) == 0
    assert "2 structures (2 x minimum)" in capsys.readouterr().out
    assert [crystal.parent for crystal in read_structures(out)] == [f"{file}#0", f"{file}#1"]
    assert relaxrl("inspect", str(out), "--calculator", "emt", "--hessian") == 0
    assert "2 x minimum" in capsys.readouterr().out


@pytest.mark.parametrize("check", ["hessian", "rattle"])
def test_minimize_relaxes_cells_too(check: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if check == "rattle":  # has no need of any Hessian
        monkeypatch.setattr("relaxrl.structures.minima.softest_modes", None)
    strained = bulk("Cu", cubic=True)
    strained.set_cell(strained.cell.array @ [[1.02, 0.01, 0], [0.01, 0.97, 0], [0, 0, 1]], scale_atoms=True)
    ase.io.write(tmp_path / "in.extxyz", strained)
    arguments = (
        "--calculator",
        "emt",
        "--cell",
        "--check",
        check,
        "--jobs",
        "1",
        "--out",
        str(tmp_path / "out.extxyz"),
    )
    assert relaxrl("minimize", str(tmp_path / "in.extxyz"), *arguments) == 0
    relaxed = read_structures(tmp_path / "out.extxyz")[0].atoms.copy()
    relaxed.calc = EMT()
    assert np.abs(relaxed.get_stress()).max() * relaxed.get_volume() < 1e-2
    assert np.abs(strained.cell.lengths() - relaxed.cell.lengths()).max() > 0.03


def test_minimize_refuses_to_relax_the_cell_of_a_molecule(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "in.extxyz", molecule("N2", vacuum=3))
    arguments = ("--calculator", "emt", "--cell", "--out", str(tmp_path / "out.extxyz"))
    with pytest.raises(StructureError, match=r"in.extxyz#0: expected a crystal that is periodic in three directions"):
        relaxrl("minimize", str(tmp_path / "in.extxyz"), *arguments)


def test_minimize_refuses_to_relax_cells_without_stress(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "in.extxyz", bulk("Cu", cubic=True))
    calculator = "ase.calculators.harmonic:HarmonicCalculator,harmonicforcefield=None"
    arguments = ("--calculator", calculator, "--cell", "--out", str(tmp_path / "out.extxyz"))
    with pytest.raises(CalculatorError, match="gives no stress"):
        relaxrl("minimize", str(tmp_path / "in.extxyz"), *arguments)


def test_minimize_moves_no_fixed_atoms(tmp_path: Path) -> None:
    arguments = ("--calculator", "emt", "--jobs", "1", "--out", str(tmp_path / "out.extxyz"))
    free, fixed = bulk("Cu", cubic=True), bulk("Cu", cubic=True)
    fixed.set_constraint(FixAtoms([0]))
    free.set_constraint(FixAtoms([]))  # as of files that say of each atom that it is free
    ase.io.write(tmp_path / "in.traj", [free, fixed])
    with pytest.raises(StructureError, match=r"in\.traj#1: has constraints \(FixAtoms\).*use `relaxrl relax`"):
        relaxrl("minimize", str(tmp_path / "in.traj"), *arguments)
    assert not (tmp_path / "out.extxyz").exists()
    assert relaxrl("minimize", f"{tmp_path}/in.traj@0:1", *arguments) == 0


@pytest.mark.parametrize("check", ["hessian", "rattle"])
def test_minimize_takes_no_zero_for_forces(check: str, file: str, tmp_path: Path) -> None:
    arguments = ("--calculator", "emt", "--check", check, "--fmax", "0", "--out", str(tmp_path / "out.extxyz"))
    with pytest.raises(ConfigError, match="`fmax` must be positive"):
        relaxrl("minimize", file, *arguments)


def test_minimize_says_what_has_no_minimum(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    apart = bulk("Cu", cubic=True)
    apart.set_cell([60, 60, 60])
    apart.positions[:] = np.diag([0.0, 20, 40])[[0, 1, 2, 2]] + [[0, 0, 0], [0, 0, 0], [0, 0, 0], [10, 10, 10]]
    ase.io.write(tmp_path / "two.extxyz", [apart, bulk("Cu", cubic=True)])
    arguments = ("--calculator", "emt", "--jobs", "1", "--out", str(tmp_path / "out.extxyz"))
    assert relaxrl("minimize", str(tmp_path / "two.extxyz"), *arguments) == 1
    assert "two.extxyz#0: no true minimum found nearby" in capsys.readouterr().out
    assert len(read_structures(tmp_path / "out.extxyz")) == 1


def test_processes_change_nothing(file: str, tmp_path: Path) -> None:
    outs = [str(tmp_path / f"{jobs}.extxyz") for jobs in (1, 2)]
    for jobs, out in enumerate(outs, start=1):
        assert relaxrl("minimize", file, "--calculator", "emt", "--jobs", str(jobs), "--out", out) == 0
    assert Path(outs[0]).read_text() == Path(outs[1]).read_text()


def test_generate_split_and_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alloys = str(tmp_path / "alloys.extxyz")
    options = ("--elements", "Al,Ni,Cu", "--prototypes", "fcc,B2", "--atoms", "4-8", "--count", "20", "--seed", "5")
    assert relaxrl("generate", *options, "--out", alloys) == 0
    first = Path(alloys).read_text()
    assert relaxrl("generate", *options, "--out", alloys) == 0
    assert Path(alloys).read_text() == first
    drawn = read_structures(alloys)
    assert len(drawn) == 20
    assert all(4 <= len(crystal.atoms) <= 8 for crystal in drawn)

    assert relaxrl("split", alloys, "--parts", "train=0.7,test=0.3", "--out", str(tmp_path / "sets")) == 0
    train, test = (read_structures(tmp_path / "sets" / f"{part}.extxyz") for part in ("train", "test"))
    assert len(train) + len(test) == 20
    assert abs(len(train) - 14) <= 3
    assert not {crystal.parent for crystal in train} & {crystal.parent for crystal in test}

    assert relaxrl("convert", alloys, "--out", str(tmp_path / "alloys.db")) == 0
    again = read_structures(tmp_path / "alloys.db")
    assert [crystal.parent for crystal in again] == [crystal.parent for crystal in drawn]
    assert "20 structures" in capsys.readouterr().out


def test_convert_a_shipped_set(tmp_path: Path) -> None:
    assert relaxrl("convert", "metals:dev", "--out", str(tmp_path / "dev.extxyz")) == 0
    dev = read_structures("metals:dev")
    for new, old in zip(read_structures(tmp_path / "dev.extxyz"), dev, strict=True):
        np.testing.assert_allclose(new.atoms.positions, old.atoms.positions, atol=1e-8)
        assert (new.parent, new.kind, new.minimum_energy) == (old.parent, old.kind, old.minimum_energy)


def test_make_a_set_from_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "name: tiny\nsplits:\n"
        "  train: {starts: false, groups: [{count: 3, alloys: {elements: [Cu, Au], max_atoms: 6}}]}\n"
        "  test: {groups: [{count: 2, alloys: {elements: [Cu, Au], max_atoms: 6}}]}\n"
    )
    for folder in ("one", "two"):
        arguments = (str(tmp_path / "recipe.yaml"), "seed=1", "--jobs", "1", "--out", str(tmp_path / folder))
        assert relaxrl("make", *arguments) == 0
    for part in ("train", "test"):
        made = [tmp_path / folder / f"tiny-{part}.npz" for folder in ("one", "two")]
        assert made[0].read_bytes() == made[1].read_bytes()
    assert "tiny-test.npz: 2 starts and their minima" in capsys.readouterr().out
    assert {crystal.kind for crystal in read_structures(tmp_path / "one" / "tiny-train.npz")} == {"minimum"}
    assert {crystal.kind for crystal in read_structures(tmp_path / "one" / "tiny-test.npz")} == {"start"}
    assert len(read_structures(tmp_path / "one")) == 5


@pytest.mark.parametrize(
    ("argv", "error", "message"),
    [
        ("inspect FILE --hessian", StructureError, "name a --calculator"),
        ("inspect FILE --calculator em", CalculatorError, "em"),
        ("inspect nothere.cif", StructureError, "nothere.cif: no such file"),
        ("split FILE --parts train --out x", StructureError, "expected NAME=SHARE"),
        ("split FILE --parts a=0.5,b=0.2 --out x", StructureError, "must sum to 1"),
        ("generate --elements Cu --atoms few --out x.xyz", StructureError, "expected MIN-MAX"),
        ("generate --elements Cu --count 0 --out x.xyz", StructureError, "--count"),
        ("generate --out x.xyz", StructureError, "alloys need symbols"),
        ("generate --kind random --out x.xyz", RelaxRLError, "key `formulas` is missing"),
        ("generate --kind random formulas=[MgO] --calculator emt --out x.xyz", CalculatorError, "Mg"),
        ("generate --kind random formulas=[MgO] --elements Mg,O --out x.xyz", StructureError, "--elements: random"),
        ("generate --kind random formulas=[MgO] --prototypes fcc --out x.xyz", StructureError, "--prototypes: random"),
        ("generate --kind random formulas=[MgO] --strain 0.1 --out x.xyz", StructureError, "--strain: random"),
        ("generate --kind random formulas=[MgO] --vacancies 0.1 --out x.xyz", StructureError, "--vacancies: random"),
        ("generate --kind random formulas=[MgO] --rattle 0.1 --out x.xyz", StructureError, "--rattle: random"),
        ("generate --kind compounds rule=any --out x.xyz", RelaxRLError, "at least one element"),
        ("generate --elements Qq --out x.xyz", RelaxRLError, "'Qq' is not an element's symbol"),
        ("make nothere.yaml --out x", RelaxRLError, "nothere.yaml"),
    ],
)
def test_wrong_arguments(file: str, argv: str, error: type[RelaxRLError], message: str) -> None:
    with pytest.raises(error, match=message):
        relaxrl(*(file if word == "FILE" else word for word in argv.split()))


def test_an_element_that_the_calculator_does_not_know(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "iron.extxyz", [bulk("Cu"), bulk("Fe")])
    arguments = (str(tmp_path / "iron.extxyz"), "--calculator", "emt")
    with pytest.raises(CalculatorError, match=r"for Fe.*iron\.extxyz#1"):
        relaxrl("inspect", *arguments)
    with pytest.raises(CalculatorError, match=r"for Fe.*iron\.extxyz#1"):
        relaxrl("minimize", *arguments, "--out", str(tmp_path / "out.extxyz"))


def test_generate_random_crystals(tmp_path: Path) -> None:
    out = str(tmp_path / "random.extxyz")
    options = ["--kind", "random", "formulas=[SrTiO3,MgO]", "--atoms", "10-20", "--count", "6"]
    assert relaxrl("generate", *options, "--out", out) == 0
    crystals = read_structures(out)
    assert len(crystals) == 6
    assert all(10 <= len(crystal.atoms) <= 20 for crystal in crystals)
    assert {crystal.parent for crystal in crystals} == {"random O3SrTi", "random MgO"}
    assert {crystal.kind for crystal in crystals} == {"start"}
