from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from relaxrl.config import from_dict
from relaxrl.envs import RewardConfig, RewardWeights
from relaxrl.envs.reward import (
    PRESETS,
    TERMS,
    Felt,
    Step,
    atom_terms,
    base_term,
    correction_term,
    delta_term,
    energy_term,
    log_term,
    structure_terms,
    total,
)
from relaxrl.errors import ConfigError


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture
def step() -> Step:
    """Two structures, of 2 and 1 atoms; |F| before: 5, 1 | 2, after: 3, 1 | 0.01."""
    before = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0], [0.0, 2.0, 0.0]], dtype=torch.float64)
    after = torch.tensor([[1.0, 2.0, 2.0], [1.0, 0.0, 0.0], [0.0, 0.0, -0.01]], dtype=torch.float64)
    index = torch.tensor([0, 0, 1])
    return Step(
        before=Felt.of(before, index, 2),
        after=Felt.of(after, index, 2),
        energy_before=numbers(-3.0, -1.0),
        energy=numbers(-4.0, -1.5),
        a_back=numbers(0.25, 0.0),
        converged=torch.tensor([False, True]),
        broken=torch.tensor([True, False]),
        graph_index=index,
        sizes=torch.tensor([2, 1]),
    )


ALL = RewardWeights(
    w_max=0.7, w_mean=0.3, w_log=0.1, w_delta=2.0, w_energy=4.0, w_step=0.5, w_correction=8.0, w_done=10, w_broken=6.0
)

EXPECTED = {
    # mean |F| after: 2 and 0.01
    "base": (-0.7 * 3.0 - 0.3 * 2.0, -0.01),
    "log": (-0.1 * math.log10(3.0), 0.2),
    "delta": (2.0 * (5.0 - 3.0), 2.0 * (2.0 - 0.01)),
    "energy": (4.0 * 1.0 / 2, 4.0 * 0.5),
    "step": (-0.5, -0.5),
    "correction": (-2.0, 0.0),
    "done": (0.0, 10.0),
    "broken": (-6.0, 0.0),
}


def test_every_term_of_a_structure_is_the_number_computed_by_hand(step):
    terms = structure_terms(step, ALL)
    assert tuple(terms) == TERMS
    for name, expected in EXPECTED.items():
        torch.testing.assert_close(terms[name], numbers(*expected), msg=name)


def test_rms_takes_the_place_of_the_mean(step):
    base = structure_terms(step, RewardWeights(w_mean=1.0), "rms")["base"]
    torch.testing.assert_close(base, numbers(-math.sqrt((9.0 + 1.0) / 2), -0.01))


def test_every_term_of_an_atom_is_the_number_computed_by_hand(step):
    terms = atom_terms(step, ALL)
    assert tuple(terms) == TERMS
    expected = {
        "base": (-3.0, -1.0, -0.01),
        "log": (-0.1 * math.log10(3.0), 0.0, 0.2),
        "delta": (2.0 * (5.0 - 3.0), 0.0, 2.0 * 1.99),
        "energy": (2.0, 2.0, 2.0),
        "step": (-0.5, -0.5, -0.5),
        "correction": (-2.0, -2.0, 0.0),
        "done": (0.0, 0.0, 10.0),
        "broken": (-6.0, -6.0, 0.0),
    }
    for name, values in expected.items():
        torch.testing.assert_close(terms[name], numbers(*values), msg=name)


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("force", (-3.0, -0.01)),
        ("log_force", (-math.log10(3.0), 2.0)),
        ("step", (-1.0, -1.0)),
        ("hybrid", ((-3.0 - math.log10(3.0) - 1.0) / 3, (-0.01 + 2.0 - 1.0) / 3)),
        ("mixed", (-2.7 - 0.1 * math.log10(3.0) - 10.0, -0.01 + 0.2 + 10.0)),
        ("mixed_delta", (-2.7 - 0.1 * math.log10(3.0) + 2.0 - 0.25 - 10.0, -0.01 + 0.2 + 10.0 + 1.99)),
    ],
)
def test_presets(step, preset, expected):
    terms = structure_terms(step, RewardConfig.preset(preset).weights)
    torch.testing.assert_close(torch.stack(list(terms.values())).sum(0), numbers(*expected))
    torch.testing.assert_close(total(terms), numbers(*expected))


def test_mixed_delta_is_the_default_and_all_presets_have_a_case_above():
    assert RewardConfig().weights == PRESETS["mixed_delta"]
    assert set(PRESETS) == {"force", "log_force", "step", "hybrid", "mixed", "mixed_delta"}


def test_single_weights_change_a_preset():
    config = from_dict(RewardConfig, {"kind": "mixed", "w_delta": 3.0, "w_done": 0})
    assert config.weights == RewardWeights(
        w_max=0.7, w_mean=0.3, w_log=0.1, w_delta=3.0, w_done=0.0, w_broken=10.0, w_stress=1.0
    )


def test_unknown_presets_are_named():
    with pytest.raises(ValueError, match=r"`forces` is no reward preset; there are force, log_force"):
        RewardConfig.preset("forces")
    with pytest.raises(ConfigError, match="kind"):
        from_dict(RewardConfig, {"kind": "forces"})


def test_the_logarithm_stops_at_a_millionth():
    torch.testing.assert_close(log_term(numbers(0.0, 1e-9, 1e-6, 10.0), 0.1), numbers(0.6, 0.6, 0.6, -0.1))


def test_delta_rewards_whatever_makes_things_better_however_large_the_force_still_is():
    got = delta_term(numbers(900.0, 1.0, 1.0), numbers(890.0, 1.0, 1.5), 1.0)
    torch.testing.assert_close(got, numbers(10.0, 0.0, -0.5))


def test_the_correction_costs_more_the_more_was_taken_back():
    cost = correction_term(torch.linspace(0, 1, 11), 1.0)
    assert cost[0] == 0
    assert (cost.diff() < 0).all()
    torch.testing.assert_close(cost[9], torch.tensor(-0.9))


def test_base_and_energy_terms():
    torch.testing.assert_close(base_term(numbers(2.0), numbers(1.0), 0.7, 0.3), numbers(-1.7))
    torch.testing.assert_close(energy_term(numbers(-1.0), numbers(-3.0), torch.tensor([4]), 2.0), numbers(1.0))


def test_what_did_not_happen_is_worth_nothing(step):
    quiet = dataclasses.replace(step, a_back=None, converged=None)
    zeros = dataclasses.replace(step, a_back=numbers(0.0, 0.0), converged=torch.tensor([False, False]))
    for make in (structure_terms, atom_terms):
        assert torch.equal(total(make(quiet, ALL)), total(make(zeros, ALL)))
