import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write

from relaxrl.cli.main import main
from relaxrl.errors import StructureError
from relaxrl.structures.frame_making import FramesRecipe, make_frames
from relaxrl.structures.frames import Frame, load_frames, save_frames, towards
from relaxrl.structures.relaxation import relaxed_with


@pytest.fixture(scope="module")
def minimum() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.symbols[0] = "Au"
    return relaxed_with(atoms, EMT(), 1e-4, 300, cell=True)


@pytest.fixture(scope="module")
def frames(minimum: Atoms) -> list[Frame]:
    atoms = minimum.copy()
    atoms.calc = EMT()
    recipe = FramesRecipe(displacements=6, relaxations=2, points=5)
    generator = np.random.default_rng(0)
    return make_frames(minimum, atoms.get_potential_energy(), EMT(), recipe, generator, "x#0", "fcc AuCu3", "emt")


def test_labels_are_those_of_the_calculator(frames: list[Frame]) -> None:
    assert len(frames) >= 8
    for frame in frames:
        atoms = frame.atoms.copy()
        atoms.calc = EMT()
        assert frame.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
        np.testing.assert_allclose(frame.forces, atoms.get_forces(), atol=1e-9)
        np.testing.assert_allclose(frame.stress, atoms.get_stress(), atol=1e-9)
        assert frame.energy > frame.minimum_energy - 1e-6


def test_some_are_strained_and_some_are_not(frames: list[Frame], minimum: Atoms) -> None:
    sizes = np.array([np.abs(frame.strain).max() for frame in frames])
    assert (sizes == 0).any()
    assert (sizes > 0.005).any()
    assert sizes.max() < 0.1
    for frame, size in zip(frames, sizes, strict=True):
        assert (size == 0) == np.array_equal(frame.atoms.cell.array, minimum.cell.array)


def test_strain_and_displacements_lead_to_the_minimum(frames: list[Frame]) -> None:
    for frame in frames:
        deformation = np.eye(3) + frame.strain
        np.testing.assert_allclose(frame.atoms.cell.array @ deformation, frame.minimum.cell.array, atol=1e-9)
        end = Atoms(
            frame.atoms.numbers,
            frame.atoms.positions @ deformation + frame.displacements,
            cell=frame.atoms.cell.array @ deformation,
            pbc=True,
            calculator=EMT(),
        )
        assert end.get_potential_energy() == pytest.approx(frame.minimum_energy, abs=1e-6)
        assert np.abs(end.get_stress()).max() < 1e-3


def test_a_rotated_minimum_is_turned_to_a_symmetric_strain(minimum: Atoms) -> None:
    turned = minimum.copy()
    turned.rotate(25, (1, 2, 3), rotate_cell=True)
    start = minimum.copy()
    start.set_cell(start.cell.array @ (np.eye(3) + np.diag([0.03, -0.02, 0.01])), scale_atoms=True)
    found = towards(start, turned)
    strain = np.linalg.solve(start.cell.array, found.cell.array) - np.eye(3)
    np.testing.assert_allclose(strain, strain.T, atol=1e-12)
    np.testing.assert_allclose(found.cell.array, minimum.cell.array, atol=1e-8)
    np.testing.assert_allclose(found.get_all_distances(mic=True), minimum.get_all_distances(mic=True), atol=1e-8)


def test_files_hold_them(frames: list[Frame], tmp_path: Path) -> None:
    path = tmp_path / "some-frames.npz"
    save_frames(path, frames)
    for one, other in zip(frames, load_frames(path), strict=True):
        np.testing.assert_array_equal(one.atoms.positions, other.atoms.positions)
        np.testing.assert_array_equal(one.atoms.cell.array, other.atoms.cell.array)
        np.testing.assert_allclose(one.forces, other.forces, atol=1e-6)
        np.testing.assert_allclose(one.minimum.positions, other.minimum.positions, atol=1e-9)
        assert (one.energy, one.crystal, one.parent, one.calculator) == (
            other.energy,
            other.crystal,
            other.parent,
            other.calculator,
        )
    with np.load(path) as arrays:
        assert len(arrays["minimum_cells"]) == 1  # minima once


def test_relaxations_of_one_name_keep_their_own_ends(minimum: Atoms, tmp_path: Path) -> None:
    """As of a file that was relaxed for one agent, and again, or with other content, for the next."""
    moved, larger = minimum.copy(), minimum.repeat((2, 1, 1))
    moved.positions[0] += 0.1
    ends = [(minimum, -1.0), (moved, -0.9), (larger, -2.0)]
    frames = [Frame(end, 0.0, np.zeros((len(end), 3)), None, end, energy, "x#0", "p", "emt") for end, energy in ends]
    save_frames(tmp_path / "f.npz", frames)
    for frame, (end, energy) in zip(load_frames(tmp_path / "f.npz"), ends, strict=True):
        np.testing.assert_array_equal(frame.minimum.numbers, end.numbers)
        np.testing.assert_array_equal(frame.minimum.positions, end.positions)
        assert frame.minimum_energy == energy


