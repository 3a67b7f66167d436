"""Users' own crystals turned into a set to train on: true minima of their calculator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from itertools import repeat

import numpy as np
from ase.calculators.calculator import PropertyNotImplementedError

from relaxrl.errors import CalculatorError, StructureError
from relaxrl.potentials import CALCULATOR_KEY, CalculatorSpec, CountedCalculator, parse_calculator
from relaxrl.seeding import Generators
from relaxrl.structures.check import check_strainable
from relaxrl.structures.crystal import KIND_KEY, MINIMUM_ENERGY_KEY, PARENT_KEY, Crystal
from relaxrl.structures.curvature import surface
from relaxrl.structures.jobs import as_done
from relaxrl.structures.minima import MinimumConfig, search_minimum
from relaxrl.structures.relaxation import NotRelaxedError


def find_minima(
    crystals: Sequence[Crystal],
    calculator: str,
    config: MinimumConfig,
    seed: int,
    executor: Executor | None = None,
) -> Iterator[Crystal | None]:
    """The true minimum near each crystal, in order; None for those that lead to none, or whose calculator fails.

    Args:
        crystals: Where to begin, without constraints: a minimum is one of all atoms.
        calculator: Name or import path; see `relaxrl.potentials.parse_calculator`.
        config: How minima are found.
        seed: Decides the displacements, for each crystal by its id, whatever stands beside it.
        executor: Runs the relaxations; in this process if None.

    Raises:
        CalculatorError: The calculator does not know an element, or, with `config.cell`, gives no stress.
        StructureError: A structure has constraints; or, with `config.cell`, it is not periodic in three directions, or
            its cell is flat.
    """
    _check(crystals, calculator, config)
    run: Callable[..., Iterator[Crystal | str]] = map if executor is None else executor.map
    found = run(_search, crystals, repeat(calculator), repeat(config), repeat(seed))
    return (None if isinstance(outcome, str) else outcome for outcome in found)


def search_minima(
    crystals: Sequence[Crystal],
    calculator: str,
    config: MinimumConfig,
    seed: int,
    executor: Executor | None = None,
) -> Iterator[tuple[int, Crystal | str]]:
    """As `find_minima`, but as they come: numbers of crystals, each with its minimum or the reason why there is none.

    Args and errors are those of `find_minima`.
    """
    _check(crystals, calculator, config)
    return as_done(executor, _search, [(crystal, calculator, config, seed) for crystal in crystals])


def _check(crystals: Sequence[Crystal], calculator: str, config: MinimumConfig) -> None:
    spec = parse_calculator(calculator)
    for crystal in crystals:
        spec.check(crystal.atoms, crystal.id)
        _check_free(crystal)
    if config.cell:
        _check_cells(crystals, spec)


def _check_free(crystal: Crystal) -> None:
    """Refuse constraints; files that say of each atom whether it is fixed have some that hold none."""
    holding = [one for one in crystal.atoms.constraints if np.size(getattr(one, "index", 0))]
    if holding:
        names = ", ".join(sorted({type(one).__name__ for one in holding}))
        raise StructureError(
            f"{crystal.id}: has constraints ({names}), and minima are of all atoms, which would move; remove them "
            "(`atoms.set_constraint()` in ASE), or use `relaxrl relax`, which respects them"
        )


def _check_cells(crystals: Sequence[Crystal], calculator: CalculatorSpec) -> None:
    for crystal in crystals:
        if not crystal.atoms.pbc.all():
            raise StructureError(
                f"{crystal.id}: expected a crystal that is periodic in three directions, as its cell is to relax, got "
                f"pbc {crystal.atoms.pbc.tolist()}; leave it out, or look for minima at fixed cell"
            )
    check_strainable(crystals, calculator)


def _search(crystal: Crystal, calculator: str, config: MinimumConfig, seed: int) -> Crystal | str:
    """The minimum, or why there is none: a calculator that fails for one crystal may do for the others."""
    atoms = crystal.atoms.copy()
    atoms.set_constraint()  # there are only such as hold nothing
    try:
        name = parse_calculator(calculator).of(crystal.atoms, crystal.id).text
        made, hessian = surface(name)
        watched = CountedCalculator(made, structure=crystal.id)
        minimum = search_minimum(atoms, watched, hessian, Generators(seed).numpy(crystal.id), config)
    except NotRelaxedError as error:
        failed = isinstance(error.__cause__, CalculatorError)
        return str(error.__cause__) if failed else f"no true minimum found nearby ({error})"
    except (CalculatorError, PropertyNotImplementedError, np.linalg.LinAlgError) as error:
        return str(error) or type(error).__name__
    known = {KIND_KEY: "minimum", PARENT_KEY: crystal.parent, MINIMUM_ENERGY_KEY: minimum.energy}
    known[CALCULATOR_KEY] = name
    minimum.atoms.info = crystal.atoms.info | known
    return Crystal(crystal.id, minimum.atoms, crystal.parent, "minimum")
