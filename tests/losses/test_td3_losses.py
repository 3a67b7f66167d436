"""TD3's losses against numbers computed by hand."""

import math

import pytest
import torch

from relaxrl.losses import (
    cloning_loss,
    critic_loss,
    deviation_penalty,
    lap_loss,
    q_objective,
    td3_target,
)


def test_target_takes_the_smaller_critic_and_stops_at_termination_only():
    target = td3_target(
        reward=torch.tensor([1.0, 2.0, 3.0]),
        terminated=torch.tensor([False, True, False]),
        next_q1=torch.tensor([10.0, 10.0, -4.0]),
        next_q2=torch.tensor([8.0, 20.0, 6.0]),
        discount=torch.tensor([0.5, 0.5, 0.25]),
    )
    torch.testing.assert_close(target, torch.tensor([5.0, 2.0, 2.0]))


def test_target_of_terminated_state_ignores_a_bootstrap_that_is_not_finite_and_carries_no_gradient():
    q = torch.tensor([math.inf], requires_grad=True)
    target = td3_target(torch.tensor([10.0]), torch.tensor([True]), q, q, 0.9)
    assert target.item() == 10.0
    assert not target.requires_grad


def test_critic_losses_by_hand():
    q, target = torch.tensor([0.0, 0.0]), torch.tensor([0.5, -3.0])
    torch.testing.assert_close(critic_loss(q, target, "mse"), torch.tensor([0.25, 9.0]))
    torch.testing.assert_close(critic_loss(q, target, "huber", delta=1.0), torch.tensor([0.125, 2.5]))
    torch.testing.assert_close(critic_loss(q, target, "lap", delta=2.0), torch.tensor([0.125, 4.0]))
    with pytest.raises(ValueError, match="kind"):
        critic_loss(q, target, "l3")
    with pytest.raises(ValueError, match=r"\(2,\) and \(2, 1\)"):
        critic_loss(q, target.unsqueeze(-1))


def test_lap_gradient_under_its_sampling_is_a_power_of_the_error():
    """Priority to the power alpha times the clipped error is the gradient of |error|^(1 + alpha) / (1 + alpha)."""
    alpha, errors = 0.4, torch.tensor([2.0, -5.0])
    q = errors.clone().requires_grad_()
    (lap_loss(q, torch.zeros(2)) * errors.abs().clamp(min=1.0) ** alpha).sum().backward()
    uniform = errors.clone().requires_grad_()
    (uniform.abs() ** (1 + alpha) / (1 + alpha)).sum().backward()
    torch.testing.assert_close(q.grad, uniform.grad)


def test_q_objective_in_units_of_the_mean_value_with_a_constant_denominator():
    q = torch.tensor([1.0, -3.0], requires_grad=True)
    torch.testing.assert_close(q_objective(q, normalize=False), -q)
    loss = q_objective(q, normalize=True)
    torch.testing.assert_close(loss, torch.tensor([-0.5, 1.5]))
    loss.mean().backward()
    torch.testing.assert_close(q.grad, torch.tensor([-0.25, -0.25]))
    assert torch.isfinite(q_objective(torch.zeros(2), normalize=True)).all()


def test_cloning_counts_expert_samples_only_whatever_the_others_hold():
    predicted = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [9.0, 9.0, 9.0]], requires_grad=True)
    expert = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [math.nan, math.inf, 0.0]])
    loss = cloning_loss(predicted, expert, torch.tensor([0, 0, 1]), torch.tensor([True, False]))
    torch.testing.assert_close(loss, torch.tensor([3.0, 0.0]))  # (1 + 5) / 2
    loss.sum().backward()
    torch.testing.assert_close(predicted.grad, torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, -1.0], [0.0, 0.0, 0.0]]))


def test_relative_cloning_by_hand_and_blind_to_the_size_of_the_step():
    graph_index, is_expert = torch.tensor([0, 1]), torch.tensor([True, False])
    expert = torch.tensor([[0.2, 0.0, 0.0], [0.1, 0.0, 0.0]], dtype=torch.float64)
    loss = cloning_loss(0.5 * expert, expert, graph_index, is_expert, "relative")
    expected = torch.tensor([math.log(0.25 + 1e-3), 0.0], dtype=torch.float64)
    torch.testing.assert_close(loss, expected)
    small = cloning_loss(0.5e-3 * expert, 1e-3 * expert, graph_index, is_expert, "relative")
    torch.testing.assert_close(small, expected)
    nothing = torch.zeros(2, 3, requires_grad=True)
    at_rest = cloning_loss(nothing, torch.zeros(2, 3), graph_index, is_expert, "relative")
    at_rest.sum().backward()
    assert torch.isfinite(at_rest).all()
    assert torch.isfinite(nothing.grad).all()


def test_deviation_penalty_and_its_gradient():
    predicted = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]], requires_grad=True)
    applied = torch.tensor([[0.5, 0.0, 0.0], [0.0, 2.0, 1.0]])
    penalty = deviation_penalty(predicted, applied, torch.tensor([0, 0]), 1)
    torch.testing.assert_close(penalty, torch.tensor([0.625]))
    penalty.sum().backward()
    torch.testing.assert_close(predicted.grad, torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.0, -1.0]]))
    with pytest.raises(ValueError, match="same shape"):
        deviation_penalty(predicted, applied[:1], torch.tensor([0, 0]), 1)
