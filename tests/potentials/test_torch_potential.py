"""What all torch potentials share: batches, reuse of edges, second derivatives, structures that can't be evaluated."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from relaxrl.errors import CalculatorError
from relaxrl.graph import AtomGraph
from relaxrl.io import graph_from_atoms
from relaxrl.neighbors import with_edges
from relaxrl.potentials import EMT

ROUND_OFF = 1e-11


def alloy(repeat: tuple[int, int, int], seed: int) -> Atoms:
    rng = np.random.default_rng(seed)
    atoms = bulk("Cu", cubic=True) * repeat
    atoms.numbers = rng.choice([13, 28, 29, 79], len(atoms))
    atoms.positions += rng.normal(scale=0.15, size=atoms.positions.shape)
    return atoms


@pytest.fixture
def graph() -> AtomGraph:
    return graph_from_atoms([alloy((1, 1, 1), 1), alloy((2, 1, 1), 2), alloy((1, 1, 1), 3)])


def test_batch_equals_singles(graph: AtomGraph) -> None:
    batch = EMT().evaluate(graph, stress=True)
    singles = [EMT().evaluate(part, stress=True) for part in graph.unbatch()]
    torch.testing.assert_close(batch.energy, torch.cat([one.energy for one in singles]), atol=ROUND_OFF, rtol=0)
    torch.testing.assert_close(batch.forces, torch.cat([one.forces for one in singles]), atol=ROUND_OFF, rtol=0)
    stresses = [one.stress for one in singles if one.stress is not None]
    torch.testing.assert_close(batch.stress, torch.cat(stresses), atol=ROUND_OFF, rtol=0)


def test_float32_and_gradient_tracking_input_give_plain_float64(graph: AtomGraph) -> None:
    exact = EMT().evaluate(graph)
    tracked = EMT().evaluate(graph.replace(positions=graph.positions.clone().requires_grad_()))
    assert torch.equal(tracked.forces, exact.forces)
    assert not tracked.forces.requires_grad
    single = EMT().evaluate(graph.to(dtype=torch.float32))
    assert single.forces.dtype == torch.float64
    torch.testing.assert_close(single.forces, exact.forces, atol=1e-4, rtol=0)


def test_reused_edges_give_what_new_ones_give(graph: AtomGraph) -> None:
    """A long walk: some steps within the skin, some beyond; the elements change on the way."""
    reusing, generator = EMT(skin=0.5), torch.Generator().manual_seed(0)
    for step in range(12):
        fresh = EMT(skin=0.0).evaluate(graph)
        torch.testing.assert_close(reusing.evaluate(graph).forces, fresh.forces, atol=ROUND_OFF, rtol=0)
        noise = 0.04 * torch.randn(graph.positions.shape, generator=generator, dtype=torch.float64)
        graph = graph.replace(positions=graph.positions + noise)
        if step == 5:
            graph = graph.replace(atomic_numbers=torch.full_like(graph.atomic_numbers, 78))


def test_hessian_is_the_slope_of_the_forces(graph: AtomGraph) -> None:
    potential, step = EMT(), 1e-4
    hessians = potential.hessian(graph)
    assert [tuple(h.shape) for h in hessians] == [(12, 12), (24, 24), (12, 12)]
    for atom, axis in ((0, 0), (5, 1), (14, 2)):
        shifted = torch.zeros_like(graph.positions)
        shifted[atom, axis] = step
        up = potential.evaluate(graph.replace(positions=graph.positions + shifted)).forces
        down = potential.evaluate(graph.replace(positions=graph.positions - shifted)).forces
        which = int(graph.graph_index[atom])
        first, last = graph.ptr[which], graph.ptr[which + 1]
        column = -((up - down) / (2 * step))[first:last].flatten()
        got = hessians[which][:, 3 * (atom - first) + axis]
        torch.testing.assert_close(got, column, atol=1e-6, rtol=0)


def test_hessian_obeys_the_acoustic_sum_rule_and_its_product_agrees(graph: AtomGraph) -> None:
    potential = EMT()
    vector = torch.randn(graph.positions.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    product = potential.hessian_vector_product(graph, vector)
    sizes = graph.atoms_per_graph.tolist()
    for hessian, v, hv in zip(potential.hessian(graph), vector.split(sizes), product.split(sizes), strict=True):
        torch.testing.assert_close(hessian @ v.flatten(), hv.flatten(), atol=1e-9, rtol=0)
        n = hessian.shape[0] // 3
        assert float(hessian.reshape(n, 3, n, 3).sum(dim=2).abs().max()) < 1e-9


def test_energy_is_twice_differentiable() -> None:
    graph = with_edges(graph_from_atoms(alloy((1, 1, 1), 4)), EMT().cutoff)

    def energy(positions: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        return EMT().energies(graph.replace(positions=positions, cell=cell))

    arguments = (graph.positions.clone().requires_grad_(), graph.cell.clone().requires_grad_())
    assert torch.autograd.gradcheck(energy, arguments)
    assert torch.autograd.gradgradcheck(energy, arguments)


def test_a_loss_on_forces_trains_what_moved_the_atoms(graph: AtomGraph) -> None:
    scale = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    start = EMT().evaluate(graph).forces

    def loss() -> torch.Tensor:
        _, forces = EMT().energies_and_forces(graph.replace(positions=graph.positions + 0.1 * scale * start))
        return forces.square().sum()

    (slope,) = torch.autograd.grad(loss(), scale)
    with torch.no_grad():
        values = []
        for shift in (1e-5, -1e-5):
            scale += shift
            values.append(float(loss()))
            scale -= shift
    assert float(slope) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6)


def test_positions_that_are_not_finite_fail_their_structure_only(graph: AtomGraph) -> None:
    positions = graph.positions.clone()
    positions[5] = torch.nan
    got = EMT().evaluate(graph.replace(positions=positions))
    assert got.failed.tolist() == [False, True, False]
    assert got.messages == {1: "positions or cell are not finite"}
    expected = EMT().evaluate(graph)
    torch.testing.assert_close(got.forces[:4], expected.forces[:4])
    torch.testing.assert_close(got.energy[2], expected.energy[2])


def test_cells_without_volume_fail_their_structure_only() -> None:
    good = bulk("Cu", cubic=True)
    slab, wire, flat, none = good.copy(), good.copy(), good.copy(), good.copy()
    slab.set_cell([3.6, 3.6, 0.0])
    slab.pbc = (True, True, False)
    wire.set_cell([3.6, 0.0, 0.0])
    wire.pbc = (True, False, False)
    flat.set_cell([[3.6, 0, 0], [7.2, 0, 0], [0, 0, 3.6]])
    none.set_cell([0.0, 0.0, 0.0])
    got = EMT().evaluate(graph_from_atoms([good, slab, wire, flat, none]))
    assert got.failed.tolist() == [False, False, False, True, True]
    assert got.messages[4] == "the cell vectors of the periodic directions are zero or parallel"


def test_overlapping_atoms_fail_their_structure_only(graph: AtomGraph) -> None:
    positions = graph.positions.clone()
    positions[1] = positions[0]
    got = EMT().evaluate(graph.replace(positions=positions))
    assert got.failed.tolist() == [True, False, False]
    assert "not finite" in got.messages[0]


def test_differentiable_energy_refuses_unknown_elements_by_name() -> None:
    with pytest.raises(CalculatorError, match=r"emt has no parameters for Fe, U.*structure 1"):
        EMT().energies(graph_from_atoms([bulk("Cu"), Atoms("FeU", [[0, 0, 0], [0, 0, 2]])]))
