"""Lennard-Jones and Morse in torch against ASE's calculators."""

from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones as AseLennardJones
from ase.calculators.morse import MorsePotential

from relaxrl.io import graph_from_atoms
from relaxrl.neighbors import with_edges
from relaxrl.potentials import LennardJones, Morse, TorchPotential

ROUND_OFF = 1e-10
"""Relative to the largest force; the r⁻¹² wall makes forces of hundreds of eV/Å."""
ARGON = {"sigma": 3.4, "epsilon": 0.0104}

CASES: list[tuple[type[TorchPotential], Any, dict[str, Any]]] = [
    (LennardJones, AseLennardJones, ARGON),
    (LennardJones, AseLennardJones, ARGON | {"rc": 6.1}),
    (LennardJones, AseLennardJones, ARGON | {"smooth": True}),
    (LennardJones, AseLennardJones, ARGON | {"smooth": True, "rc": 7.0, "ro": 5.0}),
    (Morse, MorsePotential, {"epsilon": 0.3, "r0": 3.0, "rho0": 4.0}),
    (Morse, MorsePotential, {"epsilon": 0.3, "r0": 3.0, "rcut1": 1.2, "rcut2": 1.6}),
]


def structures() -> list[Atoms]:
    crystal = bulk("Ar", "fcc", a=5.2, cubic=True)
    crystal.rattle(0.2, seed=1)
    sheared = bulk("Ar", "fcc", a=4.4) * (1, 2, 1)
    sheared.set_cell(sheared.cell.array + np.diag([0.2, 0.3], k=1), scale_atoms=True)
    cluster = Atoms("Ar4", [[0, 0, 0], [3.6, 0, 0], [0, 3.9, 0.2], [1, 1, 9.5]])
    return [crystal, sheared, cluster, bulk("Ar", "fcc", a=4.0), Atoms("Ar")]


@pytest.mark.parametrize(("ours", "theirs", "arguments"), CASES)
def test_equals_ase(ours: type[TorchPotential], theirs: Any, arguments: dict[str, Any]) -> None:
    graph = graph_from_atoms(structures())
    got = ours(**arguments).evaluate(graph, stress=True)
    assert got.stress is not None
    for atoms, energy, forces, stress in zip(
        structures(),
        got.energy.tolist(),
        torch.split(got.forces, graph.atoms_per_graph.tolist()),
        got.stress.numpy(),
        strict=True,
    ):
        atoms.calc = theirs(**arguments)
        tolerance = ROUND_OFF * max(1.0, np.abs(atoms.get_forces()).max())
        assert energy == pytest.approx(atoms.get_potential_energy(), abs=tolerance)
        np.testing.assert_allclose(forces.numpy(), atoms.get_forces(), atol=tolerance)
        if atoms.cell.rank == 3:
            np.testing.assert_allclose(stress, atoms.get_stress(voigt=False), atol=tolerance)


def test_lennard_jones_dimer_by_hand() -> None:
    """At the minimum, 2^(1/6) sigma, the energy is -epsilon (plus the shift) curvature 57.1 epsilon / sigma²."""
    sigma, epsilon = 2.0, 0.5
    dimer = graph_from_atoms(Atoms("Ar2", [[0, 0, 0], [0, 0, 2 ** (1 / 6) * sigma]]))
    potential = LennardJones(sigma=sigma, epsilon=epsilon)
    got = potential.evaluate(dimer)
    assert float(got.energy) == pytest.approx(-epsilon - 4 * epsilon * (3.0**-12 - 3.0**-6))
    assert float(got.forces.abs().max()) < 1e-13
    curvature = 36 * 2 ** (2 / 3) * epsilon / sigma**2
    assert float(potential.hessian(dimer)[0][2, 2]) == pytest.approx(curvature)


def test_morse_dimer_by_hand() -> None:
    dimer = graph_from_atoms(Atoms("H2", [[0, 0, 0], [1.5, 0, 0]]))
    potential = Morse(epsilon=0.7, rho0=4.0, r0=1.5)
    got = potential.evaluate(dimer)
    assert float(got.energy) == pytest.approx(-0.7)
    assert float(potential.hessian(dimer)[0][0, 0]) == pytest.approx(2 * 0.7 * (4.0 / 1.5) ** 2)


@pytest.mark.parametrize("potential", [LennardJones(**ARGON, smooth=True, rc=7.0), Morse(r0=3.0, epsilon=0.3)])
def test_twice_differentiable(potential: TorchPotential) -> None:
    graph = with_edges(graph_from_atoms(structures()[1]), potential.cutoff)

    def energy(positions: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        return potential.energies(graph.replace(positions=positions, cell=cell))

    arguments = (graph.positions.clone().requires_grad_(), graph.cell.clone().requires_grad_())
    assert torch.autograd.gradcheck(energy, arguments)
    assert torch.autograd.gradgradcheck(energy, arguments)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LennardJones(sigma=0.0), "`sigma` and `rc` must be positive"),
        (lambda: LennardJones(rc=3.0, ro=4.0, smooth=True), "`ro` must lie between 0 and rc"),
        (lambda: Morse(rcut1=3.0), "`rcut1` must lie between 0 and rcut2"),
        (lambda: Morse(r0=-1.0), "`r0` must be positive"),
    ],
)
def test_impossible_lengths_are_refused(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()
