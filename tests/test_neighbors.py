import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.neighborlist import neighbor_list

from relaxrl import neighbors
from relaxrl.io import graph_from_atoms
from relaxrl.neighbors import pairs_within, with_edges

CUTOFF = 4.3


def structures() -> list[Atoms]:
    slab = fcc111("Al", (2, 2, 2), vacuum=4.0)
    slab.pbc = (True, True, False)
    flat = fcc111("Al", (2, 2, 2))  # no vector at all along the surface normal
    crystal = bulk("Cu").repeat((1, 1, 2))
    crystal.rattle(0.05, seed=1)
    crystal.positions += crystal.cell[0] * 3  # far outside the cell
    return [crystal, slab, flat, molecule("CH3CH2OH"), Atoms("Pt")]


@pytest.mark.parametrize("index", range(5))
def test_edges_are_those_of_ase(index):
    atoms = structures()[index]
    graph = with_edges(graph_from_atoms(atoms), CUTOFF)
    i, vectors = neighbor_list("iD", atoms, CUTOFF)
    ours = np.c_[graph.edge_index[0].numpy(), graph.edge_vectors().numpy()].round(8)
    theirs = np.c_[i, vectors].round(8)
    assert len(ours) == len(theirs)
    np.testing.assert_allclose(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)], atol=1e-7)


def test_batch_has_the_edges_of_its_parts_and_none_between_them():
    parts = structures()
    whole = with_edges(graph_from_atoms(parts), CUTOFF)
    owner = whole.graph_index[whole.edge_index]
    assert torch.equal(owner[0], owner[1])
    counts = torch.bincount(owner[0], minlength=len(parts)).tolist()
    assert counts == [with_edges(graph_from_atoms(part), CUTOFF).edge_index.shape[1] for part in parts]


def test_max_neighbors_keeps_the_nearest():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=0)
    every = with_edges(graph_from_atoms(atoms), CUTOFF)
    some = with_edges(graph_from_atoms(atoms), CUTOFF, max_neighbors=5)
    for atom in range(len(atoms)):
        lengths = every.edge_vectors()[every.edge_index[0] == atom].norm(dim=1).sort().values
        kept = some.edge_vectors()[some.edge_index[0] == atom].norm(dim=1).sort().values
        assert torch.equal(kept, lengths[:5])


def test_the_order_of_edges_does_not_depend_on_where_the_atoms_are():
    atoms = bulk("Cu", cubic=True)
    graph = graph_from_atoms(atoms)
    moved = graph.replace(
        positions=graph.positions + 0.3 * torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    )
    both = []
    for start in (graph, moved):
        edges = with_edges(start, 6.0)
        assert edges.edge_index is not None
        assert edges.edge_shift is not None
        both.append(
            [tuple(row) for row in torch.cat([edges.edge_index.T, edges.edge_shift.to(torch.int64)], 1).tolist()]
        )
    common = set(both[0]) & set(both[1])
    assert len(common) > 100
    assert [row for row in both[0] if row in common] == [row for row in both[1] if row in common]


def random_structures(n: int) -> list[Atoms]:
    """Skewed cells of all sizes, atoms anywhere, periodic in any directions."""
    rng, found = np.random.default_rng(0), []
    for k in range(n):
        cell = np.diag(rng.uniform(2.5, 8.0, 3)) + rng.normal(0.0, 0.7, (3, 3))
        count = int(rng.integers(1, 13))
        pbc = rng.integers(0, 2, 3).astype(bool) if k % 3 == 0 else True
        found.append(Atoms(f"Cu{count}", positions=rng.uniform(-10, 10, (count, 3)), cell=cell, pbc=pbc))
    return found


@pytest.mark.parametrize("cutoff", [1.0, 3.1, 6.4])
@pytest.mark.parametrize("each_once", [False, True])
def test_trying_all_images_at_once_finds_what_lists_of_single_structures_find(cutoff, each_once, monkeypatch):
    graph = graph_from_atoms([*structures(), *random_structures(40), bulk("Cu", cubic=True).repeat(2)])
    listed = []
    monkeypatch.setattr(neighbors, "_listed", lambda *a, f=neighbors._listed: listed.append(0) or f(*a))
    monkeypatch.setattr(neighbors, "_FEWEST_ATOMS", 10**9)
    by_list = pairs_within(graph, cutoff, each_once)
    assert len(listed) == 1
    for few_pairs in (0, 10**9):  # both ways to sum over images
        monkeypatch.setattr(neighbors, "_FEWEST_ATOMS", 0)
        monkeypatch.setattr(neighbors, "_FEW_PAIRS", few_pairs)
        at_once = pairs_within(graph, cutoff, each_once)
        assert len(listed) == 1
        assert torch.equal(at_once[0], by_list[0])
        assert torch.equal(at_once[1], by_list[1])


def test_each_pair_once_is_half_of_all_pairs():
    graph = graph_from_atoms(random_structures(12))
    every, once = pairs_within(graph, 5.0), pairs_within(graph, 5.0, each_once=True)

    def rows(index: torch.Tensor, shift: torch.Tensor) -> set[tuple[int, ...]]:
        return {tuple(row) for row in torch.cat([index.T, shift.to(torch.int64)], dim=1).tolist()}

    there, back = rows(*once), rows(once[0].flip(0), -once[1])
    assert not there & back
    assert there | back == rows(*every)


def test_a_cell_without_volume_is_refused_with_its_number():
    graph = graph_from_atoms([bulk("Cu", cubic=True).repeat(3), bulk("Al")])
    cell = graph.cell.clone()
    cell[1, 2] = cell[1, 1]
    with pytest.raises(ValueError, match="structure 1 must span a volume"):
        with_edges(graph.replace(cell=cell), 4.0)
