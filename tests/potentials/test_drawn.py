"""Potentials drawn at random: reproducible, different from each other, and sound."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.data import chemical_symbols, covalent_radii
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from relaxrl.config import load_config
from relaxrl.errors import CalculatorError
from relaxrl.potentials import parse_calculator
from relaxrl.potentials.drawn import DrawnStillingerWeber, DrawnTersoff
from relaxrl.potentials.mixed import torch_equal
from relaxrl.structures import SetRecipe

FORMS = ("sw", "tersoff")
"""As files of such potentials are named."""
DRAWN = {"sw": DrawnStillingerWeber, "tersoff": DrawnTersoff}


def zinc_sulphide(form: str, seed: int = 3) -> str:
    return f"drawn-{form},elements=['Zn','S'],seed={seed}"


def energy(name: str) -> float:
    """Of a zincblende cell that is somewhat displaced."""
    atoms = bulk("ZnS", "zincblende", a=5.4, cubic=True)
    atoms.rattle(0.1, seed=0)
    atoms.calc = parse_calculator(name).create()
    return float(atoms.get_potential_energy())


@pytest.mark.parametrize("form", FORMS)
def test_name_and_seed_decide_all(form: str):
    name = zinc_sulphide(form)
    assert energy(name) == energy(parse_calculator(name).text)
    assert energy(name) != energy(zinc_sulphide(form, seed=4))
    # The same crystal has the same energy in whatever order the elements are named.
    assert energy(name.replace("['Zn','S']", "['S','Zn']")) == pytest.approx(energy(name), rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_forces_and_stress_are_derivatives_of_the_energy(form: str):
    atoms = bulk("ZnS", "zincblende", a=5.4, cubic=True)
    atoms.rattle(0.15, seed=1)
    atoms.calc = parse_calculator(zinc_sulphide(form)).create()
    forces, stress = atoms.get_forces(), atoms.get_stress()
    moved, h = atoms.copy(), 1e-4
    moved.calc = atoms.calc
    moved.positions[2, 1] += h
    above = moved.get_potential_energy()
    moved.positions[2, 1] -= 2 * h
    assert forces[2, 1] == pytest.approx((moved.get_potential_energy() - above) / (2 * h), abs=1e-6)
    energies = []
    for strain in (h, -h):
        moved = atoms.copy()
        moved.set_cell(atoms.cell.array @ np.diag([1 + strain, 1, 1]), scale_atoms=True)
        moved.calc = atoms.calc
        energies.append(moved.get_potential_energy())
    assert stress[0] == pytest.approx((energies[0] - energies[1]) / (2 * h) / atoms.get_volume(), abs=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_it_is_the_potential_that_a_file_with_its_parameters_describes(form: str, tmp_path: Path):
    parameters = DRAWN[form](["Zn", "S"], seed=3).parameters
    triplets = list(product(["Zn", "S"], repeat=3))
    rows = [" ".join([*each, *map(repr, row.tolist())]) for each, row in zip(triplets, parameters.values, strict=True)]
    (tmp_path / "file").write_text("\n".join(rows))
    assert energy(f"{form}:{tmp_path / 'file'}") == pytest.approx(energy(zinc_sulphide(form)), rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(3))
def test_crystals_hold_together(form: str, seed: int):
    atoms = bulk("ZnS", "zincblende", a=5.4, cubic=True)
    atoms.calc = parse_calculator(zinc_sulphide(form, seed)).create()
    assert BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.01, steps=100)
    radii = covalent_radii[[30, 16]].sum()
    assert 0.85 < atoms.get_distance(0, 1, mic=True) / radii < 1.2
    assert -9 < atoms.get_potential_energy() / len(atoms) < -1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("elements", [[], ["Zn", "Zn"], ["Unobtainium"], ["X", "Si"], ["Bk"]])
def test_bad_elements(form: str, elements: list[str]):
    with pytest.raises(CalculatorError, match="different symbols"):
        DRAWN[form](elements)


def test_the_recipe_draws_potentials_of_its_crystals_elements_and_none_of_the_tests():
    recipe = load_config(SetRecipe, Path(__file__).parents[2] / "configs" / "structures" / "drawn.yaml")
    groups = recipe.splits["train"].groups
    assert len(groups) > 30
    for group in groups:
        assert group.compounds is not None
        elements = set(group.compounds.elements)
        assert not elements & {"Ga", "N", "Ge", "B"}
        for name in recipe.calculators(group):
            known = torch_equal(name)
            assert known is not None
            assert {chemical_symbols[number] for number in known.elements} == elements
