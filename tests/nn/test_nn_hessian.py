"""The learned-Hessian actor: assembly and solve by value, symmetries, and what it is before training."""

from __future__ import annotations

from collections.abc import Callable

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
from relaxrl.nn.assembly import Padding, pair_hessian, site_hessian
from relaxrl.nn.newton import newton_step

EXACT = 1e-10
GraphOf = Callable[..., AtomGraph]


@pytest.fixture(params=[(1, 0, 0), (2, 0, 0), (1, 2, 1)], ids=["lmax1", "lmax2", "sites"])
def hessian_actor(request: pytest.FixtureRequest, shake: Callable[[torch.nn.Module], None]) -> HessianActor:
    torch.manual_seed(0)
    trunk = TrunkConfig(
        layers=2, cutoff=4.5, channels=6, message_channels=4, lmax=request.param[0], forces=False, history=False
    )
    sites = dict(zip(("site_vectors", "site_tensors"), request.param[1:], strict=True))
    actor = HessianActor(HessianActorConfig(trunk=trunk, vector_channels=4, site_channels=3, **sites)).double()
    shake(actor)
    return actor


@pytest.fixture
def two() -> tuple[AtomGraph, Padding]:
    graph = with_edges(graph_from_atoms([bulk("Cu", cubic=True), bulk("Ni").repeat(2)]), 4.0)
    return graph, Padding(graph.graph_index, graph.n_graphs)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def quadratic(padding: Padding, matrix: Tensor, displacement: Tensor) -> Tensor:
    padded = padding.pad(displacement)
    return 0.5 * torch.einsum("ba,bac,bc->b", padded, matrix, padded)


def test_pair_hessian_is_that_of_the_springs(two: tuple[AtomGraph, Padding]) -> None:
    graph, padding = two
    i, j = graph.edge_index
    half = random(len(i), 3, 3)
    blocks, displacement = half + half.mT, random(graph.n_atoms, 3, seed=1)
    stretch = displacement[i] - displacement[j]
    energy = scatter_sum(0.25 * torch.einsum("ea,eab,eb->e", stretch, blocks, stretch), graph.graph_index[i], 2)
    torch.testing.assert_close(
        quadratic(padding, pair_hessian(blocks, graph.edge_index, padding), displacement), energy
    )


def test_site_hessian_is_that_of_the_squared_sums(two: tuple[AtomGraph, Padding]) -> None:
    graph, padding = two
    i, j = graph.edge_index
    rows, displacement = random(len(i), 2, 3), random(graph.n_atoms, 3, seed=1)
    sums = scatter_sum(torch.einsum("ecx,ex->ec", rows, displacement[j] - displacement[i]), i, graph.n_atoms)
    energy = scatter_sum(0.5 * sums.square().sum(1), graph.graph_index, 2)
    torch.testing.assert_close(quadratic(padding, site_hessian(rows, graph.edge_index, padding), displacement), energy)


def spectrum(values: list[float], seed: int = 0) -> Tensor:
    """A matrix (1, 3n, 3n) that costs nothing for translations and has these eigenvalues otherwise."""
    n = len(values) // 3 + 1
    shift = torch.eye(3, dtype=torch.float64).repeat(n, 1) / n**0.5
    basis, _ = torch.linalg.qr(torch.cat([shift, random(3 * n, len(values), seed=seed)], dim=1))
    return ((basis[:, 3:] * torch.tensor(values, dtype=torch.float64)) @ basis[:, 3:].T).unsqueeze(0)


@pytest.mark.parametrize("values", [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, -2.0, 3.0, 0.01, 5.0, 6.0]])
def test_newton_step_divides_by_the_floored_absolute_eigenvalue(values: list[float]) -> None:
    hessian = spectrum(values)
    eigenvalues, vectors = torch.linalg.eigh(hessian[0])
    present = torch.ones(1, 3, dtype=torch.bool)
    for value, vector in zip(eigenvalues, vectors.T, strict=True):
        if abs(value) > 1e-8:  # not a translation
            step = newton_step(hessian, 0.3 * vector.unsqueeze(0), present, floor=0.05)
            torch.testing.assert_close(step[0], 0.3 * vector / max(abs(float(value)), 0.05))


def test_gradients_flow_exactly_through_the_solve() -> None:
    hessian = spectrum([1.0, 2.0, 2.0, 4.0, 5.0, 6.0]).requires_grad_()
    force = spectrum([1.0, 1.0, 1.0, 1.0, 1.0, 1.0])[0, :1].requires_grad_()
    still = torch.eye(9, dtype=torch.float64) - torch.eye(3, dtype=torch.float64).repeat(3, 3) / 3

    def step(matrix: Tensor, vector: Tensor) -> Tensor:
        symmetric = still @ (0.5 * (matrix + matrix.mT)) @ still
        return newton_step(symmetric, vector @ still, torch.ones(1, 3, dtype=torch.bool))

    assert torch.autograd.gradcheck(step, (hessian, force))


