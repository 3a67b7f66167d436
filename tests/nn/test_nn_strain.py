"""The quadratic form with strain: against the form itself, its symmetries, and a potential whose Hessian is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from e3nn import o3
from torch import Tensor

from relaxrl.graph import AtomGraph, scatter_sum
from relaxrl.io import graph_from_atoms
from relaxrl.neighbors import with_edges
from relaxrl.nn import HessianActor, HessianActorConfig, TrunkConfig
from relaxrl.nn.strain import strain_blocks
from relaxrl.strain import STRAIN_BASIS, tensor_from_vector, vector_from_tensor

EXACT = 1e-9
Crystals = Callable[..., Atoms]


@pytest.fixture
def hessian_actor(shake: Callable[[torch.nn.Module], None]) -> HessianActor:
    torch.manual_seed(0)
    trunk = TrunkConfig(layers=2, cutoff=4.5, channels=6, message_channels=4, lmax=2, forces=False, history=False)
    actor = HessianActor(HessianActorConfig(trunk=trunk, vector_channels=4, site_channels=3)).double()
    shake(actor)
    return actor


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_blocks_are_second_derivatives_of_the_quadratic_form(crystal: Crystals) -> None:
    graph = with_edges(graph_from_atoms([crystal(seed=0), crystal(seed=1, repeat=(1, 1, 1))]), 4.0)
    assert graph.edge_index is not None
    (i, j), index = graph.edge_index, graph.graph_index
    half, rows, vectors = random(len(i), 3, 3), random(len(i), 2, 3, seed=1), graph.edge_vectors()
    blocks = half + half.mT

    def energies(u: Tensor, s: Tensor) -> Tensor:
        strain = torch.einsum("gk,kab->gab", s, torch.from_numpy(STRAIN_BASIS))
        difference = u[j] - u[i] + torch.einsum("eab,eb->ea", strain[index[i]], vectors)
        bonds = 0.25 * torch.einsum("ea,eab,eb->e", difference, blocks, difference)
        sums = scatter_sum((rows @ difference.unsqueeze(-1)).squeeze(-1), i, graph.n_atoms)
        return scatter_sum(bonds, index[i], 2) + scatter_sum(0.5 * sums.square().sum(1), index, 2)

    coupling, elastic = strain_blocks(blocks, rows, vectors, graph.edge_index, index, 2)
    zeros = torch.zeros(graph.n_atoms, 3, dtype=torch.float64), torch.zeros(2, 6, dtype=torch.float64)
    (_, expected), (_, expected_elastic) = torch.autograd.functional.hessian(lambda u, s: energies(u, s).sum(), zeros)
    own = torch.arange(graph.n_atoms)
    torch.testing.assert_close(coupling, expected[own, :, index[own]])
    for k in range(2):
        torch.testing.assert_close(elastic[k], expected_elastic[k, :, k])


def test_a_pair_potential_without_stress_in_its_bonds_has_exactly_this_hessian() -> None:
    # Springs at rest: blocks k r̂r̂ᵀ; energies after strain and displacement by the lengths themselves.
    atoms = Atoms("Cu2", positions=[[0, 0, 0], [1.9, 1.7, 1.8]], cell=[3.7, 3.5, 3.6], pbc=True)
    graph = with_edges(graph_from_atoms(atoms), 3.8)
    assert graph.edge_index is not None
    vectors = graph.edge_vectors()
    rest = vectors.norm(dim=1)
    unit = vectors / rest.unsqueeze(1)
    blocks = 3.0 * unit.unsqueeze(2) * unit.unsqueeze(1)
    rows = vectors.new_zeros(len(vectors), 1, 3)
    _, elastic = strain_blocks(blocks, rows, vectors, graph.edge_index, graph.graph_index, 1)

    def energy(s: np.ndarray) -> float:
        strain = torch.from_numpy(np.eye(3) + tensor_from_vector(s))
        return float((0.75 * ((vectors @ strain).norm(dim=1) - rest) ** 2).sum())

    step = 1e-4
    numeric = np.zeros((6, 6))
    for a in range(6):
        for b in range(6):
            signs = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
            numeric[a, b] = sum(x * y * energy(step * (x * np.eye(6)[a] + y * np.eye(6)[b])) for x, y in signs)
    np.testing.assert_allclose(elastic[0].numpy(), numeric / (4 * step**2), atol=1e-4)


def test_it_rotates_with_the_crystal(hessian_actor: HessianActor, crystal: Crystals) -> None:
    atoms = crystal()
    rotation = o3.rand_matrix(dtype=torch.float64).numpy()
    turned = Atoms(atoms.numbers, atoms.positions @ rotation.T, cell=atoms.cell.array @ rotation.T, pbc=True)
    before = hessian_actor.hessian_with_strain(graph_from_atoms(atoms))
    after = hessian_actor.hessian_with_strain(graph_from_atoms(turned))
    of_strain = vector_from_tensor(rotation @ STRAIN_BASIS @ rotation.T).T
    np.testing.assert_allclose(of_strain @ of_strain.T, np.eye(6), atol=EXACT)
    whole = np.zeros_like(before)
    whole[:-6, :-6], whole[-6:, -6:] = np.kron(np.eye(len(atoms)), rotation), of_strain
    np.testing.assert_allclose(after, whole @ before @ whole.T, atol=1e-7)


def test_translations_cost_nothing_and_displacements_are_the_fixed_cells(
    hessian_actor: HessianActor, crystal: Crystals
) -> None:
    atoms = crystal()
    matrix = hessian_actor.hessian_with_strain(graph_from_atoms(atoms))
    assert np.abs(matrix[:-6, -6:]).max() > 0.1
    together = np.tile(np.eye(3), (len(atoms), 1))
    np.testing.assert_allclose(matrix[:, :-6] @ together, 0, atol=EXACT)
    np.testing.assert_allclose(matrix, matrix.T, atol=EXACT)
    np.testing.assert_array_equal(matrix[:-6, :-6], hessian_actor.hessian(graph_from_atoms(atoms)))


def test_a_supercell_is_as_stiff_as_its_parts(hessian_actor: HessianActor, crystal: Crystals) -> None:
    atoms = crystal(repeat=(1, 1, 1))
    one = hessian_actor.hessian_with_strain(graph_from_atoms(atoms))
    two = hessian_actor.hessian_with_strain(graph_from_atoms(atoms.repeat((2, 1, 1))))
    np.testing.assert_allclose(two[-6:, -6:], 2 * one[-6:, -6:], atol=1e-7)
    np.testing.assert_allclose(two[:-6, -6:], np.tile(one[:-6, -6:], (2, 1)), atol=1e-7)


def test_a_graph_carries_stress(crystal: Crystals) -> None:
    graphs = [graph_from_atoms(crystal(seed)).replace(stress=random(1, 3, 3, seed=seed)) for seed in range(3)]
    batch = AtomGraph.batch(graphs)
    torch.testing.assert_close(batch.select([2]).stress, graphs[2].stress)
    torch.testing.assert_close(batch.unbatch()[1].stress, graphs[1].stress)
    with pytest.raises(ValueError, match="stress"):
        graphs[0].replace(stress=random(3, 3))
