from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import pytorch_warmup
import torch
from torch import nn

from relaxrl.training.supervised import TrainerConfig
from relaxrl.training.supervised.optimizer import build_optimizer
from relaxrl.training.supervised.rates import LearningRate

EXACT = 1e-12
"""Relative; the same formula in another order."""


def rates(config: TrainerConfig, steps: int, per_epoch: int, errors: list[float] | None = None) -> list[float]:
    """The rate of each of some optimizer steps."""
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = build_optimizer(config.optimizer, [parameter], config.max_lr, config.optimizer_kwargs)
    rate = LearningRate(config, optimizer, per_epoch)
    used = []
    for step in range(1, steps + 1):
        parameter.grad = torch.ones(2)
        used.append(rate.rate)
        optimizer.step()
        epoch, rest = divmod(step, per_epoch)
        error = 1.0 if errors is None else errors[epoch - 1]
        rate.step(None if rest else error)
    return used


def settings(**config: Any) -> TrainerConfig:
    return TrainerConfig(**({"warmup_scheduler": None, "max_lr": 0.1, "max_epochs": 4} | config))


def test_a_cosine_goes_from_max_to_min_over_the_epochs_in_optimizer_steps():
    used = rates(settings(min_lr=0.02), 12, 3)
    expected = [0.02 + 0.08 * 0.5 * (1 + math.cos(math.pi * t / 12)) for t in range(12)]
    np.testing.assert_allclose(used, expected, rtol=EXACT)
    used = rates(settings(lr_scheduler_kwargs={"T_max": 2}), 7, 3)
    np.testing.assert_allclose(used, [0.05 * (1 + math.cos(math.pi * t / 6)) for t in range(7)], rtol=EXACT, atol=1e-15)


def test_restarts_come_after_whole_epochs_and_periods_grow():
    kwargs = {"T_0": 2, "T_mult": 2}
    used = rates(settings(lr_scheduler="cosine_restarts", lr_scheduler_kwargs=kwargs), 20, 3)
    falls = [t for t in range(1, 20) if used[t] > used[t - 1]]
    assert falls == [6, 18]  # 2 epochs, then 4, of 3 steps each
    np.testing.assert_allclose(used[7], 0.05 * (1 + math.cos(math.pi / 12)), rtol=EXACT)


@pytest.mark.parametrize("name", ["plateau", "reduce_on_plateau"])
def test_a_plateau_is_asked_once_per_epoch_under_both_names(name: str):
    kwargs = {"factor": 0.5, "patience": 1}
    errors = [1.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]  # two epochs without a gain after the second and the fourth
    used = rates(settings(lr_scheduler=name, lr_scheduler_kwargs=kwargs), 21, 3, errors)
    assert used == [0.1] * 12 + [0.05] * 6 + [0.025] * 3


def test_the_rate_on_a_plateau_passes_below_min_lr_however_small():
    kwargs = {"factor": 0.5, "patience": 0}
    config = settings(lr_scheduler="plateau", lr_scheduler_kwargs=kwargs, max_lr=1e-8, min_lr=2e-9)
    optimizer = build_optimizer("AdamW", [nn.Parameter(torch.zeros(1))], config.max_lr, {})
    rate = LearningRate(config, optimizer, 1)
    seen = []
    for _ in range(5):
        optimizer.step()
        rate.step(1.0)
        seen.append(rate.exhausted)
    assert seen == [False, False, False, True, True]  # 1e-8, 5e-9, 2.5e-9, 1.25e-9


def test_a_rate_that_is_low_for_the_warm_up_has_not_fallen():
    config = settings(lr_scheduler="plateau", warmup_scheduler="linear", warmup_epochs=10, max_lr=1.0, min_lr=0.5)
    rate = LearningRate(config, build_optimizer("AdamW", [nn.Parameter(torch.zeros(1))], 1.0, {}), 10)
    assert rate.rate == 0.01
    assert not rate.exhausted


def test_warm_up_factors_by_optimizer_steps():
    t = np.arange(1, 13)
    constant = {"lr_scheduler": "plateau", "warmup_epochs": 2}
    linear = rates(settings(warmup_scheduler="linear", **constant), 12, 4)
    np.testing.assert_allclose(linear, 0.1 * np.minimum(1.0, t / 8), rtol=EXACT)
    exponential = rates(settings(warmup_scheduler="exponential", **constant), 12, 4)
    np.testing.assert_allclose(exponential, 0.1 * (1 - np.exp(-2 * t / 8)), rtol=EXACT)
    assert rates(settings(warmup_scheduler="linear", lr_scheduler="plateau", warmup_epochs=0), 2, 4) == [0.1, 0.1]


def test_untuned_warm_up_takes_its_period_from_the_optimizer():
    t = np.arange(1, 31)
    constant = {"lr_scheduler": "plateau", "optimizer_kwargs": {"betas": [0.9, 0.9]}}  # tau = floor(2 / 0.1 - 1e-15)
    tau = math.floor(2 / (1 - 0.9))
    linear = rates(settings(warmup_scheduler="untuned_linear", **constant), 30, 40)
    np.testing.assert_allclose(linear, 0.1 * np.minimum(1.0, t / tau), rtol=EXACT)
    exponential = rates(settings(warmup_scheduler="untuned_exponential", **constant), 30, 40)
    np.testing.assert_allclose(exponential, 0.1 * (1 - np.exp(-2 * t / tau)), rtol=EXACT)


def test_radam_warm_up_is_the_library_s():
    used = rates(settings(warmup_scheduler="radam", lr_scheduler="plateau"), 8, 8)
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=0.1)
    warmup = pytorch_warmup.RAdamWarmup(optimizer)
    expected = []
    for _ in range(8):
        expected.append(optimizer.param_groups[0]["lr"])
        with warmup.dampening():
            pass
    assert used == expected
    assert used[0] < used[-1] < 0.1


def test_warm_up_multiplies_the_schedule():
    used = rates(settings(warmup_scheduler="linear", warmup_epochs=1), 8, 4)
    expected = [0.05 * (1 + math.cos(math.pi * t / 16)) * min(1, (t + 1) / 4) for t in range(8)]
    np.testing.assert_allclose(used, expected, rtol=EXACT)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "NAdam", "RAdam"])
def test_optimizers_are_torch_s_with_their_arguments(name: str):
    kwargs = {"betas": [0.8, 0.95], "weight_decay": 0.1, "eps": 1e-6}
    optimizer = build_optimizer(name, [nn.Parameter(torch.zeros(1))], 0.03, kwargs)
    assert type(optimizer) is getattr(torch.optim, name)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"], group["eps"]) == (0.03, (0.8, 0.95), 0.1, 1e-6)
