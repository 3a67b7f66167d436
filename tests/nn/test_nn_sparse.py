"""The Hessian of large structures: the same numbers as the dense one, without its size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from torch import Tensor

from relaxrl.graph import AtomGraph
from relaxrl.io import graph_from_atoms
from relaxrl.neighbors import with_edges
from relaxrl.nn import HessianActor, HessianActorConfig, krylov, solve
from relaxrl.nn.assembly import Padding, pair_hessian, site_hessian
from relaxrl.nn.solve import newton_displacement
from relaxrl.nn.sparse import SparseHessian, sparse_hessian

ROUNDING = 1e-12
"""Relative to the largest number."""


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def edge_terms(graph: AtomGraph, channels: int = 3) -> tuple[Tensor, Tensor]:
    half = random(graph.edge_index.shape[1], 3, 3)
    return half + half.mT, random(len(half), channels, 3, seed=1)


@pytest.mark.parametrize(
    "atoms",
    [
        bulk("Cu", cubic=True),  # several images of each pair, and of each atom itself
        bulk("Ni", cubic=True).repeat(2),
        Atoms("OH2", positions=[[0, 0, 0.1], [0, 0.77, -0.5], [0, -0.77, -0.5]]),
        Atoms("Pt"),  # no edges
    ],
    ids=str,
)
def test_the_sparse_hessian_is_the_dense_one(atoms: Atoms) -> None:
    graph = with_edges(graph_from_atoms(atoms), 4.0)
    blocks, rows = edge_terms(graph)
    before = rows.clone()
    padding = Padding(graph.graph_index, 1)
    dense = pair_hessian(blocks, graph.edge_index, padding) + site_hessian(rows, graph.edge_index, padding)
    expected = dense[0].numpy()
    tolerance = ROUNDING * max(np.abs(expected).max(), 1.0)
    matrix = sparse_hessian(blocks, rows, graph.edge_index, len(atoms))
    np.testing.assert_allclose(matrix.toarray(), expected, rtol=0, atol=tolerance)
    displacement = random(3 * len(atoms), seed=2).numpy()
    operator = SparseHessian.from_edges(blocks, rows, graph.edge_index, len(atoms))
    np.testing.assert_allclose(operator @ displacement, expected @ displacement, rtol=0, atol=100 * tolerance)
    translation = np.tile([0.3, -1.0, 2.0], len(atoms))
    np.testing.assert_allclose(matrix @ translation, 0.0, atol=100 * tolerance)
    assert torch.equal(rows, before)


def test_the_order_of_the_edges_changes_nothing() -> None:
    graph = with_edges(graph_from_atoms(bulk("Cu", cubic=True)), 4.0)
    blocks, rows = edge_terms(graph)
    order = torch.randperm(len(blocks), generator=torch.Generator().manual_seed(0))
    one = sparse_hessian(blocks, rows, graph.edge_index, 4)
    other = sparse_hessian(blocks[order], rows[order], graph.edge_index[:, order], 4)
    np.testing.assert_allclose(other.toarray(), one.toarray(), atol=ROUNDING * abs(one).max())


def crystal_terms(atoms: Atoms, softened: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Blocks, rows and edges of springs along bonds, of which some are turned to push; and forces."""
    graph = with_edges(graph_from_atoms(atoms), 4.0)
    vectors = graph.edge_vectors()
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    stiffness = 6.0 * torch.exp(2.5 - vectors.norm(dim=1))
    blocks = stiffness[:, None, None] * (unit.unsqueeze(2) * unit.unsqueeze(1) + 0.1 * torch.eye(3))
    blocks[:softened] -= 25.0 * torch.eye(3)
    rows = 0.2 * random(len(blocks), 2, 1) * unit.unsqueeze(1)
    return blocks, rows, graph.edge_index, random(len(atoms), 3, seed=3)


def solved(dense: bool, terms: tuple[Tensor, Tensor, Tensor, Tensor], floor: float = 0.05) -> Tensor:
    blocks, rows, edge_index, forces = terms
    one = torch.zeros(len(forces), dtype=torch.int64)
    return newton_displacement(
        blocks, rows, forces, edge_index, one, 1, floor, dense_limit=len(forces) if dense else len(forces) - 1
    )


