"""One update of TD3 by hand, and what each addition changes."""

import copy

import numpy as np
import pytest
import torch

from relaxrl.agents import TD3, Sample, Schedule, TD3Config, Transition
from relaxrl.agents.td3 import polyak_update
from relaxrl.errors import RelaxRLError

PLAIN = {
    "target_noise": 0.0,
    "deviation_weight": 0.0,
    "bc_weight": Schedule(start=0.0),
    "critic_loss": "mse",
    "normalize_q": False,
    "max_grad_norm": None,
    "policy_delay": 1,
    "max_step": 100.0,
}
FIRST, SECOND = [0.5, -0.3, 0.2, 0.1], [0.1, -0.2, 0.4, 0.3]


@pytest.fixture
def make_td3(gain_actor, quadratic_critic):
    def make(gain: float = 0.2, **changes) -> TD3:
        return TD3(gain_actor(gain), quadratic_critic(FIRST, SECOND), TD3Config(**(PLAIN | changes)))

    return make


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def sample_of(transition: Transition, weights: list[float] | None = None) -> Sample:
    n = len(transition)
    return Sample(transition, np.arange(n), np.ones(n) if weights is None else np.array(weights))


def values(weights: list[float], force: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """The double's value of each atom, written out."""
    w0, w1, w2, w3 = weights
    return w0 + w1 * (action * action).sum(-1) + w2 * (action * force).sum(-1) + w3 * (force * force).sum(-1)


def expected_target(transition: Transition, gamma: float, gain: float) -> torch.Tensor:
    """r + gamma (1 - terminated) min(q1', q2') of each structure, one by one."""
    graph, targets = transition.next_graph, []
    for k in range(len(transition)):
        force = graph.forces[graph.graph_index == k]
        q = [values(weights, force, gain * force).mean().item() for weights in (FIRST, SECOND)]
        bootstrap = 0.0 if transition.terminated[k] else gamma ** int(transition.steps[k]) * min(q)
        targets.append(transition.reward[k].item() + bootstrap)
    return torch.tensor(targets, dtype=torch.float64)


def test_critic_update_by_hand(make_transition, make_td3, generator):
    """Loss, TD errors and target of a batch with one terminated structure."""
    transition = make_transition([3, 1, 2], first=-1)
    transition.terminated[1] = True
    td3 = make_td3(gamma=0.9)
    metrics = td3.update(sample_of(transition, [1.0, 0.5, 0.25]), None, generator)
    target = expected_target(transition, 0.9, 0.2)
    graph, squares, errors = transition.graph, [], []
    for k in range(3):
        own = graph.graph_index == k
        deviations = [
            abs(values(weights, graph.forces[own], transition.proposed[own]).mean().item() - target[k].item())
            for weights in (FIRST, SECOND)
        ]
        squares.append(sum(deviation**2 for deviation in deviations))
        errors.append(max(deviations))
    assert metrics["critic_loss"] == pytest.approx((squares[0] + 0.5 * squares[1] + 0.25 * squares[2]) / 3)
    assert metrics["q_target_mean"] == pytest.approx(target.mean().item())
    np.testing.assert_allclose(td3.agent_td_errors, errors)
    assert td3.expert_td_errors is None


def test_truncation_bootstraps_and_termination_does_not(make_transition, make_td3, generator):
    running, over = make_transition([3]), make_transition([3], terminated=True)
    td3 = make_td3(gamma=0.9)
    assert td3._target(over, generator).item() == over.reward.item()
    assert td3._target(running, generator).item() == pytest.approx(expected_target(running, 0.9, 0.2).item())
    assert td3._target(running, generator).item() != running.reward.item()


def test_returns_over_several_steps_discount_the_bootstrap(make_transition, make_td3, generator):
    transition = make_transition([3, 2])
    transition.steps[0] = 3
    torch.testing.assert_close(
        make_td3(gamma=0.5)._target(transition, generator), expected_target(transition, 0.5, 0.2)
    )


def test_target_clip(make_transition, make_td3, generator):
    target = make_td3(target_clip=(-0.01, 0.01))._target(make_transition([3, 2], first=5), generator)
    assert target.tolist() == [0.01, 0.01]


def test_smoothing_noise_is_relative_clipped_and_limited(make_transition, make_td3, quadratic_critic, generator):
    """Seen through a critic whose value is the mean squared action."""
    transition = make_transition([200])
    force = transition.next_graph.forces
    transition.reward.zero_()

    def mean_square(**changes) -> float:
        td3 = make_td3(gamma=1.0, **changes)
        td3.target_critic = quadratic_critic([0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0])
        return td3._target(transition, generator).item()

    still = mean_square(target_noise=0.0)
    assert still == pytest.approx((0.2 * force).square().sum(-1).mean().item())
    assert mean_square(target_noise=0.5, target_noise_clip=100.0) == pytest.approx(still * 1.25, rel=0.15)
    assert mean_square(target_noise=100.0, target_noise_clip=0.1) == pytest.approx(still, rel=0.05)
    assert mean_square(target_noise=100.0, target_noise_clip=100.0, max_step=0.1) == pytest.approx(0.01, rel=0.02)


def test_delay_is_counted_per_update(make_transition, make_td3, generator):
    td3 = make_td3(policy_delay=3)
    sample, changed = sample_of(make_transition([3, 2])), []
    for _ in range(7):
        before = [copy.deepcopy(network.state_dict()) for network in (td3.actor, td3.target_actor, td3.target_critic)]
        metrics = td3.update(sample, None, generator)
        after = [network.state_dict() for network in (td3.actor, td3.target_actor, td3.target_critic)]
        moved = [any(not torch.equal(a[k], b[k]) for k in a) for a, b in zip(before, after, strict=True)]
        assert len(set(moved)) == 1
        assert ("actor_loss" in metrics) == moved[0]
        changed.append(moved[0])
    assert changed == [False, False, True, False, False, True, False]


def test_polyak_by_hand(gain_actor):
    network, target = gain_actor(1.0), gain_actor(0.0)
    polyak_update(network, target, 0.1)
    polyak_update(network, target, 0.1)
    assert target.gain.item() == pytest.approx(0.19)


def test_actor_climbs_the_first_critic_alone(make_transition, make_td3, generator):
    transition = make_transition([3, 1])
    td3 = make_td3(critic_lr=1e-12)
    metrics = td3.update(sample_of(transition), None, generator)
    force, index = transition.graph.forces, transition.graph.graph_index
    gain = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    per_atom = values(FIRST, force, gain * force)
    loss = -0.5 * (per_atom[index == 0].mean() + per_atom[index == 1].mean())
    loss.backward()
    assert metrics["actor_loss"] == pytest.approx(loss.item(), abs=1e-9)
    assert metrics["actor_grad_norm"] == pytest.approx(gain.grad.abs().item(), abs=1e-9)
    assert all(parameter.grad is not None for parameter in td3.critic.parameters())


def test_the_actors_loss_leaves_no_gradient_in_the_critic(make_transition, make_td3):
    td3 = make_td3()
    batch, _, is_expert = td3._joined(sample_of(make_transition([3])), None)
    td3._update_actor(batch, is_expert, t=0, cloning_only=False)
    assert all(parameter.grad is None for parameter in td3.critic.parameters())
    assert td3.actor.gain.grad is not None


def test_normalised_q_makes_the_loss_independent_of_the_scale_of_rewards(make_transition, make_td3, generator):
    losses = []
    for factor in (1.0, 1000.0):
        td3 = make_td3(normalize_q=True, critic_lr=1e-12)
        with torch.no_grad():
            td3.critic.weights.mul_(factor)
        losses.append(td3.update(sample_of(make_transition([3, 2])), None, generator)["actor_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def actor_losses(td3: TD3, agent: Sample | None, expert: Sample | None, t: int = 0) -> dict[str, float]:
    return td3.update(agent, expert, torch.Generator().manual_seed(0), t)


def test_cloning_counts_expert_samples_only(make_transition, make_td3):
    agent, expert = make_transition([3], seed=1), make_transition([2], seed=2)
    changes = {"q_weight": Schedule(start=0.0), "bc_weight": Schedule(start=4.0)}
    only_agent = actor_losses(make_td3(**changes), sample_of(agent), None)
    assert only_agent["actor_loss"] == 0.0
    assert only_agent["actor_grad_norm"] == 0.0
    both = actor_losses(make_td3(**changes), sample_of(agent), sample_of(expert))
    square = (0.2 * expert.graph.forces - expert.applied).square().sum(-1).mean().item()
    assert both["bc_loss"] == pytest.approx(square)
    assert both["actor_loss"] == pytest.approx(4.0 * square / 2)  # mean over the batch of two


def test_cloning_fades(make_transition, make_td3):
    schedule = Schedule(kind="linear", start=4.0, end=1.0, steps=100)
    td3 = make_td3(q_weight=Schedule(start=0.0), bc_weight=schedule, actor_lr=1e-12)
    expert = sample_of(make_transition([2], seed=2))
    early, late = (actor_losses(td3, None, expert, t)["actor_loss"] for t in (0, 100))
    assert late == pytest.approx(early / 4.0)


def test_deviation_penalty_draws_towards_what_was_applied(make_transition, make_td3):
    transition = make_transition([3])
    td3 = make_td3(q_weight=Schedule(start=0.0), deviation_weight=5.0, actor_lr=1e-3)
    before = (0.2 * transition.graph.forces - transition.applied).square().sum(-1).mean().item()
    metrics = actor_losses(td3, sample_of(transition), None)
    assert metrics["actor_loss"] == pytest.approx(5.0 * before)
    after = (td3.actor.gain * transition.graph.forces - transition.applied).square().sum(-1).mean().item()
    assert after < before


def test_deviation_may_count_corrected_moves_only(make_transition, make_td3):
    transition = make_transition([3, 2])
    transition.proposed[:3] = transition.applied[:3]  # the first structure's move was not corrected
    changes = {"q_weight": Schedule(start=0.0), "deviation_weight": 1.0, "deviation_on": "corrected"}
    metrics = actor_losses(make_td3(**changes), sample_of(transition), None)
    square = (0.2 * transition.graph.forces - transition.applied)[3:].square().sum(-1).mean().item()
    assert metrics["actor_loss"] == pytest.approx(square / 2)


def test_q_weight_zero_and_cloning_only_ignore_the_critic(make_transition, make_td3, generator):
    agent, expert = sample_of(make_transition([3], seed=1)), sample_of(make_transition([2], seed=2))
    gains = []
    for changes, cloning_only in (({"q_weight": Schedule(start=0.0)}, False), ({}, True), ({}, False)):
        td3 = make_td3(bc_weight=Schedule(start=1.0), **changes)
        metrics = td3.update(agent, expert, generator, cloning_only=cloning_only)
        assert metrics["critic_loss"] > 0
        gains.append(metrics["actor_grad_norm"])
    assert gains[0] == gains[1] != gains[2]


def test_critic_may_value_the_applied_action(make_transition, make_td3, generator):
    transition = make_transition([3], terminated=True)
    q = {}
    for which in ("proposed", "applied"):
        q[which] = make_td3(critic_action=which).update(sample_of(transition), None, generator)["q_mean"]
        action = getattr(transition, which)
        assert q[which] == pytest.approx(values(FIRST, transition.graph.forces, action).mean().item())
    assert q["proposed"] != q["applied"]


def test_per_atom_critic_has_targets_and_objective_per_atom(make_transition, make_td3, generator):
    transition = make_transition([3, 1])
    transition.terminated[1] = True
    transition.atom_reward.copy_(torch.tensor([1.0, -2.0, 3.0, 4.0]))
    td3 = make_td3(gamma=0.9, per_atom=True, critic_lr=1e-12)
    force = transition.next_graph.forces
    q = torch.minimum(*(values(weights, force, 0.2 * force) for weights in (FIRST, SECOND)))
    expected = transition.atom_reward + 0.9 * q * torch.tensor([1.0, 1.0, 1.0, 0.0])
    torch.testing.assert_close(td3._target(transition, generator), expected)
    mean = td3.update(sample_of(transition), None, generator)["actor_q"]
    now = transition.graph.forces
    per_atom = values(FIRST, now, 0.2 * now)
    assert mean == pytest.approx(0.5 * (per_atom[:3].mean() + per_atom[3]).item())
    summed = make_td3(per_atom=True, atom_reduction="sum", critic_lr=1e-12).update(
        sample_of(transition), None, generator
    )["actor_q"]
    assert summed == pytest.approx(0.5 * per_atom.sum().item())
    assert len(td3.agent_td_errors) == 2


def test_td_errors_are_told_apart(make_transition, make_td3, generator):
    agent, expert = make_transition([3, 2], seed=1), make_transition([2], seed=2, first=50)
    td3 = make_td3()
    td3.update(sample_of(agent), sample_of(expert), generator)
    assert td3.agent_td_errors.shape == (2,)
    assert td3.expert_td_errors.shape == (1,)
    assert td3.expert_td_errors[0] > 40
    with pytest.raises(ValueError, match="needs transitions"):
        td3.update(None, None, generator)


def test_divergence_is_an_error_that_says_what_to_do(make_transition, make_td3, generator):
    transition = make_transition([2])
    transition.reward[0] = float("nan")
    with pytest.raises(RelaxRLError, match="critic_lr"):
        make_td3().update(sample_of(transition), None, generator)


def test_gradients_are_clipped(make_transition, make_td3, generator):
    td3 = make_td3(max_grad_norm=1e-3)
    assert td3.update(sample_of(make_transition([3])), None, generator)["critic_grad_norm"] > 1e-3
    norms = [parameter.grad.norm().item() for parameter in td3.critic.parameters()]
    assert max(norms) == pytest.approx(1e-3, rel=1e-3)


def test_resume_is_exact(make_transition, make_td3):
    batches = [sample_of(make_transition([3, 2], seed=seed)) for seed in range(6)]
    noise = torch.Generator().manual_seed(5)
    straight, first = make_td3(target_noise=0.2, policy_delay=2), make_td3(target_noise=0.2, policy_delay=2)
    for batch in batches:
        straight.update(batch, None, noise)
    noise.manual_seed(5)
    for batch in batches[:3]:
        first.update(batch, None, noise)
    resumed = make_td3(gain=9.0, target_noise=0.2, policy_delay=2)
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    for batch in batches[3:]:
        resumed.update(batch, None, noise)
    assert resumed.updates == straight.updates == 6
    for name in ("actor", "critic", "target_actor", "target_critic"):
        left, right = getattr(straight, name).state_dict(), getattr(resumed, name).state_dict()
        assert all(torch.equal(left[key], right[key]) for key in left), name


def test_act_is_limited_and_without_gradient(make_graph, make_td3):
    graph = make_graph([4])
    action = make_td3(gain=5.0, max_step=0.3).act(graph)
    assert not action.requires_grad
    assert action.norm(dim=-1).max().item() == pytest.approx(0.3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"gamma": 1.1},
        {"tau": -0.1},
        {"policy_delay": 0},
        {"actor_lr": 0.0},
        {"target_noise": -1.0},
        {"max_grad_norm": 0.0},
        {"target_clip": (1.0, 0.0)},
        {"bc_weight": Schedule(start=-1.0)},
        {"critic_loss": "l7"},
    ],
)
def test_config_ranges(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TD3Config(**wrong)
