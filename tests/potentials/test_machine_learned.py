"""Universal machine-learned potentials: conventions, consistency, and what is said where they can't be had."""

import importlib.util
import pickle
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from relaxrl.errors import CalculatorError
from relaxrl.potentials import parse_calculator
from relaxrl.potentials.machine_learned import MPTRJ_ELEMENTS, ModelCalculator

SINGLE = 4e-3
"""Relative; central differences of energies in single precision."""
STEP = 1e-2


@pytest.fixture(scope="module", params=["chgnet", "sevenn"])
def calculator(request: pytest.FixtureRequest) -> Any:
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"pip install 'relaxrl[{request.param}]'")
    return parse_calculator(request.param).create()


def magnesia() -> Atoms:
    atoms = bulk("MgO", "rocksalt", a=4.3)
    atoms.rattle(0.15, seed=1)
    atoms.set_cell(
        atoms.cell.array @ (np.eye(3) + 0.03 * np.random.default_rng(0).normal(size=(3, 3))), scale_atoms=True
    )
    return atoms


def test_forces_and_stress_are_derivatives_of_the_energy(calculator: Any) -> None:
    atoms = magnesia()
    atoms.calc = calculator
    forces, stress = atoms.get_forces(), atoms.get_stress(voigt=False)
    assert forces.dtype == stress.dtype == np.float64
    positions, cell = atoms.positions.copy(), atoms.cell.array.copy()
    rng = np.random.default_rng(1)
    direction = rng.normal(size=positions.shape)
    direction -= direction.mean(0)
    slope = _slope(lambda step: atoms.set_positions(positions + step * direction), atoms)
    assert slope == pytest.approx(-np.sum(forces * direction), abs=SINGLE * 3)
    atoms.positions = positions
    strain = rng.normal(size=(3, 3)) / 2
    strain = strain + strain.T
    slope = _slope(lambda step: atoms.set_cell(cell @ (np.eye(3) + step * strain), scale_atoms=True), atoms)
    assert slope / abs(np.linalg.det(cell)) == pytest.approx(np.sum(stress * strain), abs=SINGLE)
    assert np.abs(stress).max() > 5 * SINGLE


def test_left_handed_vectors_are_the_same_crystal(calculator: Any) -> None:
    right = magnesia()
    left = right.copy()
    left.set_cell(right.cell.array[[1, 0, 2]])
    np.testing.assert_allclose(calculator.get_stress(left), calculator.get_stress(right), atol=1e-5)
    np.testing.assert_allclose(calculator.get_forces(left), calculator.get_forces(right), atol=1e-4)


def test_models_are_shown_right_handed_vectors() -> None:
    seen = []

    class Model:
        results: ClassVar[dict[str, Any]] = {"energy": 0.0, "forces": np.zeros((2, 3)), "stress": np.zeros(6)}

        def calculate(self, atoms: Atoms, *args: Any) -> None:
            del args
            seen.append(atoms)

    atoms = magnesia()
    atoms.set_cell(atoms.cell.array[[1, 0, 2]])
    ModelCalculator("model", Model(), MPTRJ_ELEMENTS, periodic=True).get_stress(atoms)
    assert [shown.cell.handedness for shown in seen] == [1]
    np.testing.assert_array_equal(seen[0].positions, atoms.positions)
    same = np.linalg.solve(atoms.cell.array.T, seen[0].cell.array.T)
    np.testing.assert_allclose(same, same.round(), atol=1e-12)  # the same lattice


def _slope(move: Any, atoms: Atoms) -> float:
    """Derivative at 0 by differences of fourth order, since energies are in single precision."""
    energies = {}
    for step in (-2, -1, 1, 2):
        move(step * STEP)
        energies[step] = atoms.get_potential_energy()
    return float((8 * (energies[1] - energies[-1]) - (energies[2] - energies[-2])) / (12 * STEP))


def test_they_are_silent_and_say_what_they_do_not_know(calculator: Any, capsys: pytest.CaptureFixture[str]) -> None:
    calculator.get_potential_energy(magnesia())
    assert capsys.readouterr() == ("", "")
    assert calculator.elements == MPTRJ_ELEMENTS
    radon = Atoms("Rn2", positions=[[0, 0, 0], [0, 0, 3]], cell=[6] * 3, pbc=True)
    with pytest.raises(CalculatorError, match="has no parameters for Rn; it knows H, He, Li"):
        calculator.get_potential_energy(radon)


def test_clusters_need_a_box_under_chgnet(calculator: Any) -> None:
    water = molecule("H2O")
    if calculator.name == "chgnet":
        with pytest.raises(CalculatorError, match=r"periodic in three directions, got pbc=\[False, False, False\]"):
            calculator.get_potential_energy(water)
    else:
        assert np.isfinite(calculator.get_forces(water)).all()


def test_specs_travel(calculator: Any) -> None:
    spec = pickle.loads(pickle.dumps(parse_calculator(calculator.name)))
    assert spec.elements == calculator.elements
    assert spec.create().get_potential_energy(magnesia()) == pytest.approx(
        calculator.get_potential_energy(magnesia()), abs=1e-4
    )


@pytest.mark.parametrize("name", ["chgnet", "sevenn"])
def test_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(CalculatorError, match=rf"`{name}` is not installed: pip install 'relaxrl\[{name}\]'"):
        parse_calculator(name).create()
    assert not parse_calculator(name).supports([86])
    with pytest.raises(CalculatorError, match=f"calculator {name} has no parameters for Rn; .*; got a.cif"):
        parse_calculator(name).check(Atoms("Rn"), "a.cif")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("chgnet,model=r2scam", r"no model 'r2scam' \(did you mean 'r2scan'\?\); expected .* 0.3.0, 0.2.0, r2scan"),
        ("sevenn,model=7net-9", "no model '7net-9'.*7net-l3i5, or a checkpoint file"),
        ("chgnet,device=tpu", "`chgnet,device=` must be `cpu`, `cuda` or `cuda:NUMBER`, got `tpu`"),
    ],
)
def test_unknown_models_and_devices(text: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    with pytest.raises(CalculatorError, match=said):
        parse_calculator(text).create()


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CalculatorError, match=r"`sevenn,device=` is `cuda`, but torch .*; use `cpu`, or install"):
        parse_calculator("sevenn,device=cuda").create()


def test_matrices_become_voigt_and_files_have_unknown_elements() -> None:
    class Constant:
        def calculate(self, *_: object) -> None:
            forces = np.zeros((2, 3), np.float32)
            self.results = {"energy": np.float32(1.0), "forces": forces, "stress": np.diag([1.0, 2.0, 3.0])}

    atoms = bulk("MgO", "rocksalt", a=4.2)
    atoms.calc = ModelCalculator("constant", Constant(), MPTRJ_ELEMENTS, periodic=True)
    np.testing.assert_array_equal(atoms.get_stress(), [1, 2, 3, 0, 0, 0])
    assert parse_calculator("sevenn,model=mine.pth").elements is None
