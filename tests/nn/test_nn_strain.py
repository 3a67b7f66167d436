"""The quadratic form with strain: against the form itself, its symmetries, and a potential whose Hessian is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from e3nn import o3
from torch import Tensor

from relaxrl.graph import AtomGraph, scatter_sum
from relaxrl.io import graph_from_atoms
from relaxrl.neighbors import with_edges
from relaxrl.nn import HessianActor, HessianActorConfig, TrunkConfig
from relaxrl.nn.hessian_head import Curvature
from relaxrl.nn.strain import strain_blocks
from relaxrl.strain import LENGTH_PER_ROOT_ATOM, STRAIN_BASIS, tensor_from_vector, vector_from_tensor

EXACT = 1e-9
Crystals = Callable[..., Atoms]


@pytest.fixture(params=[{}, {"site_vectors": 2, "site_tensors": 1, "learned_strain": True}], ids=["bonds", "learned"])
def hessian_actor(request: pytest.FixtureRequest, shake: Callable[[torch.nn.Module], None]) -> HessianActor:
    torch.manual_seed(0)
    trunk = TrunkConfig(layers=2, cutoff=4.5, channels=6, message_channels=4, lmax=2, forces=False, history=False)
    actor = HessianActor(HessianActorConfig(trunk=trunk, vector_channels=4, site_channels=3, **request.param)).double()
    shake(actor)
    return actor.requires_grad_(False)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("learned", [False, True])
def test_blocks_are_second_derivatives_of_the_quadratic_form(crystal: Crystals, learned: bool) -> None:
    graph = with_edges(graph_from_atoms([crystal(seed=0), crystal(seed=1, repeat=(1, 1, 1))]), 4.0)
    assert graph.edge_index is not None
    (i, j), index = graph.edge_index, graph.graph_index
    vectors, n = graph.edge_vectors(), len(graph.edge_index[0])
    blocks, mixed, strained = (half + half.mT for half in (random(n, 3, 3, seed=k) for k in range(3)))
    rows, strained_rows = random(n, 2, 3, seed=3), random(n, 2, 3, seed=4)
    known = Curvature(blocks, rows, mixed, strained, strained_rows) if learned else Curvature(blocks, rows)
    if not learned:
        mixed = strained = blocks
        strained_rows = rows

    def energies(u: Tensor, s: Tensor) -> Tensor:
        strain = torch.einsum("gk,kab->gab", s, torch.from_numpy(STRAIN_BASIS))
        apart, stretch = u[j] - u[i], torch.einsum("eab,eb->ea", strain[index[i]], vectors)
        pairs = ((apart, blocks, apart), (2 * apart, mixed, stretch), (stretch, strained, stretch))
        bonds = 0.25 * sum(torch.einsum("ea,eab,eb->e", *pair) for pair in pairs)
        pulls = (rows @ apart.unsqueeze(-1) + strained_rows @ stretch.unsqueeze(-1)).squeeze(-1)
        sums = scatter_sum(pulls, i, graph.n_atoms)
        return scatter_sum(bonds, index[i], 2) + scatter_sum(0.5 * sums.square().sum(1), index, 2)

    coupling, elastic = strain_blocks(known, vectors, graph.edge_index, index, 2)
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
    _, elastic = strain_blocks(Curvature(blocks, rows), vectors, graph.edge_index, graph.graph_index, 1)

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


def stressed(graph: AtomGraph, seed: int = 0) -> AtomGraph:
    half = 0.02 * random(graph.n_graphs, 3, 3, seed=seed)
    forces = 0.3 * random(graph.n_atoms, 3, seed=seed + 1)
    forces = (
        forces
        - scatter_sum(forces, graph.graph_index, graph.n_graphs)[graph.graph_index]
        / graph.atoms_per_graph[graph.graph_index, None]
    )
    return graph.replace(forces=forces, stress=half + half.mT)


def test_the_step_is_newtons_in_the_optimizers_coordinates(hessian_actor: HessianActor, crystal: Crystals) -> None:
    hessian_actor.max_step = 1e6  # no limit
    graphs = [stressed(graph_from_atoms(crystal(k, repeat=(1, 1, 1 + k))), k) for k in range(3)]
    moving = torch.tensor([True, False, True])
    displacement, strain = hessian_actor.displacement_and_strain(AtomGraph.batch(graphs), moving)
    first = 0
    for k, graph in enumerate(graphs):
        n = graph.n_atoms
        matrix = hessian_actor.hessian_with_strain(graph)
        length = LENGTH_PER_ROOT_ATOM * n**0.5
        scale = np.concatenate([np.ones(3 * n), np.full(6, 1 / length)])
        matrix = matrix * scale * scale[:, None]
        matrix[: 3 * n, : 3 * n] += max(matrix.trace(), 1) * np.kron(np.full((n, n), 1 / n), np.eye(3))  # translations
        volume = abs(np.linalg.det(graph.cell[0].numpy()))
        force = np.concatenate([graph.forces.numpy().ravel(), -volume * vector_from_tensor(graph.stress[0].numpy())])
        free = slice(None) if moving[k] else slice(3 * n)
        values, vectors = np.linalg.eigh(matrix[free, free])
        step = vectors @ ((vectors.T @ (force * scale)[free]) / np.maximum(np.abs(values), 0.05))
        np.testing.assert_allclose(displacement[first : first + n].numpy().ravel(), step[: 3 * n], atol=1e-7)
        expected = step[3 * n :] / length if moving[k] else np.zeros(6)
        np.testing.assert_allclose(strain[k].numpy(), expected, atol=1e-8)
        first += n


def test_a_step_at_held_cells_is_that_of_the_fixed_cell(hessian_actor: HessianActor, crystal: Crystals) -> None:
    slab = crystal(2)
    slab.pbc = (True, True, False)  # its cell never strains
    graph = stressed(graph_from_atoms([crystal(0), slab]))
    displacement, strain = hessian_actor.displacement_and_strain(graph, torch.tensor([False, True]))
    torch.testing.assert_close(displacement, hessian_actor(graph), atol=EXACT, rtol=1e-7)
    assert not strain.any()
    with pytest.raises(ValueError, match="stress"):
        hessian_actor.displacement_and_strain(graph.replace(stress=None))


def test_steps_of_the_cell_rotate_and_do_not_depend_on_the_supercell(
    hessian_actor: HessianActor, crystal: Crystals
) -> None:
    graph = stressed(graph_from_atoms(crystal(repeat=(1, 1, 1))))
    rotation = o3.rand_matrix(dtype=torch.float64)
    turned = graph.replace(
        positions=graph.positions @ rotation.T,
        cell=graph.cell @ rotation.T,
        forces=graph.forces @ rotation.T,
        stress=rotation @ graph.stress @ rotation.T,
    )
    twice = graph_from_atoms(crystal(repeat=(1, 1, 1)).repeat((2, 1, 1)))
    twice = twice.replace(forces=graph.forces.repeat(2, 1), stress=graph.stress)
    displacement, strain = hessian_actor.displacement_and_strain(graph)
    displacement_turned, strain_turned = hessian_actor.displacement_and_strain(turned)
    torch.testing.assert_close(displacement_turned, displacement @ rotation.T, atol=1e-7, rtol=1e-6)
    expected = rotation.numpy() @ tensor_from_vector(strain[0].numpy()) @ rotation.numpy().T
    np.testing.assert_allclose(tensor_from_vector(strain_turned[0].numpy()), expected, atol=1e-7)
    assert strain.abs().max() > 1e-3
    displacement_twice, strain_twice = hessian_actor.displacement_and_strain(twice)
    # Eigenvalues below the floor depend on the size of the cell; these have none near it.
    torch.testing.assert_close(strain_twice, strain, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(displacement_twice, displacement.repeat(2, 1), atol=1e-6, rtol=1e-5)


def test_gradients_of_the_step_are_finite_for_degenerate_modes_and_right_elsewhere(crystal: Crystals) -> None:
    torch.manual_seed(0)
    trunk = TrunkConfig(layers=2, cutoff=4.5, channels=4, message_channels=4, forces=False, history=False)
    actor = HessianActor(HessianActorConfig(trunk=trunk, site_vectors=1, site_tensors=1, learned_strain=True)).double()
    perfect = bulk("Cu", cubic=True)  # before training, too: many modes are degenerate
    graph = stressed(graph_from_atoms([perfect, crystal()]))
    weight = actor.head.last.bias

    def loss() -> Tensor:
        displacement, strain = actor.displacement_and_strain(graph)
        return displacement.square().sum() + 50 * strain.square().sum()

    loss().backward()
    assert all(torch.isfinite(p.grad).all() for p in actor.parameters() if p.grad is not None)
    gradient = weight.grad.clone()
    assert (gradient.abs() > 0).sum() >= 7  # stiffness, and all that strain has of its own
    for k in torch.nonzero(gradient).flatten().tolist():
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[k] += sign * 1e-5
                ends.append(float(loss()))
                weight[k] -= sign * 1e-5
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(float(gradient[k]), rel=1e-4, abs=1e-8)


def test_a_graph_carries_stress(crystal: Crystals) -> None:
    graphs = [graph_from_atoms(crystal(seed)).replace(stress=random(1, 3, 3, seed=seed)) for seed in range(3)]
    batch = AtomGraph.batch(graphs)
    torch.testing.assert_close(batch.select([2]).stress, graphs[2].stress)
    torch.testing.assert_close(batch.unbatch()[1].stress, graphs[1].stress)
    with pytest.raises(ValueError, match="stress"):
        graphs[0].replace(stress=random(3, 3))
