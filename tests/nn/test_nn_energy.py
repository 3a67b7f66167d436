"""The energy model: its derivatives, symmetries, and what it makes of elements and cells it was not made for."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms

from relaxrl.graph import AtomGraph
from relaxrl.io import graph_from_atoms
from relaxrl.nn import EnergyModel, EnergyModelConfig, build_energy_model
from relaxrl.potentials import TorchCalculator, TorchPotential

EXACT = 1e-10
FINITE_DIFFERENCE = 1e-6


@pytest.fixture(scope="module")
def model() -> EnergyModel:
    made = build_energy_model(EnergyModelConfig(densities=3, pairs=2, hidden=16), torch.Generator().manual_seed(1))
    return made.double().eval().requires_grad_(False)


@pytest.fixture
def graph(crystal: Callable[..., Atoms]) -> AtomGraph:
    """Two structures, one of them a molecule."""
    molecule = Atoms("CuAlPt", [[0, 0, 0], [2.4, 0.1, 0], [0.3, 2.2, 0.9]])
    return graph_from_atoms([crystal(seed=3), molecule])


def test_forces_are_the_gradient_of_the_energy(model: EnergyModel, graph: AtomGraph) -> None:
    forces = model.evaluate(graph).forces
    step = 1e-4 * torch.randn(graph.positions.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    up, down = (model.energies(graph.replace(positions=graph.positions + s * step)).sum() for s in (1, -1))
    assert float(forces.abs().max()) > 0.1
    assert float(0.5 * (up - down)) == pytest.approx(-float((forces * step).sum()), rel=FINITE_DIFFERENCE)


def test_hand_written_derivatives_are_those_of_autograd(model: EnergyModel, graph: AtomGraph) -> None:
    _, forces = TorchPotential.energies_and_forces(model, graph)
    torch.testing.assert_close(model.forces(graph), forces, rtol=EXACT, atol=EXACT)
    torch.testing.assert_close(model.evaluate(graph).forces, forces, rtol=EXACT, atol=EXACT)
    for written, automatic in zip(model.hessian(graph), TorchPotential.hessian(model, graph), strict=True):
        assert float(automatic.abs().max()) > 0.1
        torch.testing.assert_close(written, automatic, rtol=EXACT, atol=EXACT)


def test_large_batches_are_cut_and_joined(
    model: EnergyModel, crystal: Callable[..., Atoms], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relaxrl.potentials.topology._PART_EDGES", 500)
    graph = graph_from_atoms([crystal(seed=seed) for seed in range(20, 24)])
    assert len(model._edges(graph)) > 1
    _, forces = TorchPotential.energies_and_forces(model, graph)
    torch.testing.assert_close(model.forces(graph), forces, rtol=EXACT, atol=EXACT)


def test_stress_is_the_derivative_by_strain(model: EnergyModel, crystal: Callable[..., Atoms]) -> None:
    atoms = crystal(seed=5)
    atoms.calc = TorchCalculator(model)
    stress, cell, h = atoms.get_stress(voigt=False), atoms.cell.array, 1e-5
    strain = np.zeros((3, 3))
    strain[0, 1] = strain[1, 0] = 0.5
    energies = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.set_cell(cell @ (np.eye(3) + sign * h * strain), scale_atoms=True)
        moved.calc = TorchCalculator(model)
        energies.append(moved.get_potential_energy())
    derivative = (energies[0] - energies[1]) / (2 * h) / atoms.get_volume()
    assert stress[0, 1] == pytest.approx(derivative, rel=1e-5)


def test_gradients_of_forces_by_parameters(graph: AtomGraph) -> None:
    model = build_energy_model(EnergyModelConfig(densities=3, pairs=2, hidden=8), torch.Generator().manual_seed(2))
    model = model.double()
    weights = torch.randn(graph.positions.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def value() -> torch.Tensor:
        return (model.forces(graph) * weights).sum()

    value().backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            assert name == "site_last.bias"  # shifts the energy, no force
            continue
        place = int(parameter.grad.abs().argmax())
        gradient = float(parameter.grad.view(-1)[place])
        with torch.no_grad():
            ends = []
            for sign in (1, -1):
                parameter.view(-1)[place] += sign * 1e-5
                ends.append(float(value()))
                parameter.view(-1)[place] -= sign * 1e-5
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(gradient, rel=1e-5, abs=1e-9), name


def test_smooth_at_the_cutoff(model: EnergyModel) -> None:
    def force(distance: float) -> float:
        pair = graph_from_atoms(Atoms("CuPt", [[0, 0, 0], [distance, 0, 0]]))
        return float(model.evaluate(pair).forces[1, 0])

    cutoff = model.cutoff
    assert force(cutoff + 1e-3) == 0.0
    assert abs(force(cutoff - 1e-3)) < 1e-5
    assert abs(force(cutoff - 1.0)) > 1e-4


def test_elements_never_seen_have_energies(model: EnergyModel, crystal: Callable[..., Atoms]) -> None:
    atoms = crystal(symbols="PdWFe")
    assert not bool(model.evaluate(graph_from_atoms(atoms)).failed.any())


def test_a_rotated_crystal_has_rotated_forces(model: EnergyModel, crystal: Callable[..., Atoms]) -> None:
    atoms = crystal(seed=8)
    turned = atoms.copy()
    turned.rotate(40, (1, 2, 3), rotate_cell=True)
    forces, after = (model.evaluate(graph_from_atoms(a)).forces for a in (atoms, turned))
    torch.testing.assert_close(after.norm(dim=1), forces.norm(dim=1), rtol=1e-8, atol=1e-10)
    assert float((after - forces).abs().max()) > 0.01


def test_the_sparse_hessian_is_the_dense_one(model: EnergyModel, crystal: Callable[..., Atoms]) -> None:
    graph = graph_from_atoms(crystal(seed=2))
    dense, sparse = model.hessian(graph)[0].numpy(), model.curvature(graph).sparse(graph.n_atoms)
    np.testing.assert_allclose(sparse.assembled().toarray(), dense, atol=EXACT)
    vector = np.random.default_rng(0).standard_normal(len(dense))
    np.testing.assert_allclose(sparse @ vector, dense @ vector, atol=EXACT)
    assert sparse.trace() == pytest.approx(np.trace(dense))