def rattled(repeat: tuple[int, int, int], seed: int = 0) -> Atoms:
    atoms = bulk("Cu", cubic=True).repeat(repeat)
    atoms.rattle(0.1, seed=seed)
    return atoms


@pytest.mark.parametrize(("softened", "negative"), [(0, 0), (3, 1)], ids=["definite", "indefinite"])
def test_large_structures_get_the_step_of_the_dense_solve(softened: int, negative: int) -> None:
    terms = crystal_terms(rattled((3, 3, 3)), softened)
    values = np.linalg.eigvalsh(sparse_hessian(*terms[:3], 108).toarray())
    assert (values < -0.05).sum() >= negative
    assert (values > -1e-9).all() == (negative == 0)
    dense, krylov = solved(True, terms), solved(False, terms)
    assert not torch.equal(krylov, dense)
    assert (krylov - dense).norm() < 1e-5 * dense.norm()


def test_soft_modes_are_floored() -> None:
    terms = crystal_terms(rattled((2, 2, 2)))
    stiffest = float(np.linalg.eigvalsh(sparse_hessian(*terms[:3], 32).toarray())[-1])
    inner = terms[3] - terms[3].mean(0)
    step = solved(False, terms, floor=2 * stiffest)
    torch.testing.assert_close(step - step.mean(0), inner / (2 * stiffest))


def test_a_hopeless_hessian_still_gives_a_bounded_step_downhill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(krylov, "MAX_PRODUCTS", 20)
    terms = crystal_terms(rattled((3, 3, 3)), softened=800)
    step, forces = solved(False, terms), terms[3]
    assert float((step * forces).sum()) > 0
    assert step.norm() <= forces.norm() / 0.05


def test_gradients_of_the_two_solves_agree() -> None:
    weight = random(32, 3, seed=9)
    gradients = []
    for dense in (True, False):
        blocks, rows, edge_index, forces = crystal_terms(rattled((2, 2, 2)))
        free = [tensor.requires_grad_() for tensor in (blocks, rows, forces)]
        gradients.append(torch.autograd.grad((weight * solved(dense, (blocks, rows, edge_index, forces))).sum(), free))
    for of_dense, of_krylov in zip(*gradients, strict=True):
        if of_dense.dim() == 3 and of_dense.shape[1:] == (3, 3):
            of_dense = 0.5 * (of_dense + of_dense.mT)  # all that matters of a symmetric block
        assert (of_krylov - of_dense).norm() < 1e-5 * of_dense.norm()


def test_each_structure_of_a_batch_goes_its_own_way() -> None:
    cells = [rattled((1, 1, 1)), rattled((2, 2, 2), 1), rattled((2, 1, 1), 2), rattled((2, 2, 1), 3)]
    graph = with_edges(graph_from_atoms(cells), 4.0)
    blocks, rows = edge_terms(graph)
    forces = random(graph.n_atoms, 3, seed=3)
    arguments = (blocks, rows, forces, graph.edge_index, graph.graph_index)
    mixed = newton_displacement(*arguments, 4, dense_limit=10)
    together = newton_displacement(*arguments, 4)
    largest = together.norm(dim=1).max()
    assert not torch.equal(mixed, together)
    assert (mixed - together).norm(dim=1).max() < 1e-4 * largest
    # Numbers that are not finite stay where they are.
    blocks[graph.graph_index[graph.edge_index[0]] == 1, 0, 0] = torch.inf
    steps = newton_displacement(*arguments, 4, dense_limit=10)
    assert torch.isnan(steps).all(1).tolist() == (graph.graph_index == 1).tolist()


def test_an_actor_solves_a_large_cell_without_its_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    actor = HessianActor(HessianActorConfig()).double()
    atoms = rattled((4, 4, 4))
    graph = graph_from_atoms(atoms).replace(forces=random(len(atoms), 3))
    assert len(atoms) > solve.DENSE_LIMIT
    one = actor(graph)
    assert torch.equal(actor(graph), one)
    monkeypatch.setattr(solve, "pair_hessian", None)
    assert torch.equal(actor(graph), one)
