"""TD3 learns to relax harmonic wells in seconds, from reward alone, and twice the same."""

import torch
from torch import Tensor

from relaxrl.agents import TD3, ExplorationConfig, ReplayBuffer, Schedule, TD3Config, Transition, explore
from relaxrl.graph import AtomGraph, max_force
from relaxrl.seeding import Generators

STIFFNESS = 5.0  # eV/Å²
FMAX = 0.05
SIZES = [1, 2, 3, 4] * 4


def well(graph: AtomGraph) -> AtomGraph:
    """The structures with the forces of an isotropic harmonic well around the origin."""
    energy = torch.zeros(graph.n_graphs, dtype=torch.float64)
    energy.index_add_(0, graph.graph_index, 0.5 * STIFFNESS * graph.positions.square().sum(-1))
    return graph.replace(forces=-STIFFNESS * graph.positions, energy=energy)


def starts(generator: torch.Generator) -> AtomGraph:
    n_atoms, n_graphs = sum(SIZES), len(SIZES)
    return well(
        AtomGraph(
            positions=0.3 * torch.randn(n_atoms, 3, generator=generator, dtype=torch.float64),
            cell=torch.zeros(n_graphs, 3, 3, dtype=torch.float64),
            pbc=torch.zeros(n_graphs, 3, dtype=torch.bool),
            atomic_numbers=torch.full((n_atoms,), 29),
            graph_index=torch.arange(n_graphs).repeat_interleave(torch.tensor(SIZES)),
        )
    )


def steps_to_converge(td3: TD3, limit: int = 60) -> float:
    """Mean number of steps from fixed starts."""
    graph = starts(torch.Generator().manual_seed(99))
    needed = torch.full((graph.n_graphs,), float(limit))
    for step in range(limit):
        converged = max_force(graph) <= FMAX
        needed = torch.where(converged & (needed == limit), torch.full_like(needed, float(step)), needed)
        graph = well(graph.replace(positions=graph.positions + td3.act(graph)))
    return needed.mean().item()


def trained(actor, critic, seed: int) -> tuple[float, float, Tensor]:
    """Steps to converge before and after 25 episodes of 16 wells, and the learned gain."""
    generators = Generators(seed)
    config = TD3Config(
        gamma=0.9,
        tau=0.05,
        actor_lr=3e-3,
        critic_lr=3e-2,
        bc_weight=Schedule(start=0.0),
        deviation_weight=0.0,
        max_grad_norm=None,
    )
    td3, replay = TD3(actor, critic, config), ReplayBuffer(2000)
    exploration = ExplorationConfig(scale=Schedule(start=1.0), structure_factor=0.5)
    before = steps_to_converge(td3)
    for _ in range(25):
        graph = starts(generators.torch("starts"))
        for _ in range(8):
            with torch.no_grad():
                action = explore(td3.actor, graph, exploration, config.max_step, generators.torch("noise"))
            later = well(graph.replace(positions=graph.positions + action))
            reward = -later.energy / later.atoms_per_graph
            atom_reward = reward[graph.graph_index]
            over = torch.zeros(graph.n_graphs, dtype=torch.bool)  # episodes are truncated only
            replay.add(Transition.of_step(graph, action, action, reward, atom_reward, later, over))
            graph = later
            for _ in range(3):
                td3.update(replay.sample(64, generators.numpy("replay")), None, generators.torch("smoothing"))
    return before, steps_to_converge(td3), actor.gain.detach()


def test_learns_a_harmonic_well_from_reward_alone(gain_actor, quadratic_critic):
    before, after, gain = trained(gain_actor(0.03), quadratic_critic([0.0] * 4, [0.0] * 4), seed=0)
    assert before > 20
    assert after < 5
    assert abs(gain.item() - 1 / STIFFNESS) < 0.05


def test_two_seeded_runs_are_equal(gain_actor, quadratic_critic):
    runs = [trained(gain_actor(0.03), quadratic_critic([0.0] * 4, [0.0] * 4), seed) for seed in (1, 1, 2)]
    assert torch.equal(runs[0][2], runs[1][2])
    assert not torch.equal(runs[0][2], runs[2][2])
