import pytest
import torch
from ase.build import bulk, fcc111, molecule

from relaxrl.graph import AtomGraph, max_force, scatter_max, scatter_mean, scatter_sum
from relaxrl.io import atoms_from_graph, graph_from_atoms
from relaxrl.neighbors import with_edges


@pytest.fixture
def graph() -> AtomGraph:
    slab = fcc111("Al", (2, 2, 3), vacuum=6.0)
    slab.pbc = (True, True, False)
    made = graph_from_atoms([bulk("Cu", cubic=True), slab, molecule("H2O")])
    generator = torch.Generator().manual_seed(0)
    return made.replace(
        forces=torch.randn(made.n_atoms, 3, generator=generator, dtype=torch.float64),
        energy=torch.arange(3, dtype=torch.float64),
        features=torch.randn(3, 2, generator=generator, dtype=torch.float64),
    )


def test_atoms_survive_the_way_through_a_graph(graph):
    slab = atoms_from_graph(graph)[1]
    assert slab.get_chemical_formula() == "Al12"
    assert slab.pbc.tolist() == [True, True, False]
    assert (slab.positions == graph.positions[4:16].numpy()).all()


def test_batch_of_parts_is_the_whole(graph):
    again = AtomGraph.batch(graph.unbatch())
    for name in ("positions", "cell", "pbc", "atomic_numbers", "graph_index", "forces", "energy", "features"):
        assert torch.equal(getattr(again, name), getattr(graph, name)), name


def test_select_equals_batch_of_the_parts_asked_for(graph):
    parts = graph.unbatch()
    for wanted in ([2, 0], [1], [0, 0, 2]):
        got, expected = graph.select(wanted), AtomGraph.batch([parts[k] for k in wanted])
        assert torch.equal(got.positions, expected.positions)
        assert torch.equal(got.forces, expected.forces)
        assert torch.equal(got.graph_index, expected.graph_index)
        assert torch.equal(got.features, expected.features)


def test_ptr_and_atoms_per_graph(graph):
    assert graph.atoms_per_graph.tolist() == [4, 12, 3]
    assert graph.ptr.tolist() == [0, 4, 16, 19]


def test_max_force_is_the_largest_norm_of_each_structure(graph):
    norms = graph.forces.norm(dim=1)
    assert max_force(graph).tolist() == [norms[:4].max(), norms[4:16].max(), norms[16:].max()]


def test_scatter_by_hand():
    values, index = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([0, 2, 2])
    assert scatter_sum(values, index, 3).tolist() == [1.0, 0.0, 8.0]
    assert scatter_mean(values, index, 3).tolist() == [1.0, 0.0, 4.0]
    assert scatter_max(values, index, 3).tolist() == [1.0, -torch.inf, 6.0]


def test_wrong_shape_names_field_expected_and_got(graph):
    with pytest.raises(ValueError, match=r"`cell` must have shape \(3, 3, 3\).*got \(3, 3\)") as caught:
        AtomGraph(
            positions=graph.positions,
            cell=torch.eye(3),
            pbc=graph.pbc,
            atomic_numbers=graph.atomic_numbers,
            graph_index=graph.graph_index,
        )
    assert "n_graphs=3" in str(caught.value)


def test_mixed_fields_cannot_be_batched(graph):
    first, second, _ = graph.unbatch()
    with pytest.raises(ValueError, match=r"`forces` is set in 1 of 2 graphs"):
        AtomGraph.batch([first, second.replace(forces=None)])


def test_edges_must_be_made_before_they_are_used(graph):
    with pytest.raises(ValueError, match="with_edges"):
        graph.edge_vectors()


def test_to_changes_floats_only(graph):
    single = with_edges(graph, 3.0).to(dtype=torch.float32)
    assert single.positions.dtype == single.edge_shift.dtype == torch.float32
    assert single.atomic_numbers.dtype == torch.int64
    assert single.pbc.dtype == torch.bool
