"""What the direct actor does: physics of its action, odd inputs, dtypes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from ase import Atoms
from ase.build import bulk

from relaxrl.graph import AtomGraph
from relaxrl.io import graph_from_atoms
from relaxrl.nn import (
    CriticConfig,
    DirectActor,
    DirectActorConfig,
    TrunkConfig,
    TwinCritic,
    build_actor,
    build_critic,
)
from relaxrl.nn.actor import limited

SMALL = TrunkConfig(layers=2, cutoff=4.5, channels=6, message_channels=4)


def test_zero_forces_give_exactly_zero_action(
    actor: DirectActor, crystal: Callable[..., Atoms], graph_of: Callable[..., AtomGraph]
) -> None:
    graph = graph_of(crystal(0))
    assert torch.all(actor(graph.replace(forces=torch.zeros_like(graph.forces))) == 0)


def test_the_action_follows_the_size_of_the_forces(
    actor: DirectActor, crystal: Callable[..., Atoms], graph_of: Callable[..., AtomGraph]
) -> None:
    graph = graph_of(crystal(1))
    sizes = [
        float(actor(graph.replace(forces=factor * graph.forces, previous_forces=graph.forces)).norm().detach())
        for factor in (1e-5, 1e-4, 1e-3)
    ]
    assert sizes[0] < 0.5 * sizes[1] < 0.25 * sizes[2]


def test_an_untrained_actor_is_about_a_steepest_descent(
    crystal: Callable[..., Atoms], graph_of: Callable[..., AtomGraph]
) -> None:
    graph = graph_of(crystal(2))
    actor = build_actor(DirectActorConfig(stiffness=20.0), torch.Generator().manual_seed(0))
    expected = graph.forces / 20.0
    error = (actor(graph) - limited(expected, 0.5)).norm() / expected.norm()
    assert error < 0.1


def test_an_atom_without_force_moves_when_its_neighbours_are_pushed(
    actor: DirectActor, crystal: Callable[..., Atoms], graph_of: Callable[..., AtomGraph]
) -> None:
    graph = graph_of(crystal(3))
    forces = graph.forces.clone()
    forces[0] = 0
    assert actor(graph.replace(forces=forces))[0].norm() > 1e-5


def test_the_limit_is_radial_smooth_and_never_passed() -> None:
    direction = torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
    lengths = torch.tensor([1e-6, 0.25, 0.5, 5.0, 500.0], dtype=torch.float64)
    short = limited(lengths.unsqueeze(-1) * direction, 0.5)
    assert torch.allclose(short / short.norm(dim=-1, keepdim=True), direction.expand(5, 3))
    expected = lengths / (1 + (lengths / 0.5) ** 4) ** 0.25
    assert torch.allclose(short.norm(dim=-1), expected)
    assert torch.all(short.norm(dim=-1) <= 0.5)


def test_the_critic_sees_the_action_and_passes_its_gradient(
    critic: TwinCritic, crystal: Callable[..., Atoms], graph_of: Callable[..., AtomGraph]
) -> None:
    graph = graph_of(crystal(4))
    action = (0.02 * graph.forces).requires_grad_()
    first, second = critic(graph, action)
    assert not torch.equal(first, second)
    (gradient,) = torch.autograd.grad(first.sum(), action)
    step, atom, axis = 1e-6, 1, 2
    moved = action.detach().clone()
    moved[atom, axis] += step
    upper = critic(graph, moved)[0].detach()
    moved[atom, axis] -= 2 * step
    lower = critic(graph, moved)[0].detach()
    assert float(gradient[atom, axis]) == pytest.approx(float((upper - lower) / (2 * step)), rel=1e-4, abs=1e-8)
    assert torch.all(gradient.norm(dim=-1) > 0)


@pytest.mark.parametrize(
    "atoms",
    [
        Atoms("Cu"),
        bulk("Al"),
        Atoms("Pt", cell=[30, 30, 30], pbc=True),
        Atoms("OH2", positions=[[0, 0, 0.1], [0, 0.77, -0.5], [0, -0.77, -0.5]]),
        Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 0]]),
        Atoms("UHe", positions=[[0, 0, 0], [0, 0, 2.0]], cell=[8, 8, 8], pbc=[True, True, False]),
    ],
    ids=["atom", "one-atom crystal", "no edges", "molecule", "overlap", "slab of unseen elements"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("force", [0.0, 1e-8, 0.3, 1e4])
def test_odd_structures_and_zero_vectors_give_finite_actions_values_and_gradients(
    atoms: Atoms, dtype: torch.dtype, force: float
) -> None:
    graph = graph_from_atoms(atoms)
    forces = (force * torch.ones_like(graph.positions)).requires_grad_()
    graph = graph.replace(forces=forces, previous_forces=forces.detach())
    actor = build_actor(DirectActorConfig(trunk=SMALL)).to(dtype)
    critic = build_critic(CriticConfig(trunk=SMALL)).to(dtype)
    action = actor(graph)
    assert action.dtype == torch.float64
    assert torch.isfinite(action).all()
    value = critic(graph, action)[0].sum() + critic.per_atom(graph, torch.zeros_like(action))[1].sum()
    assert torch.isfinite(value)
    (value + action.sum()).backward()
    assert forces.grad is not None
    gradients = [forces.grad, *(p.grad for p in [*actor.parameters(), *critic.parameters()] if p.grad is not None)]
    assert len(gradients) > 10
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_missing_history_means_the_start_of_an_episode(
    actor: DirectActor, crystal: Callable[..., Atoms], graph_of: Callable[..., AtomGraph]
) -> None:
    graph = graph_of(crystal(5))
    bare = graph.replace(previous_displacement=None, previous_forces=None)
    start = graph.replace(previous_displacement=torch.zeros_like(graph.forces), previous_forces=graph.forces)
    assert torch.equal(actor(bare), actor(start))
    assert not torch.equal(actor(bare), actor(graph))


def test_history_can_be_left_out(crystal: Callable[..., Atoms], graph_of: Callable[..., AtomGraph]) -> None:
    graph = graph_of(crystal(6))
    actor = build_actor(DirectActorConfig(trunk=TrunkConfig(layers=2, channels=6, history=False)))
    assert torch.equal(actor(graph), actor(graph.replace(previous_displacement=None, previous_forces=None)))


def test_float32_follows_float64(crystal: Callable[..., Atoms], graph_of: Callable[..., AtomGraph]) -> None:
    graph = graph_of(crystal(7))
    single = build_actor(DirectActorConfig(trunk=SMALL), torch.Generator().manual_seed(0))
    double = copy.deepcopy(single).double()
    assert next(single.parameters()).dtype == torch.float32
    assert torch.allclose(single(graph), double(graph), rtol=1e-3, atol=1e-5)


def test_one_seed_gives_one_network_and_leaves_the_global_state_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    networks = [build_actor(DirectActorConfig(trunk=SMALL), torch.Generator().manual_seed(k)) for k in (0, 0, 1)]
    assert torch.equal(torch.rand(3), expected)
    first, same, other = (torch.cat([p.flatten() for p in network.parameters()]) for network in networks)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_networks_survive_copying_pickling_and_loading(
    crystal: Callable[..., Atoms], graph_of: Callable[..., AtomGraph]
) -> None:
    graph = graph_of(crystal(8))
    actor = build_actor(DirectActorConfig(trunk=SMALL))
    other = build_actor(DirectActorConfig(trunk=SMALL))
    assert not torch.equal(other(graph), actor(graph))
    other.load_state_dict(actor.state_dict())
    for twin in (other, copy.deepcopy(actor), pickle.loads(pickle.dumps(actor))):
        assert torch.equal(twin(graph), actor(graph))


def test_use_in_inference_mode_first_does_not_spoil_training(
    crystal: Callable[..., Atoms], graph_of: Callable[..., AtomGraph]
) -> None:
    graph = graph_of(crystal(9))
    actor = build_actor(DirectActorConfig(trunk=TrunkConfig(layers=2, channels=4, lmax=3, cutoff=3.5)))
    with torch.inference_mode():
        actor(graph)
    actor(graph).sum().backward()
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in actor.trunk.parameters())


def test_a_network_learns_to_overshoot_its_steepest_descent(
    crystal: Callable[..., Atoms], graph_of: Callable[..., AtomGraph]
) -> None:
    graph = AtomGraph.batch([graph_of(crystal(k), k) for k in range(3)])
    target = limited(graph.forces / 5.0, 0.5)
    actor = build_actor(DirectActorConfig(trunk=SMALL), torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(actor.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = (actor(graph) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.02 * losses[0]


def test_missing_forces_and_wrong_actions_are_named(crystal: Callable[..., Atoms]) -> None:
    graph = graph_from_atoms(crystal(0))
    with pytest.raises(ValueError, match="the graph has none; evaluate a potential first"):
        build_actor(DirectActorConfig(trunk=SMALL))(graph)
    critic = build_critic(CriticConfig(trunk=SMALL))
    with pytest.raises(ValueError, match=r"must have shape \(n_atoms=8, 3\), got \(2, 3\)"):
        critic(graph.replace(forces=torch.zeros_like(graph.positions)), torch.zeros(2, 3))