def test_numbers_that_are_not_finite_give_nan_for_their_structure_only(two: tuple[AtomGraph, Padding]) -> None:
    graph, padding = two
    n_edges = graph.edge_index.shape[1]
    blocks = torch.eye(3, dtype=torch.float64).repeat(n_edges, 1, 1)
    blocks[0] = torch.nan
    step = newton_step(
        pair_hessian(blocks, graph.edge_index, padding), padding.pad(random(graph.n_atoms, 3)), padding.present
    )
    assert torch.isnan(padding.unpad(step)[:4]).all()
    assert torch.isfinite(padding.unpad(step)[4:]).all()


@pytest.mark.parametrize("inversion", [1.0, -1.0], ids=["rotation", "rotoinversion"])
def test_the_action_turns_with_the_crystal(
    hessian_actor: HessianActor, crystal: Callable[..., Atoms], graph_of: GraphOf, inversion: float
) -> None:
    graph = graph_of(crystal(1))
    torch.manual_seed(3)
    rotation = inversion * o3.rand_matrix(dtype=torch.float64)
    turned = graph.replace(
        positions=graph.positions @ rotation.T, cell=graph.cell @ rotation.T, forces=graph.forces @ rotation.T
    )
    assert torch.allclose(hessian_actor(turned), hessian_actor(graph) @ rotation.T, rtol=0, atol=EXACT)
    assert hessian_actor(graph).abs().max() > 1e-3


def test_order_of_atoms_images_and_batches_change_nothing(
    hessian_actor: HessianActor, crystal: Callable[..., Atoms], graph_of: GraphOf
) -> None:
    graph, other = graph_of(crystal(2)), graph_of(crystal(4, repeat=(1, 1, 1)))
    alone = hessian_actor(graph)
    order = torch.randperm(graph.n_atoms, generator=torch.Generator().manual_seed(0))
    permuted = graph.replace(
        positions=graph.positions[order], forces=graph.forces[order], atomic_numbers=graph.atomic_numbers[order]
    )
    assert torch.allclose(hessian_actor(permuted), alone[order], rtol=0, atol=EXACT)
    images = torch.randint(-2, 3, (graph.n_atoms, 3), generator=torch.Generator().manual_seed(1)).double()
    moved = graph.replace(positions=graph.positions + images @ graph.cell[0] + 0.3)
    assert torch.allclose(hessian_actor(moved), alone, rtol=0, atol=EXACT)
    together = hessian_actor(AtomGraph.batch([other, graph]))
    assert torch.allclose(together[other.n_atoms :], alone, rtol=0, atol=EXACT)
    assert torch.allclose(together[: other.n_atoms], hessian_actor(other), rtol=0, atol=EXACT)


def test_a_supercell_moves_like_its_cell(hessian_actor: HessianActor, crystal: Callable[..., Atoms]) -> None:
    cell = crystal(5, repeat=(1, 1, 1))
    still = random(len(cell), 3)
    still -= still.mean(0)
    big = cell.repeat((2, 1, 1))
    one = hessian_actor(graph_from_atoms(cell).replace(forces=still))
    two = hessian_actor(graph_from_atoms(big).replace(forces=still.repeat(2, 1)))
    assert torch.allclose(two, one.repeat(2, 1), rtol=0, atol=EXACT)


def test_no_forces_no_action(hessian_actor: HessianActor, crystal: Callable[..., Atoms], graph_of: GraphOf) -> None:
    graph = graph_of(crystal(6))
    assert not hessian_actor(graph.replace(forces=torch.zeros_like(graph.forces))).any()


def test_a_single_atom_and_a_molecule_without_periodicity_work(hessian_actor: HessianActor) -> None:
    atoms = [Atoms("Pt", positions=[[0, 0, 0]]), Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 2.4]])]
    forces = torch.tensor([[0, 0, 0], [0, 0, -0.1], [0, 0, 0.1]], dtype=torch.float64)
    action = hessian_actor(graph_from_atoms(atoms).replace(forces=forces))
    assert torch.isfinite(action).all()
    assert action[2, 2] > 0


def test_before_training_bonds_are_springs_along_themselves() -> None:
    torch.manual_seed(0)
    actor = HessianActor(HessianActorConfig(stiffness=6.0)).double()
    with torch.no_grad():
        actor.head.last.weight.zero_()
    pair = Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 2.4]])
    forces = torch.tensor([[0, 0, -0.1], [0, 0, 0.1]], dtype=torch.float64)
    action = actor(graph_from_atoms(pair).replace(forces=forces))
    x = 2.4 / 5.0
    envelope = 1 - 28 * x**6 + 48 * x**7 - 21 * x**8
    # Both directions of the pair: k = 6 envelope; the two atoms share the change of length.
    assert action[1, 2].item() == pytest.approx(0.1 / (2 * 6.0 * envelope), rel=1e-4)


def test_trunk_of_a_hessian_reads_no_forces() -> None:
    with pytest.raises(ValueError, match=r"trunk.forces"):
        HessianActorConfig(trunk=TrunkConfig())
