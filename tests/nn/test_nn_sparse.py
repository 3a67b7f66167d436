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
from relaxrl.nn.assembly import Padding, pair_hessian, site_hessian
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
