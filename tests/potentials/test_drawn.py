"""Potentials drawn at random: reproducible, different from each other, and sound."""

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.data import chemical_symbols

from relaxrl.config import load_config
from relaxrl.errors import CalculatorError
from relaxrl.potentials import StillingerWeber, parse_calculator
from relaxrl.potentials.drawn import DrawnStillingerWeber
from relaxrl.potentials.mixed import torch_equal
from relaxrl.potentials.stillinger_weber import NAMES
from relaxrl.structures import SetRecipe

ZINC_SULPHIDE = "drawn-sw,elements=['Zn','S'],seed=3"


def energy(name: str) -> float:
    """Of a zincblende cell that is somewhat displaced."""
    atoms = bulk("ZnS", "zincblende", a=5.4, cubic=True)
    atoms.rattle(0.1, seed=0)
    atoms.calc = parse_calculator(name).create()
    return float(atoms.get_potential_energy())


def test_name_and_seed_decide_all():
    assert energy(ZINC_SULPHIDE) == energy(parse_calculator(ZINC_SULPHIDE).text)
    assert energy(ZINC_SULPHIDE) != energy(ZINC_SULPHIDE.replace("3", "4"))
    # The same crystal has the same energy in whatever order the elements are named.
    assert energy("drawn-sw,elements=['S','Zn'],seed=3") == pytest.approx(energy(ZINC_SULPHIDE), rel=1e-12)


def test_forces_and_stress_are_derivatives_of_the_energy():
    atoms = bulk("ZnS", "zincblende", a=5.4, cubic=True)
    atoms.rattle(0.15, seed=1)
    atoms.calc = parse_calculator(ZINC_SULPHIDE).create()
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


def test_it_is_the_potential_that_a_file_with_its_parameters_describes(tmp_path: Path):
    drawn = DrawnStillingerWeber(["Zn", "S"], seed=3)
    n = len(drawn.parameters.elements)
    symbols = ["Zn", "S"]
    rows = [
        " ".join(
            [
                symbols[a],
                symbols[b],
                symbols[c],
                *(repr(float(x)) for x in drawn.parameters.values[(a * n + b) * n + c]),
            ]
        )
        for a in range(n)
        for b in range(n)
        for c in range(n)
    ]
    (tmp_path / "ZnS.sw").write_text("\n".join(rows))
    assert len(NAMES) == drawn.parameters.values.shape[1]
    assert StillingerWeber(tmp_path / "ZnS.sw").elements == drawn.elements
    assert energy(f"sw:{tmp_path / 'ZnS.sw'}") == pytest.approx(energy(ZINC_SULPHIDE), rel=1e-12)


@pytest.mark.parametrize("elements", [[], ["Zn", "Zn"], ["Unobtainium"], ["X", "Si"], ["Bk"]])
def test_bad_elements(elements: list[str]):
    with pytest.raises(CalculatorError, match="different symbols"):
        DrawnStillingerWeber(elements)


def test_the_recipe_names_the_elements_of_its_potentials_and_none_of_the_tests():
    recipe = load_config(SetRecipe, Path(__file__).parents[2] / "configs" / "structures" / "drawn.yaml")
    groups = recipe.splits["train"].groups
    assert len(groups) > 30
    for group in groups:
        assert group.compounds is not None
        elements = set(group.compounds.elements)
        assert not elements & {"Ga", "N", "Ge", "B"}
        for name in group.calculators:
            known = torch_equal(name)
            assert known is not None
            assert {chemical_symbols[number] for number in known.elements} == elements
