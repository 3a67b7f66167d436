"""Symmetries of space, crystals and batches, in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from e3nn import o3
from torch import Tensor

from relaxrl.graph import AtomGraph
from relaxrl.neighbors import with_edges
from relaxrl.nn import DirectActor, TwinCritic

EXACT = 1e-10
"""Å for actions and the critics' unit for values: equal but for rounding."""

GraphOf = Callable[..., AtomGraph]


def action_for(graph: AtomGraph) -> Tensor:
    return 0.05 * torch.sin(37.0 * graph.forces) + 0.01 * graph.forces


def rotated(graph: AtomGraph, rotation: Tensor) -> AtomGraph:
    def turn(vectors: Tensor) -> Tensor:
        return vectors @ rotation.T

    return graph.replace(
        positions=turn(graph.positions),
        cell=turn(graph.cell),
        forces=turn(graph.forces),
        previous_displacement=turn(graph.previous_displacement),
        previous_forces=turn(graph.previous_forces),
    )


def same_vectors(graph: AtomGraph, **changes: Tensor) -> AtomGraph:
    return graph.without_edges().replace(**changes)


@pytest.mark.parametrize("inversion", [1.0, -1.0], ids=["rotation", "rotoinversion"])
def test_rotating_the_crystal_rotates_the_action_and_keeps_the_value(
    actor: DirectActor, critic: TwinCritic, crystal: Callable[..., Atoms], graph_of: GraphOf, inversion: float
) -> None:
    graph = graph_of(crystal(1))
    torch.manual_seed(3)
    rotation = inversion * o3.rand_matrix(dtype=torch.float64)
    turned, action = rotated(graph, rotation), action_for(graph)
    assert torch.allclose(actor(turned), actor(graph) @ rotation.T, rtol=0, atol=EXACT)
    for before, after in zip(critic(graph, action), critic(turned, action @ rotation.T), strict=True):
        assert torch.allclose(before, after, rtol=0, atol=EXACT)
    assert actor(graph).abs().max() > 1e-3


def test_permuting_atoms_permutes_the_action(
    actor: DirectActor, critic: TwinCritic, crystal: Callable[..., Atoms], graph_of: GraphOf
) -> None:
    graph = graph_of(crystal(2))
    order = torch.randperm(graph.n_atoms, generator=torch.Generator().manual_seed(0))
    names = ("positions", "atomic_numbers", "forces", "previous_displacement", "previous_forces")
    permuted = graph.replace(**{name: getattr(graph, name)[order] for name in names})
    action = action_for(graph)
    assert torch.allclose(actor(permuted), actor(graph)[order], rtol=0, atol=EXACT)
    before, after = critic.per_atom(graph, action)[0], critic.per_atom(permuted, action[order])[0]
    assert torch.allclose(before[order], after, rtol=0, atol=EXACT)


def test_translations_and_choice_of_periodic_image_change_nothing(
    actor: DirectActor, critic: TwinCritic, crystal: Callable[..., Atoms], graph_of: GraphOf
) -> None:
    graph = graph_of(crystal(3))
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(-2, 3, (graph.n_atoms, 3)).astype(float)) @ graph.cell[0]
    shift = torch.tensor([0.3, -1.7, 12.0], dtype=torch.float64)
    moved = same_vectors(graph, positions=graph.positions + images + shift)
    action = action_for(graph)
    assert torch.allclose(actor(moved), actor(graph), rtol=0, atol=EXACT)
    assert torch.allclose(critic(moved, action)[1], critic(graph, action)[1], rtol=0, atol=EXACT)


def test_another_cell_of_the_same_lattice_changes_nothing(
    actor: DirectActor, crystal: Callable[..., Atoms], graph_of: GraphOf
) -> None:
    graph = graph_of(crystal(4))
    skew = torch.tensor([[1.0, 0, 0], [1, 1, 0], [-1, 2, 1]], dtype=torch.float64)
    assert torch.allclose(actor(same_vectors(graph, cell=skew @ graph.cell)), actor(graph), rtol=0, atol=EXACT)


