"""What an equivariant policy leaves of the symmetry of the start, and which constraints hold it."""

import numpy as np
import pytest
import spglib
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixAtoms, FixBondLength, FixCartesian, FixSymmetry
from ase.neighborlist import neighbor_list
from ase.spacegroup import crystal

from relaxrl.agents import load_agent
from relaxrl.errors import StructureError
from relaxrl.optimize import RLOptimizer

pytestmark = pytest.mark.filterwarnings(
    "ignore:Set OLD_ERROR_HANDLING:DeprecationWarning", "ignore:the agent was trained on"
)

DRIFT = 1e-5
"""Å; by more than this, symmetry is not broken where the symmetric crystal is stable: networks compute in float32, and
soft modes amplify the rounding. At a saddle point rounding grows until the crystal leaves it."""


@pytest.fixture(scope="module")
def metals():
    return load_agent("metals")


class Bonds(Calculator):
    """A smooth pair potential with a well for any two elements, so that prototypes of all kinds hold together."""

    implemented_properties = ("energy", "forces", "stress")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        cutoff = 5.0
        i, j, d, vectors = neighbor_list("ijdD", atoms, cutoff)
        radius = 1.2 + 0.01 * (atoms.numbers[i] % 17 + atoms.numbers[j] % 17)
        x, fade = np.exp(-1.2 * (d - 2 * radius)), (1 - (d / cutoff) ** 2) ** 3
        slope = (-2.4 * x * x + 2.4 * x) * fade - (x * x - 2 * x) * 6 * d / cutoff**2 * (1 - (d / cutoff) ** 2) ** 2
        pull = 0.5 * slope[:, None] * vectors / d[:, None]
        forces = np.zeros((len(atoms), 3))
        np.add.at(forces, i, pull)
        np.subtract.at(forces, j, pull)
        virial = np.einsum("ka,kb->ab", pull, vectors) / atoms.get_volume()
        energy = 0.5 * float(((x * x - 2 * x) * fade).sum())
        voigt = virial[(0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)]
        self.results = {"energy": energy, "free_energy": energy, "forces": forces, "stress": voigt}


def cubic(a):
    return [a, a, a, 90, 90, 90]


def built(symbols, sites, number, cellpar):
    return lambda: crystal(symbols, sites, spacegroup=number, cellpar=cellpar)


CORNER, CENTRE, FACE = (0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)
PROTOTYPES = {
    "fcc": (lambda: bulk("Cu", a=3.5, cubic=True), 225),
    "L1_2": (built(["Au", "Cu"], [CORNER, FACE], 221, cubic(3.7)), 221),
    "rutile": (built(["Ti", "O"], [CORNER, (0.31, 0.31, 0)], 136, [4.6, 4.6, 2.95, 90, 90, 90]), 136),
    "perovskite": (built(["Sr", "Ti", "O"], [CORNER, CENTRE, FACE], 221, cubic(3.9)), 221),
    "wurtzite": (lambda: bulk("ZnS", "wurtzite", a=3.8, c=6.3), 186),
    "A15": (built(["Cr", "Si"], [(0.25, 0, 0.5), CORNER], 223, cubic(4.5)), 223),
}


def space_group(atoms, symprec):
    return spglib.get_symmetry_dataset((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), symprec).number


def relaxed(atoms, agent, cell, fmax=0.01):
    atoms.calc = Bonds()
    optimizer = RLOptimizer(atoms, agent=agent, cell=cell, logfile=None)
    assert optimizer.run(fmax=fmax, steps=200)
    return optimizer


UNSTABLE = ("rutile", "wurtzite")
"""Under `Bonds`; with their cell, and rutile without."""


@pytest.mark.parametrize("cell", [False, True])
@pytest.mark.parametrize("name", PROTOTYPES)
def test_the_space_group_of_the_start_is_kept(metals, name, cell):
    make, number = PROTOTYPES[name]
    atoms = make()
    if name in UNSTABLE and (cell or name == "rutile"):
        atoms.set_constraint(FixSymmetry(atoms))
    assert space_group(atoms, 1e-5) == number
    before = atoms.cell.array.copy()
    relaxed(atoms, metals, cell)
    assert space_group(atoms, DRIFT) == number
    assert (np.abs(atoms.cell.array - before).max() > 1e-3) == cell


@pytest.mark.parametrize("cell", [False, True])
def test_fixed_symmetry_holds_where_noise_would_break_it(metals, cell):
    atoms = PROTOTYPES["rutile"][0]()
    atoms.set_constraint(FixSymmetry(atoms))
    optimizer = relaxed(atoms, metals, cell)
    assert optimizer.force_evaluations > 2
    assert space_group(atoms, 1e-7) == 136


@pytest.mark.parametrize("agent", ["metals", None])
@pytest.mark.parametrize("cell", [False, True])
def test_fixed_atoms_and_coordinates(agent, cell):
    atoms = PROTOTYPES["wurtzite"][0]() * (2, 1, 1)
    atoms.rattle(0.08, seed=0)
    atoms.set_constraint([FixAtoms([0]), FixCartesian([1, 2], mask=(cell, True, True))])
    start = atoms.copy()
    relaxed(atoms, agent, cell)
    # They go with the cell, and move in it along what is free.
    goes = start.positions @ np.linalg.solve(start.cell.array, atoms.cell.array)
    moved = np.abs(atoms.positions - goes)
    assert moved[0].max() < 1e-9
    assert moved[1:3, 1:].max() < 1e-9
    assert (moved[1:3, 0].min() > 1e-3) != cell
    assert moved[3:].max() > 1e-2


def test_constraints_that_know_no_strain_are_an_error(metals):
    atoms = bulk("Cu", cubic=True) * 2
    atoms.rattle(0.1, seed=0)
    atoms.set_constraint(FixBondLength(0, 1))
    bond = atoms.get_distance(0, 1, mic=True)
    relaxed(atoms, metals, cell=False, fmax=0.02)
    assert atoms.get_distance(0, 1, mic=True) == pytest.approx(bond, abs=1e-6)
    atoms.set_constraint([*atoms.constraints, FixCartesian([2], mask=(True, False, False))])
    with pytest.raises(StructureError, match=r"FixBondLengths?, FixCartesian; expected constraints among FixAtoms"):
        RLOptimizer(atoms, agent=metals, cell=True, logfile=None)
