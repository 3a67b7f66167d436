"""Users' own crystals turned into a set to train on: true minima of their calculator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from itertools import repeat

from relaxrl.errors import StructureError
from relaxrl.potentials import CALCULATOR_KEY, CalculatorSpec, parse_calculator
from relaxrl.seeding import Generators
from relaxrl.structures.check import check_strainable
from relaxrl.structures.crystal import KIND_KEY, MINIMUM_ENERGY_KEY, PARENT_KEY, Crystal
from relaxrl.structures.curvature import surface
from relaxrl.structures.minima import MinimumConfig, find_minimum


def find_minima(
    crystals: Sequence[Crystal],
    calculator: str,
    config: MinimumConfig,
    seed: int,
    executor: Executor | None = None,
) -> Iterator[Crystal | None]:
    """The true minimum near each crystal, in order; None for those that lead to none.

    Args:
        crystals: Where to begin. Constraints are dropped: the minimum is one of all atoms.
        calculator: Name or import path; see `relaxrl.potentials.parse_calculator`.
        config: How minima are found.
        seed: Decides the displacements, for each crystal by its id, whatever stands beside it.
        executor: Runs the relaxations; in this process if None.

    Raises:
        CalculatorError: The calculator does not know an element, or, with `config.cell`, gives no stress.
        StructureError: With `config.cell`, a structure is not periodic in three directions, or its cell is flat.
    """
    spec = parse_calculator(calculator)
    for crystal in crystals:
        spec.check(crystal.atoms, crystal.id)
    if config.cell:
        _check_cells(crystals, spec)
    run: Callable[..., Iterator[Crystal | None]] = map if executor is None else executor.map
    return run(_find, crystals, repeat(calculator), repeat(config), repeat(seed))


def _check_cells(crystals: Sequence[Crystal], calculator: CalculatorSpec) -> None:
    for crystal in crystals:
        if not crystal.atoms.pbc.all():
            raise StructureError(
                f"{crystal.id}: expected a crystal that is periodic in three directions, as its cell is to relax, got "
                f"pbc {crystal.atoms.pbc.tolist()}; leave it out, or look for minima at fixed cell"
            )
    check_strainable(crystals, calculator)


def _find(crystal: Crystal, calculator: str, config: MinimumConfig, seed: int) -> Crystal | None:
    name = parse_calculator(calculator).of(crystal.atoms, crystal.id).text
    made, hessian = surface(name)
    atoms = crystal.atoms.copy()
    atoms.set_constraint()
    minimum = find_minimum(atoms, made, hessian, Generators(seed).numpy(crystal.id), config)
    if minimum is None:
        return None
    known = {KIND_KEY: "minimum", PARENT_KEY: crystal.parent, MINIMUM_ENERGY_KEY: minimum.energy}
    known[CALCULATOR_KEY] = name
    minimum.atoms.info = crystal.atoms.info | known
    return Crystal(crystal.id, minimum.atoms, crystal.parent, "minimum")
