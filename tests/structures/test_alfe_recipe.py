"""The recipe of Al-Fe crystals: what it draws, and that its potential makes true minima of it."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from ase.calculators.calculator import Calculator

from relaxrl.config import load_config
from relaxrl.potentials import parse_calculator
from relaxrl.potentials.parameter_files import lammps_folders
from relaxrl.seeding import Generators
from relaxrl.structures.alloys import random_alloy
from relaxrl.structures.curvature import finite_difference_hessian, softest_modes
from relaxrl.structures.recipe import SetRecipe, _candidates, make_set
from relaxrl.structures.relaxation import energy_and_forces

RECIPE = Path(__file__).parents[2] / "configs" / "structures" / "alfe.yaml"
SIZES = {"test": (4, 16), "large": (31, 64), "dev": (4, 32), "train": (4, 16)}

needs_file = pytest.mark.skipif(
    not any((folder / "AlFe_mm.eam.fs").is_file() for folder in lammps_folders()),
    reason="pip install 'relaxrl[lammps]'",
)


@pytest.fixture(scope="module")
def recipe() -> SetRecipe:
    return load_config(SetRecipe, RECIPE, [])


def test_training_shares_no_parent_with_the_sets_to_judge_by(recipe: SetRecipe) -> None:
    owner: dict[str, str] = {}
    parents: dict[str, set[str]] = {}
    for name, split in recipe.splits.items():
        counts: dict[str, int] = {}
        smallest, largest = SIZES[name]
        for number, group in enumerate(split.groups):
            drawn = list(islice(_candidates(recipe, name, number, owner, counts), group.count))
            assert len(drawn) == group.count, f"{name}: too few parents for group {number}"
            for candidate in drawn[:8]:
                alloy = random_alloy(candidate.drawn, Generators(recipe.seed).numpy(candidate.stream))
                assert set(alloy.atoms.symbols) <= {"Al", "Fe"}
                assert smallest <= len(alloy.atoms) <= largest
        parents[name] = set(counts)
    assert not parents["train"] & (parents["test"] | parents["large"] | parents["dev"])
    assert not parents["test"] & parents["dev"]


@needs_file
def test_a_small_part_of_it_is_made_of_true_minima(recipe: SetRecipe) -> None:
    splits = {
        name: replace(split, groups=tuple(replace(group, count=1) for group in split.groups[:2]))
        for name, split in recipe.splits.items()
        if name in {"test", "train"}
    }
    made = make_set(replace(recipe, splits=splits))
    assert [entry.start is None for entry in made["train"]] == [True, True]
    calculator: Calculator = parse_calculator(recipe.calculator).create()
    for entry in (*made["test"], *made["train"]):
        energy, forces = energy_and_forces(entry.minimum, calculator)
        assert energy == pytest.approx(entry.energy, abs=1e-6)
        assert np.abs(forces).max() < 1e-5
        assert softest_modes(finite_difference_hessian(entry.minimum, calculator))[0] >= 0.0099
    for entry in made["test"]:
        start = entry.atoms("start")
        assert energy_and_forces(start, calculator)[0] > entry.energy
        assert np.abs(energy_and_forces(start, calculator)[1]).max() > 0.1
