"""TD3 with the real networks: updates run, resume is exact, and cloning BFGS steps works."""

import numpy as np
import pytest
import torch
from ase.build import bulk

from relaxrl.agents import TD3, BFGSExpert, Sample, Schedule, TD3Config, Transition
from relaxrl.io import graph_from_atoms
from relaxrl.nn import CriticConfig, DirectActorConfig, TrunkConfig, build_actor, build_critic

TRUNK = TrunkConfig(layers=2, channels=4, message_channels=4, cutoff=4.0)


def make_td3(seed: int = 0, **changes) -> TD3:
    weights = torch.Generator().manual_seed(seed)
    actor = build_actor(DirectActorConfig(trunk=TRUNK), weights)
    critic = build_critic(CriticConfig(trunk=TRUNK), weights)
    return TD3(actor, critic, TD3Config(**({"policy_delay": 1} | changes)))


@pytest.fixture(scope="module")
def expert_steps() -> Sample:
    """Steps of the BFGS expert on rattled copper in a harmonic crystal."""
    generator = np.random.default_rng(0)
    structures = [bulk("Cu", cubic=True) for _ in range(4)]
    rest = torch.from_numpy(np.concatenate([atoms.positions for atoms in structures]))
    for atoms in structures:
        atoms.positions += generator.normal(scale=0.1, size=(4, 3))
    graph = graph_from_atoms(structures)

    def observed(positions: torch.Tensor):
        forces = -10.0 * (positions - rest)
        before = torch.zeros_like(positions)
        return graph.replace(positions=positions, forces=forces, previous_displacement=before, previous_forces=forces)

    first = observed(graph.positions)
    step = BFGSExpert(alpha=10.0).propose(first, range(4))
    later = observed(first.positions + step)
    reward = -torch.ones(4, dtype=torch.float64)
    over = torch.zeros(4, dtype=torch.bool)
    transition = Transition.of_step(first, step, step, reward, reward[graph.graph_index], later, over)
    return Sample(transition, np.arange(4), np.ones(4))


@pytest.mark.parametrize("per_atom", [False, True])
def test_resume_is_exact(expert_steps, per_atom):
    noise = torch.Generator().manual_seed(0)
    straight = make_td3(per_atom=per_atom)
    for _ in range(2):
        metrics = straight.update(expert_steps, expert_steps, noise)
    assert all(np.isfinite(value) for value in metrics.values())
    noise.manual_seed(0)
    first = make_td3(per_atom=per_atom)
    first.update(expert_steps, expert_steps, noise)
    resumed = make_td3(seed=1, per_atom=per_atom)
    resumed.load_state_dict(first.state_dict())
    resumed.update(expert_steps, expert_steps, noise)
    for name in ("actor", "critic", "target_actor", "target_critic"):
        left, right = getattr(straight, name).state_dict(), getattr(resumed, name).state_dict()
        assert all(torch.equal(left[key], right[key]) for key in left), name


@pytest.mark.parametrize(("kind", "weight", "fall"), [("mse", 100.0, 0.25), ("relative", 1.0, None)])
def test_cloning_learns_the_experts_step(expert_steps, kind, weight, fall):
    td3 = make_td3(
        q_weight=Schedule(start=0.0),
        bc_weight=Schedule(start=weight),
        bc_loss=kind,
        deviation_weight=0.0,
        actor_lr=0.01,
    )
    noise = torch.Generator().manual_seed(0)
    losses = [td3.update(None, expert_steps, noise)["bc_loss"] for _ in range(40)]
    if fall is not None:
        assert losses[-1] < fall * losses[0]
    else:
        assert losses[-1] < losses[0] - np.log(4.0)
