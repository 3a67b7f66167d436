"""The Pedone potential in torch against LAMMPS, a Madelung constant, and ions by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from relaxrl.errors import CalculatorError
from relaxrl.io import graph_from_atoms
from relaxrl.neighbors import with_edges
from relaxrl.potentials import PMMCS, TorchCalculator, parse_calculator

REFERENCE = Path(__file__).parent / "reference"
LAMMPS_ERFC = 1e-6
"""LAMMPS approximates erfc to 1.5e-7; this is relative to the energy, and eV/Å for the forces."""
COULOMB = 14.3996454


@pytest.mark.parametrize("name", ["MgO", "SrTiO3"])
def test_equals_lammps_to_its_error_function(name: str) -> None:
    case = json.loads((REFERENCE / "lammps.json").read_text())[name]
    graph = graph_from_atoms(Atoms(case["symbols"], case["positions"], cell=case["cell"], pbc=True))
    got = PMMCS().evaluate(graph, stress=True)
    assert got.stress is not None
    assert float(got.energy[0]) == pytest.approx(case["energy"], rel=LAMMPS_ERFC)
    np.testing.assert_allclose(got.forces.numpy(), case["forces"], atol=LAMMPS_ERFC)
    np.testing.assert_allclose(got.stress[0].numpy(), case["stress"], atol=LAMMPS_ERFC)


def test_coulomb_sum_gives_the_madelung_constant_of_rock_salt() -> None:
    lattice, charge = 4.2, 1.2
    potential = PMMCS(cutoff=0.1, coulomb_cutoff=24.0, damping=0.15)  # no wells within 0.1 Å
    energy = float(potential.evaluate(graph_from_atoms(bulk("MgO", "rocksalt", a=lattice))).energy[0])
    assert energy == pytest.approx(-1.747565 * COULOMB * charge**2 / (lattice / 2), rel=1e-4)


def test_pair_of_ions_by_hand() -> None:
    r, rc, a = 2.0, 8.0, 0.25
    depth, alpha, r0, wall = 0.038908, 2.281, 2.586153, 5.0

    def short(x: float) -> float:
        decay = math.exp(-alpha * (x - r0))
        return depth * (decay**2 - 2 * decay) + wall / x**12

    slope = -(math.erfc(a * rc) / rc**2 + 2 * a / math.sqrt(math.pi) * math.exp(-((a * rc) ** 2)) / rc)
    coulomb = math.erfc(a * r) / r - math.erfc(a * rc) / rc - slope * (r - rc)
    own = (math.erfc(a * rc) / rc - slope * rc) / 2 + a / math.sqrt(math.pi)
    by_hand = -COULOMB * 1.44 * coulomb - 2 * COULOMB * 1.44 * own + short(r) - short(5.5)
    ions = graph_from_atoms(Atoms("MgO", [[0, 0, 0], [0, 0, r]]))
    assert float(PMMCS().evaluate(ions).energy[0]) == pytest.approx(by_hand, rel=1e-7)
    repelling = PMMCS().evaluate(graph_from_atoms(Atoms("Mg2", [[0, 0, 0], [0, 0, r]])))
    assert float(repelling.energy[0]) == pytest.approx(COULOMB * 1.44 * (coulomb - 2 * own), rel=1e-7)


@pytest.mark.parametrize(("formula", "lattice"), [("MgO", 4.212), ("CaO", 4.811)])
def test_lattice_constants_of_oxides(formula: str, lattice: float) -> None:
    atoms = bulk(formula, "rocksalt", a=lattice * 1.03)
    atoms.calc = TorchCalculator(PMMCS())
    assert BFGS(FrechetCellFilter(atoms, hydrostatic_strain=True), logfile=None).run(fmax=0.001, steps=50)
    assert (4 * atoms.get_volume()) ** (1 / 3) == pytest.approx(lattice, rel=0.01)


def test_energy_and_forces_vanish_smoothly_at_the_coulomb_cutoff() -> None:
    near, far = (graph_from_atoms(Atoms("Mg2", [[0, 0, 0], [0, 0, r]])) for r in (8.0 - 1e-4, 8.0 + 1e-4))
    inside, outside = PMMCS().evaluate(near), PMMCS().evaluate(far)
    assert float(inside.energy[0]) == pytest.approx(float(outside.energy[0]), abs=1e-8)
    assert float(inside.forces.abs().max()) < 1e-4
    assert float(outside.forces.abs().max()) == 0.0


def test_twice_differentiable_and_hessian() -> None:
    potential = PMMCS(coulomb_cutoff=5.0)
    atoms = bulk("MgO", "rocksalt", a=4.2)
    atoms.rattle(0.1, seed=1)
    graph = with_edges(graph_from_atoms(atoms), potential.cutoff)

    def energy(positions: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        return potential.energies(graph.replace(positions=positions, cell=cell))

    arguments = (graph.positions.clone().requires_grad_(), graph.cell.clone().requires_grad_())
    assert torch.autograd.gradcheck(energy, arguments)
    assert torch.autograd.gradgradcheck(energy, arguments)


def test_iron_has_two_states_and_other_elements_are_refused() -> None:
    graph = graph_from_atoms(bulk("FeO", "rocksalt", a=4.3))
    two, three = (parse_calculator(f"pmmcs,iron={state}").potential().evaluate(graph).energy for state in (2, 3))
    assert float(three[0]) < float(two[0]) - 1.0
    with pytest.raises(CalculatorError, match="`iron` must be 2 or 3, got 4"):
        parse_calculator("pmmcs,iron=4").potential()
    with pytest.raises(ValueError, match="`cutoff`, `coulomb_cutoff` and `damping` must be positive"):
        PMMCS(damping=0.0)
    with pytest.raises(CalculatorError, match="calculator pmmcs has no parameters for Pb"):
        parse_calculator("pmmcs").check(bulk("PbO", "rocksalt", a=5.0))
