"""Frames of a minimum: displaced and strained starts, and what a relaxation meets on its way back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.calculators.singlepoint import SinglePointCalculator

from relaxrl.config import configclass
from relaxrl.errors import CalculatorError, StructureError
from relaxrl.potentials import CountedCalculator, parse_calculator
from relaxrl.seeding import Generators
from relaxrl.structures.alloys import strained
from relaxrl.structures.check import check_strainable
from relaxrl.structures.crystal import Crystal, perturb
from relaxrl.structures.frames import Frame, towards
from relaxrl.structures.jobs import as_done
from relaxrl.structures.relaxation import NotRelaxedError, relaxed_with

AT_REST = 0.1
"""eV/Å; what has larger forces under the calculator that labels is not a minimum of it."""

_SAME_ENERGY = 1e-3
"""eV per atom; a relaxation that ends farther from the minimum's energy has gone to another one."""


@configclass
class FramesRecipe:
    """Labelled frames of each minimum, for calculators that are too expensive to be called in training."""

    displacements: int = 6
    """Starts of each minimum; every second one is strained, too."""
    rattle: tuple[float, float] = (0.02, 0.4)
    """Å, range of the standard deviation of a start's displacement, spread evenly on a logarithmic scale."""
    strain: float = 0.06
    """Largest component of a start's strain; each start draws its own largest one. With 0 no start is strained."""
    relaxations: int = 1
    """Starts, those farthest away first, that are relaxed, by BFGS, strained ones with the cell; what it evaluates on
    its way to the minimum is frames as well. A start that ends elsewhere is left out. With an even number of starts the
    farthest one is strained."""
    points: int = 8
    """Frames of one relaxation at most, spread evenly over it, its end left out."""
    fmax: float = 0.02
    """eV/Å, where relaxations end."""
    steps: int = 150
    """Of one relaxation at most."""

    def __post_init__(self) -> None:
        if self.displacements < 1 or not 0 <= self.relaxations <= self.displacements:
            raise ValueError("`displacements` must be at least 1, and `relaxations` no more than these")
        if not 0 < self.rattle[0] <= self.rattle[1] or not 0 <= self.strain < 0.3:
            raise ValueError("`rattle` must be a range above 0, and `strain` from 0 to 0.3")
        if self.points < 1 or self.fmax <= 0 or self.steps < 1:
            raise ValueError("`points` and `steps` must be at least 1, `fmax` positive")


def make_frames(
    minimum: Atoms,
    energy: float,
    calculator: Calculator,
    recipe: FramesRecipe,
    generator: np.random.Generator,
    crystal: str,
    parent: str,
    name: str,
) -> list[Frame]:
    """Frames of one minimum.

    Args:
        minimum: The crystal.
        energy: Of it, eV.
        calculator: Labels.
        recipe: How many and how far away.
        generator: Draws the starts.
        crystal: Id of the crystal.
        parent: What it descends from.
        name: The calculator's, as `parse_calculator` reads it.
    """
    labelled: list[Atoms] = []
    low, high = np.log(recipe.rattle)
    for number in reversed(range(recipe.displacements)):
        rattle = float(np.exp(low + (high - low) * (number + generator.random()) / recipe.displacements))
        strains = recipe.strain > 0 and number % 2 == 1
        start = minimum.copy()
        if strains:
            start = strained(start, recipe.strain * generator.random(), generator)
        try:
            start = perturb(start, rattle, generator)
            if recipe.displacements - 1 - number < recipe.relaxations:
                labelled += _on_the_way(start, energy, calculator, recipe, strains)
            else:
                labelled.append(_labelled(start, calculator))
        except (StructureError, CalculatorError, PropertyNotImplementedError, ValueError, ArithmeticError):
            continue  # this start is of no use; there are others
    return [
        Frame(
            Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True),
            float(atoms.get_potential_energy()),
            np.asarray(atoms.get_forces()),
            atoms.calc.results.get("stress"),
            towards(atoms, minimum),
            energy,
            crystal,
            parent,
            name,
        )
        for atoms in labelled
    ]


