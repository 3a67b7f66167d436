"""Noise turns with the crystal, scales with the step, and has the size it says."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from relaxrl.agents import ExplorationConfig, Schedule, explore, limit_radially
from relaxrl.agents.exploration import add_relative, perturb_action, perturb_state, turn

EXACT = 1e-12


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def rotation():
    return torch.from_numpy(Rotation.from_euler("zyz", [0.4, 1.1, 2.5]).as_matrix())


@pytest.fixture
def vectors():
    return torch.randn(50, 3, generator=generator(1), dtype=torch.float64)


def test_turn_keeps_lengths_and_turns_by_the_angle(vectors):
    angle = torch.linspace(-1.0, 3.0, 50, dtype=torch.float64)
    direction = torch.randn(50, 3, generator=generator(2), dtype=torch.float64)
    turned = turn(vectors, direction, angle)
    torch.testing.assert_close(turned.norm(dim=-1), vectors.norm(dim=-1))
    cosine = torch.nn.functional.cosine_similarity(turned, vectors)
    torch.testing.assert_close(cosine, angle.cos())
    assert torch.equal(turn(torch.zeros(1, 3), torch.ones(1, 3), torch.ones(1)), torch.zeros(1, 3))


def test_primitives_are_equivariant_when_the_drawn_noise_turns_along(vectors, rotation):
    noise = torch.randn(50, 3, generator=generator(3), dtype=torch.float64)
    angle = torch.randn(50, generator=generator(4), dtype=torch.float64)
    for inversion in (1.0, -1.0):
        operation = inversion * rotation.T
        turned = turn(vectors @ operation, noise @ operation, angle)
        torch.testing.assert_close(turned, turn(vectors, noise, angle) @ operation, atol=EXACT, rtol=EXACT)
        added = add_relative(vectors @ operation, noise @ operation, 0.3, clip=0.5)
        torch.testing.assert_close(
            added, add_relative(vectors, noise, 0.3, clip=0.5) @ operation, atol=EXACT, rtol=EXACT
        )


@pytest.mark.parametrize("kind", ["equivariant", "isotropic"])
def test_distribution_turns_with_the_action_and_scales_with_it(kind):
    """Noise of x̂ and noise of 0.001 ŷ: the same mean and spread, along and across, in units of the action."""
    config = ExplorationConfig(kind=kind)
    index = torch.arange(40_000)
    results = []
    for axis, length in ((0, 1.0), (1, 1e-3)):
        action = torch.zeros(40_000, 3, dtype=torch.float64)
        action[:, axis] = length
        noisy = perturb_action(action, index, config, 1.0, generator(axis)) / length
        across = [k for k in range(3) if k != axis]
        along_std, across_std = noisy[:, axis].std().item(), noisy[:, across].std(dim=0)
        assert noisy[:, across].mean().abs() < 0.01
        assert across_std[0].item() == pytest.approx(across_std[1].item(), rel=0.03)
        results.append((noisy[:, axis].mean().item(), along_std, across_std.mean().item()))
    assert results[0] == pytest.approx(results[1], rel=0.03)
    assert results[0][2] > 0.1


def test_size_of_the_noise():
    config = ExplorationConfig(angle=0.2, structure_factor=0.3, atom_factor=0.0)
    action = torch.zeros(30_000, 3, dtype=torch.float64)
    action[:, 2] = 0.05
    index = torch.arange(15_000).repeat_interleave(2)
    noisy = perturb_action(action, index, config, 0.5, generator())
    angle = torch.acos(torch.nn.functional.cosine_similarity(noisy, action).clamp(-1, 1))
    assert angle.square().mean().sqrt().item() == pytest.approx(0.1, rel=0.03)
    logarithm = torch.log(noisy.norm(dim=-1) / 0.05)
    assert logarithm.std().item() == pytest.approx(0.15, rel=0.03)
    torch.testing.assert_close(logarithm[0::2], logarithm[1::2])  # one factor per structure
    relative = perturb_action(action, index, ExplorationConfig(kind="isotropic", relative=0.4), 0.5, generator())
    assert ((relative - action).square().sum(-1).mean().sqrt() / 0.05).item() == pytest.approx(0.2, rel=0.03)
    absolute = perturb_action(action, index, ExplorationConfig(kind="gaussian", absolute=0.02), 0.5, generator())
    assert (absolute - action).std().item() == pytest.approx(0.01, rel=0.03)


def test_explore_limits_repeats_and_follows_its_schedule(make_graph, gain_actor):
    graph = make_graph([4, 3])
    actor = gain_actor(10.0)
    config = ExplorationConfig(scale=Schedule(kind="linear", start=1.0, end=0.0, steps=10))
    with torch.no_grad():
        noisy = explore(actor, graph, config, 0.5, generator(), t=0)
        assert noisy.norm(dim=-1).max() <= 0.5 + EXACT
        assert torch.equal(noisy, explore(actor, graph, config, 0.5, generator(), t=0))
        assert not torch.equal(noisy, explore(actor, graph, config, 0.5, generator(1), t=0))
        quiet = explore(actor, graph, config, 0.5, generator(), t=10)
        assert torch.equal(quiet, limit_radially(actor(graph), 0.5))
        none = explore(actor, graph, ExplorationConfig(kind="none"), 0.5, generator())
        assert torch.equal(none, quiet)


def test_state_noise_is_as_small_as_the_step(make_graph, gain_actor):
    graph = make_graph([200])
    step = torch.full((200, 3), 1e-4, dtype=torch.float64)
    seen = perturb_state(graph, step, 0.5, generator())
    moved = (seen.positions - graph.positions).square().sum(-1).mean().sqrt().item()
    assert moved == pytest.approx(0.5 * 1e-4 * math.sqrt(3), rel=0.1)
    relative = ((seen.forces - graph.forces).norm(dim=-1) / graph.forces.norm(dim=-1)).square().mean().sqrt().item()
    assert relative == pytest.approx(0.5, rel=0.1)
    config = ExplorationConfig(kind="none", state=0.3)
    actor = gain_actor(0.1)
    with torch.no_grad():
        assert not torch.equal(explore(actor, graph, config, 0.5, generator()), actor(graph))


def test_radial_limit_keeps_direction_and_short_vectors():
    vectors = torch.tensor([[3.0, 4.0, 0.0], [0.3, 0.0, 0.0], [0.0, 0.0, 0.0]])
    limited = limit_radially(vectors, 0.5)
    torch.testing.assert_close(limited, torch.tensor([[0.3, 0.4, 0.0], [0.3, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    rest = torch.zeros(1, 3, requires_grad=True)
    limit_radially(rest, 0.5).sum().backward()
    assert torch.isfinite(rest.grad).all()


def test_config_ranges():
    with pytest.raises(ValueError, match="angle"):
        ExplorationConfig(angle=-0.1)
    with pytest.raises(ValueError, match="scale"):
        ExplorationConfig(scale=Schedule(start=-1.0))
