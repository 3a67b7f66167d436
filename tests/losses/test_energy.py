"""The energy that a step leaves: values, and the gradient that forces give, against autograd through a potential."""

import numpy as np
import pytest
import torch
from ase.build import bulk
from torch import Tensor

from relaxrl.graph import AtomGraph
from relaxrl.io import graph_from_atoms
from relaxrl.losses import remaining_energy_loss
from relaxrl.potentials import EMT


def rattled() -> AtomGraph:
    crystals = [bulk(symbol, cubic=True).repeat((1, 1, n)) for symbol, n in (("Cu", 1), ("Au", 2))]
    for seed, atoms in enumerate(crystals):
        atoms.rattle(0.1, seed=seed)
    return graph_from_atoms(crystals)


def loss_of(graph: AtomGraph, displacement: Tensor, lowest: Tensor, usable: Tensor) -> Tensor:
    potential = EMT()
    before = potential.evaluate(graph)
    after = potential.evaluate(graph.replace(positions=graph.positions + displacement.detach()))
    return remaining_energy_loss(
        displacement, after.forces, after.energy, before.energy, lowest, graph.graph_index, usable
    )


def test_the_value_is_the_logarithm_of_the_share_that_is_left():
    graph = rattled()
    potential = EMT()
    before = potential.evaluate(graph).energy
    displacement = torch.full_like(graph.positions, 0.05)
    displacement[::2] = 0.0
    after = potential.evaluate(graph.replace(positions=graph.positions + displacement)).energy
    lowest = torch.minimum(before, after) - 1.0
    expected = torch.log((after - lowest) / (before - lowest) + 1e-4)
    got = loss_of(graph, displacement.requires_grad_(), lowest, torch.tensor([True, True]))
    np.testing.assert_allclose(got.detach(), expected, rtol=1e-12)


def test_the_gradient_is_that_through_the_potential():
    graph = rattled()
    displacement = (0.02 * torch.ones_like(graph.positions)).requires_grad_()
    lowest = EMT().evaluate(graph).energy - 2.0
    loss_of(graph, displacement, lowest, torch.tensor([True, True])).sum().backward()
    free = displacement.detach().clone().requires_grad_()
    before = EMT().energies(graph).detach()
    after = EMT().energies(graph.replace(positions=graph.positions + free))
    torch.log((after - lowest) / (before - lowest) + 1e-4).sum().backward()
    np.testing.assert_allclose(displacement.grad, free.grad, atol=1e-12)


def test_below_the_known_minimum_nothing_is_asked_for():
    graph = rattled()
    displacement = torch.zeros_like(graph.positions, requires_grad=True)
    lowest = EMT().evaluate(graph).energy + 1.0
    loss = loss_of(graph, displacement, lowest, torch.tensor([True, True]))
    np.testing.assert_allclose(loss.detach(), np.log(1e-4))
    loss.sum().backward()
    assert not displacement.grad.any()


def test_unusable_structures_are_zero_and_leave_no_trace_in_the_gradient():
    graph = rattled()
    displacement = torch.zeros_like(graph.positions, requires_grad=True)
    energy = torch.tensor([-1.0, torch.nan], dtype=torch.float64)
    forces = torch.ones_like(graph.positions)
    forces[4:] = torch.nan
    lowest = torch.tensor([-2.0, torch.nan], dtype=torch.float64)
    usable = torch.tensor([True, False])
    loss = remaining_energy_loss(displacement, forces, energy, energy, lowest, graph.graph_index, usable)
    np.testing.assert_allclose(loss.detach(), [np.log(1 + 1e-4), 0.0])
    loss.sum().backward()
    assert torch.isfinite(displacement.grad).all()
    assert displacement.grad[:4].all()
    assert not displacement.grad[4:].any()


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"same shape, got \(4, 3\) and \(3, 3\)"):
        remaining_energy_loss(
            torch.zeros(4, 3), torch.zeros(3, 3), *(torch.zeros(1),) * 3, torch.zeros(4).long(), torch.tensor([True])
        )
