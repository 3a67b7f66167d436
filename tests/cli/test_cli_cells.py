import re

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read, write

from relaxrl.cli.main import main
from relaxrl.errors import CheckpointError
from relaxrl.optimize import Campaign, Conditions, RelaxCell
from relaxrl.potentials import parse_calculator


@pytest.fixture
def start(tmp_path):
    atoms = bulk("Cu", a=3.75, cubic=True)
    atoms.symbols[0] = "Ni"
    atoms.rattle(0.1, seed=0)
    write(tmp_path / "start.extxyz", atoms)
    return tmp_path / "start.extxyz"


def relax(start, *arguments):
    out = start.with_name("out.extxyz")
    status = main(["relax", str(start), "--calculator", "emt", "--out", str(out), *arguments])
    return status, read(out) if out.exists() else None


def test_cells_relax_only_where_asked_for(start):
    status, atoms = relax(start)
    assert status == 0
    np.testing.assert_array_equal(atoms.cell.array, read(start).cell.array)
    assert np.abs(read(start).cell.array).max() == 3.75
    status, atoms = relax(start, "--cell")
    assert status == 0
    assert atoms.get_volume() < 0.95 * 3.75**3
    stress = atoms.get_stress()  # written with the structure
    atoms.calc = EMT()
    np.testing.assert_allclose(stress, atoms.get_stress(), atol=1e-5)
    assert np.abs(stress).max() < 0.01 * 4 / atoms.get_volume() * 1.1


def test_parts_of_the_strain(start):
    status, atoms = relax(start, "--cell", "--free", "xx,yy", "--smax", "0.0002", "--pressure", "0.01")
    assert status == 0
    np.testing.assert_allclose(atoms.cell.array[2], [0, 0, 3.75], atol=1e-7)
    atoms.calc = EMT()
    np.testing.assert_allclose(atoms.get_stress()[:2], -0.01, atol=3e-4)
    status, atoms = relax(start, "--cell", "--constant-volume")
    assert status == 0
    assert atoms.get_volume() == pytest.approx(3.75**3, rel=1e-6)
    status, atoms = relax(start, "--cell", "--hydrostatic")
    assert status == 0
    np.testing.assert_allclose(atoms.cell.array / atoms.cell.array[0, 0], np.eye(3), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--smax", "0.01"], "add --cell"),
        (["--cell", "--free", "xx,ab"], "got ab"),
        (["--cell", "--smax", "-1"], "must be positive"),
        (["--cell", "--hydrostatic", "--constant-volume"], "leave no strain"),
    ],
)
def test_settings_that_make_no_sense(start, capsys, arguments, message):
    assert relax(start, *arguments)[0] == 2
    assert message in capsys.readouterr().err


def test_cells_that_can_not_relax_are_refused_before_the_first_step(tmp_path, capsys):
    whole, flat = bulk("Cu", cubic=True), bulk("Cu", cubic=True)
    flat.set_cell([[3.6, 0, 0], [0, 3.6, 0], [3.5, 3.5, 0.05]])
    write(tmp_path / "start.extxyz", [whole, flat])
    before = sorted(tmp_path.iterdir())
    assert relax(tmp_path / "start.extxyz", "--cell")[0] == 2
    assert re.search(r"start\.extxyz#1: the cell is nearly flat", capsys.readouterr().err)
    assert sorted(tmp_path.iterdir()) == before


def test_a_journal_knows_whether_cells_relax(tmp_path):
    spec, structures = parse_calculator("emt"), [(str(k), bulk("Cu", a=3.7 + 0.01 * k)) for k in range(2)]
    journal = tmp_path / "journal"
    next(iter(Campaign(structures, Conditions(None, spec, cell=RelaxCell()), journal).run()))
    assert len(Campaign(structures, Conditions(None, spec, cell=RelaxCell()), journal).waiting) == 1
    for other in (None, RelaxCell(constant_volume=True)):
        with pytest.raises(CheckpointError, match="cell"):
            Campaign(structures, Conditions(None, spec, cell=other), journal)