def frames_of(
    crystals: Sequence[Crystal], calculator: str, recipe: FramesRecipe, seed: int, executor: Executor | None = None
) -> Iterator[tuple[int, list[Frame] | str]]:
    """Frames of each crystal, as they come: numbers of crystals, each with its frames or the reason why it has none.

    Args:
        crystals: Minima, periodic in all directions; those with forces above `AT_REST` give no frames.
        calculator: Labels; `stored` for each crystal's own.
        recipe: How many and how far away.
        seed: Decides the starts, for each crystal by its id.
        executor: Runs the evaluations; in this process if None.

    Raises:
        StructureError: A crystal is not periodic in all directions.
        CalculatorError: The calculator does not know an element, or gives no stress though starts are to be strained.
    """
    spec = parse_calculator(calculator)
    for crystal in crystals:
        spec.check(crystal.atoms, crystal.id)
        if not crystal.atoms.pbc.all():
            raise StructureError(f"{crystal.id}: frames are of crystals, periodic in all directions; leave it out")
    if recipe.strain > 0:
        check_strainable(crystals, spec, "strained starts", "make frames at fixed cell (--strain 0)")
    return as_done(executor, _frames_of_one, [(crystal, calculator, recipe, seed) for crystal in crystals])


def _frames_of_one(crystal: Crystal, calculator: str, recipe: FramesRecipe, seed: int) -> list[Frame] | str:
    """Its frames, or why it has none: a calculator that fails for one crystal may do for the others."""
    minimum = Atoms(crystal.atoms.numbers, crystal.atoms.positions, cell=crystal.atoms.cell, pbc=True)
    try:
        spec = parse_calculator(calculator).of(crystal.atoms, crystal.id)
        made = CountedCalculator(spec.create(), structure=crystal.id)
        known = _labelled(minimum, made)
    except (NotRelaxedError, CalculatorError, PropertyNotImplementedError) as error:
        return str(error) or type(error).__name__
    fmax = float(np.linalg.norm(known.get_forces(), axis=1).max())
    if fmax > AT_REST:
        return f"no minimum (forces above {AT_REST:g} eV/Å), the largest is {fmax:.3g} eV/Å"
    energy = float(known.get_potential_energy())
    generator = Generators(seed).numpy(f"frames {crystal.id}")
    frames = make_frames(minimum, energy, made, recipe, generator, crystal.id, crystal.parent, spec.text)
    return frames or "no displaced start could be labelled: atoms overlap, or the calculator failed"


def _labelled(atoms: Atoms, calculator: Calculator) -> Atoms:
    """A copy that keeps energy, forces and, where the calculator gives it, stress."""
    evaluated = atoms.copy()
    evaluated.calc = calculator
    results = {}
    with contextlib.suppress(PropertyNotImplementedError):  # stress first: one call gives all
        results["stress"] = evaluated.get_stress()
    results["forces"] = evaluated.get_forces()
    results["energy"] = evaluated.get_potential_energy()
    if not all(np.isfinite(value).all() for value in results.values()):
        raise NotRelaxedError("the calculator failed")
    evaluated.calc = SinglePointCalculator(evaluated, **results)
    return evaluated


def _on_the_way(start: Atoms, energy: float, calculator: Calculator, recipe: FramesRecipe, cell: bool) -> list[Atoms]:
    """Some of what a relaxation evaluates, labelled; `NotRelaxedError` if it ends in another minimum."""
    met: list[Atoms] = []
    end = relaxed_with(
        start, calculator, recipe.fmax, recipe.steps, cell, lambda atoms: met.append(_labelled(atoms, calculator))
    )
    if abs(_labelled(end, calculator).get_potential_energy() - energy) > _SAME_ENERGY * len(start):
        raise NotRelaxedError("ends in another minimum")
    before = met[:-1] or met  # the last one has converged: there is nothing to learn from it
    chosen = np.unique(np.linspace(0, len(before) - 1, recipe.points).round().astype(int))
    return [before[k] for k in chosen]
