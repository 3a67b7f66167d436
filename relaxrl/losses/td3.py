"""The losses of TD3: Bellman target, critic loss, actor loss.

References:
    Fujimoto, van Hoof, Meger: Addressing Function Approximation Error in Actor-Critic Methods, arXiv:1802.09477.
    Fujimoto, Meger, Precup: An Equivalence between Loss Functions and Non-Uniform Sampling, arXiv:2007.06049 (LAP).
    Fujimoto, Gu: A Minimalist Approach to Offline Reinforcement Learning, arXiv:2106.06860 (Q normalisation).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

CriticLoss = Literal["mse", "huber", "lap"]


def td3_target(
    reward: Tensor, terminated: Tensor, next_q1: Tensor, next_q2: Tensor, discount: float | Tensor
) -> Tensor:
    """Clipped double-Q target `r + discount * (1 - terminated) * min(q1', q2')`.

    A truncated episode is not terminated: its last state still has a value, so the target bootstraps from it.

    Args:
        reward: (n,); n structures, or atoms where the critic values atoms.
        terminated: (n,), bool.
        next_q1: (n,); first target critic at the next state and the target policy's smoothed action.
        next_q2: (n,); second target critic there.
        discount: Per step; to the power k, as a tensor (n,), for returns over k steps.

    Returns:
        (n,), without gradient.

    Examples:
        >>> td3_target(torch.tensor([1.0]), torch.tensor([False]), torch.tensor([10.0]), torch.tensor([8.0]), 0.5)
        tensor([5.])
    """
    smaller = torch.minimum(next_q1, next_q2)
    # A bootstrap value that is not finite must not spoil a target that doesn't use it.
    bootstrap = torch.where(terminated, torch.zeros_like(smaller), discount * smaller)
    return (reward.to(smaller.dtype) + bootstrap).detach()


def critic_loss(q: Tensor, target: Tensor, kind: CriticLoss = "huber", delta: float = 1.0) -> Tensor:
    """Loss of each value against its target.

    Args:
        q: (n,).
        target: (n,).
        kind: `mse`: the square, as in the paper; `huber`: half the square below `delta`, linear above; `lap`: the Huber
            loss whose kink is where the LAP replay's priorities begin, see `lap_loss`.
        delta: Kink of `huber` and `lap`, in units of the reward.

    Returns:
        (n,), not yet weighted or averaged.

    Raises:
        ValueError: Shapes differ (a broadcast would silently compare each value with each target), or an unknown name.
    """
    if q.shape != target.shape:
        raise ValueError(f"`q` and `target` must have the same shape, got {tuple(q.shape)} and {tuple(target.shape)}")
    if kind == "mse":
        return (q - target).square()
    if kind == "huber":
        return F.huber_loss(q, target, reduction="none", delta=delta)
    if kind == "lap":
        return lap_loss(q, target, min_priority=delta)
    raise ValueError(f"`kind` must be one of mse, huber, lap, got {kind!r}")


def lap_loss(q: Tensor, target: Tensor, min_priority: float = 1.0) -> Tensor:
    """Loss-adjusted prioritised loss: quadratic below `min_priority`, linear above.

    Sampled with probability ∝ max(|TD|, min_priority)^alpha, its expected gradient is that of a uniformly sampled loss
    with exponent 1 + alpha above the kink: the prioritised sampling needs no importance weights.

    Args:
        q: (n,).
        target: (n,).
        min_priority: The kink; must be the replay's `min_priority`.

    Returns:
        (n,).
    """
    error = (q - target).abs()
    return torch.where(error < min_priority, 0.5 * error.square(), min_priority * (error - 0.5 * min_priority))


def q_objective(q: Tensor, normalize: bool) -> Tensor:
    """The part `-Q` of the actor's loss, optionally in units of the batch's mean |Q|.

    Args:
        q: (n,); the first critic at the actor's own action.
        normalize: Divide by mean |Q| (a constant for the gradient), as TD3+BC does, so that the weights of the other
            terms mean the same whatever the scale of the rewards.

    Returns:
        (n,).
    """
    if not normalize:
        return -q
    # A critic that is exactly zero everywhere has no gradient to scale.
    return -q / q.detach().abs().mean().clamp(min=torch.finfo(q.dtype).tiny)
