"""EMT in torch against ASE's calculator, and against its own derivatives."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators import emt

from relaxrl.graph import AtomGraph
from relaxrl.io import graph_from_atoms
from relaxrl.potentials import EMT

ROUND_OFF = 1e-11
"""eV, eV/Å, eV/Å³: sums of hundreds of terms of order 1."""
ELEMENTS = [13, 28, 29, 46, 47, 78, 79]


def rattled(symbol: str, repeat: tuple[int, int, int], seed: int, pbc: bool | tuple[bool, ...] = True) -> Atoms:
    rng = np.random.default_rng(seed)
    atoms = bulk(symbol, cubic=True) * repeat
    atoms.numbers = rng.choice(ELEMENTS, len(atoms))
    atoms.positions += rng.normal(scale=0.15, size=atoms.positions.shape)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(scale=0.03, size=(3, 3))), scale_atoms=True)
    atoms.pbc = pbc
    return atoms


def structures() -> list[Atoms]:
    cell_without_vectors = rattled("Al", (1, 1, 1), 7, pbc=False)
    cell_without_vectors.cell = None
    slab = rattled("Ag", (1, 1, 1), 6, pbc=(True, True, False))
    slab.cell[2] = 0.0
    return [
        rattled("Cu", (1, 1, 1), 1),
        rattled("Au", (2, 2, 2), 2),
        rattled("Ni", (1, 2, 1), 3, pbc=(True, False, True)),
        bulk("Pt"),  # one atom: all neighbours are its own images
        bulk("Cu", "fcc", a=2.4),  # five shells of images inside the cutoff
        Atoms("Au"),
        Atoms("CuPd", [[0, 0, 0], [0, 0, 5.87]]),  # between the midpoint and the cutoff
        Atoms("CuPd", [[0, 0, 0], [0, 0, 5.91]]),  # just beyond it
        molecule("CH3CH2OH"),
        slab,
        cell_without_vectors,
    ]


@pytest.fixture(scope="module")
def graph() -> AtomGraph:
    return graph_from_atoms(structures())


def test_equals_ase_in_energy_forces_and_stress(graph: AtomGraph) -> None:
    got = EMT().evaluate(graph, stress=True)
    assert got.stress is not None
    assert not got.failed.any()
    for atoms, energy, forces, stress in zip(
        structures(),
        got.energy.tolist(),
        got.forces.split(graph.atoms_per_graph.tolist()),
        got.stress.numpy(),
        strict=True,
    ):
        atoms.calc = emt.EMT()
        assert energy == pytest.approx(atoms.get_potential_energy(), abs=ROUND_OFF)
        np.testing.assert_allclose(forces.numpy(), atoms.get_forces(), atol=ROUND_OFF)
        if atoms.cell.rank == 3:
            np.testing.assert_allclose(stress, atoms.get_stress(voigt=False), atol=ROUND_OFF)
        else:
            assert np.isnan(stress).all()


def test_written_out_derivatives_equal_autograd(graph: AtomGraph) -> None:
    got = EMT().evaluate(graph)
    energies, forces = EMT().energies_and_forces(graph)
    torch.testing.assert_close(energies, got.energy, atol=ROUND_OFF, rtol=0)
    torch.testing.assert_close(forces, got.forces, atol=ROUND_OFF, rtol=0)


def test_forces_are_minus_the_slope_of_the_energy(graph: AtomGraph) -> None:
    potential, step = EMT(), 1e-5
    forces = potential.evaluate(graph).forces
    rng = np.random.default_rng(0)
    for atom in rng.choice(graph.n_atoms, 6, replace=False):
        for axis in range(3):
            shifted = torch.zeros_like(graph.positions)
            shifted[atom, axis] = step
            up = potential.evaluate(graph.replace(positions=graph.positions + shifted)).energy
            down = potential.evaluate(graph.replace(positions=graph.positions - shifted)).energy
            slope = float((up - down)[graph.graph_index[atom]]) / (2 * step)
            assert -slope == pytest.approx(float(forces[atom, axis]), abs=1e-8)


def test_no_overflow_of_energy_at_the_cutoff() -> None:
    """An atom that leaves goes over to the energy of a free atom, E = -E0, without a visible jump."""
    alone = EMT().evaluate(graph_from_atoms([Atoms("Cu"), Atoms("Au")])).energy.sum()
    near = EMT().evaluate(graph_from_atoms(Atoms("CuAu", [[0, 0, 0], [0, 0, 5.88]]))).energy
    assert float(near) == pytest.approx(float(alone), abs=2e-4)


def test_unknown_element_fails_its_structure_only() -> None:
    structures = [bulk("Cu"), bulk("Fe"), bulk("Al")]
    got = EMT().evaluate(graph_from_atoms(structures), stress=True)
    assert got.failed.tolist() == [False, True, False]
    assert "emt has no parameters for Fe; it knows H, C, N, O, Al" in got.messages[1]
    alone = EMT().evaluate(graph_from_atoms(structures[::2]), stress=True)
    torch.testing.assert_close(got.energy[[0, 2]], alone.energy)
    torch.testing.assert_close(got.forces[[0, 2]], alone.forces)
    assert got.stress is not None
    assert torch.isnan(got.stress[1]).all()
    assert torch.isnan(got.forces[1]).all()