def test_a_supercell_acts_as_its_copies(
    actor: DirectActor, critic: TwinCritic, crystal: Callable[..., Atoms], graph_of: GraphOf
) -> None:
    atoms = crystal(5)
    graph = graph_of(atoms)
    big = graph_of(atoms.repeat((1, 2, 2)))
    copies = {
        name: getattr(graph, name).repeat(4, 1) for name in ("forces", "previous_displacement", "previous_forces")
    }
    big = big.replace(features=graph.features, **copies)
    action = action_for(graph)
    assert torch.allclose(actor(big), actor(graph).repeat(4, 1), rtol=0, atol=EXACT)
    assert torch.allclose(critic(big, action.repeat(4, 1))[0], critic(graph, action)[0], rtol=0, atol=EXACT)


def batch_of_three(crystal: Callable[..., Atoms], graph_of: GraphOf) -> list[AtomGraph]:
    molecule = Atoms("OH2", positions=[[0, 0, 0.1], [0, 0.77, -0.5], [0, -0.77, -0.5]])
    return [graph_of(crystal(6)), graph_of(molecule, 1), graph_of(crystal(7, (1, 1, 1)), 2)]


def test_a_batch_equals_its_structures_one_by_one(
    actor: DirectActor, critic: TwinCritic, crystal: Callable[..., Atoms], graph_of: GraphOf
) -> None:
    graphs = batch_of_three(crystal, graph_of)
    batch = AtomGraph.batch(graphs)
    singles = torch.cat([actor(graph) for graph in graphs])
    assert torch.allclose(actor(batch), singles, rtol=0, atol=EXACT)
    values = torch.cat([critic(graph, action_for(graph))[0] for graph in graphs])
    assert torch.allclose(critic(batch, action_for(batch))[0], values, rtol=0, atol=EXACT)


def test_no_gradient_and_no_nan_passes_between_structures(
    actor: DirectActor, critic: TwinCritic, crystal: Callable[..., Atoms], graph_of: GraphOf
) -> None:
    batch = AtomGraph.batch(batch_of_three(crystal, graph_of))
    inside = batch.graph_index == 1
    forces = batch.forces.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(actor(batch.replace(forces=forces))[inside].sum(), forces)
    assert torch.all(gradient[~inside] == 0)
    assert torch.any(gradient[inside] != 0)
    action = action_for(batch).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(batch, action)[0][1], action)
    assert torch.all(gradient[~inside] == 0)
    assert torch.any(gradient[inside] != 0)
    broken = batch.replace(forces=torch.where(inside.unsqueeze(-1), batch.forces, torch.nan))
    assert torch.isfinite(actor(broken)[inside]).all()


def test_unsorted_edges_give_the_same_action(
    actor: DirectActor, crystal: Callable[..., Atoms], graph_of: GraphOf
) -> None:
    graph = with_edges(graph_of(crystal(8)), actor.cutoff)
    order = torch.randperm(graph.edge_index.shape[1], generator=torch.Generator().manual_seed(1))
    shuffled = graph.replace(edge_index=graph.edge_index[:, order], edge_shift=graph.edge_shift[order])
    assert torch.allclose(actor(shuffled), actor(graph), rtol=0, atol=EXACT)


def test_action_and_value_are_smooth_where_atoms_cross_the_cutoff(
    actor: DirectActor, critic: TwinCritic, graph_of: GraphOf
) -> None:
    # The middle atom keeps the pair connected in the network; the outer one crosses the cutoff.
    def outputs(distance: float) -> Tensor:
        atoms = Atoms("CuAlPt", positions=[[0, 0, 0], [0, 2.4, 0.3], [distance, 0, 0]])
        graph = graph_of(atoms)
        action = action_for(graph)
        return torch.cat([actor(graph).flatten(), critic.per_atom(graph, action)[0]])

    cutoff, step = actor.cutoff, 1e-5
    jump = (outputs(cutoff + step) - outputs(cutoff - step)).abs().max()
    assert jump < 1e-8
    slope_below = (outputs(cutoff) - outputs(cutoff - 1e-3)) / 1e-3
    slope_above = (outputs(cutoff + 1e-3) - outputs(cutoff)) / 1e-3
    assert (slope_below - slope_above).abs().max() < 1e-3
    assert (outputs(2.5) - outputs(cutoff)).abs().max() > 1e-3


def test_edges_beyond_the_cutoff_count_nothing(
    actor: DirectActor, crystal: Callable[..., Atoms], graph_of: GraphOf
) -> None:
    graph = graph_of(crystal(9))
    skinned = with_edges(graph, actor.cutoff + 0.8)
    assert torch.allclose(actor(skinned), actor(graph), rtol=0, atol=EXACT)