def test_frames_without_stress(minimum: Atoms, tmp_path: Path) -> None:
    frame = Frame(minimum, 0.0, np.zeros((4, 3)), None, minimum, 0.0, "x#0", "p", "emt")
    save_frames(tmp_path / "f.npz", [frame])
    assert load_frames(tmp_path / "f.npz")[0].stress is None


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(StructureError, match="no frames"):
        save_frames(tmp_path / "none.npz", [])
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    for name in ("bad.npz", "missing.npz"):
        with pytest.raises(StructureError, match="expected labelled frames"):
            load_frames(tmp_path / name)
    np.savez(tmp_path / "other.npz", sizes=np.zeros(2))
    with pytest.raises(StructureError, match="expected labelled frames"):
        load_frames(tmp_path / "other.npz")


def test_the_command_labels_a_set(tmp_path: Path, minimum: Atoms, capsys: pytest.CaptureFixture[str]) -> None:
    minimum = minimum.copy()
    minimum.info = {"relaxrl_calculator": "emt", "relaxrl_parent": "fcc AuCu3"}
    write(tmp_path / "minima.extxyz", [minimum])
    file, out = str(tmp_path / "minima.extxyz"), str(tmp_path / "mine-frames.npz")
    assert main(["structures", "frames", file, "--displacements", "3", "--jobs", "1", "--out", out]) == 0
    assert "labelled frames of 1 minima" in capsys.readouterr().out
    found = load_frames(out)
    assert len(found) >= 3
    assert {(frame.crystal, frame.parent, frame.calculator) for frame in found} == {(f"{file}#0", "fcc AuCu3", "emt")}
    for wrong in (
        ["--out", str(tmp_path / "x.npz")],
        ["--rattle", "much", "--out", out],
        ["--strain", "2", "--out", out],
    ):
        assert main(["structures", "frames", file, *wrong]) == 2


def test_what_is_no_minimum_is_left_out(tmp_path: Path, minimum: Atoms, capsys: pytest.CaptureFixture[str]) -> None:
    start = minimum.copy()
    start.rattle(0.1, seed=0)
    write(tmp_path / "both.extxyz", [start, minimum])
    file, out = str(tmp_path / "both.extxyz"), str(tmp_path / "mine-frames.npz")
    words = ["structures", "frames", file, "--calculator", "emt", "--displacements", "2", "--jobs", "1", "--out", out]
    assert main(words) == 1
    assert "both.extxyz#0: left out: no minimum (forces above 0.1 eV/Å)" in capsys.readouterr().out
    assert {frame.crystal for frame in load_frames(out)} == {f"{file}#1"}


@pytest.mark.parametrize("known", [True, False])
def test_a_calculator_without_stress_labels_unstrained_frames(
    tmp_path: Path, minimum: Atoms, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    (tmp_path / "stressless.py").write_text(
        "from ase.calculators.calculator import PropertyNotImplementedError\n"
        "from ase.calculators.emt import EMT\n"
        "class Stressless(EMT):\n"
        f"    implemented_properties = [p for p in EMT.implemented_properties if p != 'stress' or {not known}]\n"
        "    def get_property(self, name, *arguments, **options):\n"
        "        if name == 'stress':\n"
        "            raise PropertyNotImplementedError(name)\n"
        "        return super().get_property(name, *arguments, **options)\n"
        "    def calculate(self, *arguments, **options):\n"
        "        super().calculate(*arguments, **options)\n"
        "        self.results.pop('stress', None)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "stressless", raising=False)
    write(tmp_path / "minima.extxyz", [minimum])
    out = tmp_path / "mine-frames.npz"
    words = ["structures", "frames", str(tmp_path / "minima.extxyz"), "--calculator", "stressless:Stressless"]
    words += ["--displacements", "2", "--jobs", "1", "--out", str(out)]
    assert main([*words, "--strain", "0"]) == 0
    found = load_frames(out)
    assert len(found) >= 3
    assert all(frame.stress is None for frame in found)
    out.unlink()
    if known:  # what a calculator says of itself is seen before the start
        assert main(words) == 2
        assert "strained starts: calculator stressless:Stressless gives no stress" in capsys.readouterr().err
        assert not out.exists()
    else:  # another one labels what it can
        assert main(words) == 0
        assert {np.abs(frame.strain).max() for frame in load_frames(out)} == {0.0}
