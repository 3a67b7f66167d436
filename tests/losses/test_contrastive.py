"""Contrast between actions: cross entropy by hand, every rule of the temperature, which candidate is the middle one."""

from __future__ import annotations

import math

import pytest
import torch

from relaxrl.losses import (
    actions_of,
    adaptive_temperature,
    gradient_alignment,
    middle_candidate,
    noisy_actions,
    saturation,
    swap_info_nce,
    swap_partners,
)

EXACT = 1e-12


@pytest.mark.parametrize(
    ("gap", "base", "expected"),
    [
        (0.0, 0.5, 0.25),
        (0.0999, 0.5, 0.25),
        (-0.0999, 0.5, 0.25),
        (0.1, 0.5, 0.5),
        (0.7, 0.5, 0.5),
        (-0.7, 0.5, 0.5),
        (1.0, 0.5, 0.5),
        (1.001, 0.5, 1.0),
        (-1.5, 0.5, 1.0),
        (0.0, 0.3, 0.15),
        (2.0, 0.3, 0.6),
        (0.0, 0.15, 0.1),
        (5.0, 1.5, 2.0),
        (0.5, 3.0, 2.0),
        (0.5, 0.01, 0.1),
    ],
)
def test_the_temperature_follows_the_gap(gap: float, base: float, expected: float) -> None:
    assert adaptive_temperature(gap, base) == pytest.approx(expected, abs=EXACT)


def test_cross_entropy_by_hand() -> None:
    """Gap 0.65: τ = 0.5. Row 1 picks -2 E among 0.2, 1.0; row 2 among 0.6, 0.3."""
    energies = torch.tensor([[0.2, 1.0], [0.8, 0.3]], dtype=torch.float64, requires_grad=True)
    result = swap_info_nce(energies, 0.5)
    first = -math.log(math.exp(-0.4) / (math.exp(-0.4) + math.exp(-2.0)))
    second = -math.log(math.exp(-0.6) / (math.exp(-0.6) + math.exp(-1.6)))
    assert result.temperature == 0.5
    assert float(result.loss.detach()) == pytest.approx((first + second) / 2, abs=EXACT)
    assert float(result.positive.detach()) == pytest.approx(0.25, abs=EXACT)
    assert float(result.negative.detach()) == pytest.approx(0.9, abs=EXACT)
    assert result.gap == pytest.approx(0.65, abs=EXACT)
    result.loss.backward()
    pull = 2.0 * (1 - math.exp(-first)) / 2
    assert energies.grad is not None
    torch.testing.assert_close(energies.grad[0], torch.tensor([pull, -pull], dtype=torch.float64), rtol=0, atol=EXACT)


def test_a_small_gap_halves_and_a_large_one_doubles_the_temperature_of_the_loss() -> None:
    near = torch.tensor([[0.50, 0.55], [0.55, 0.50]], dtype=torch.float64)
    far = torch.tensor([[0.0, 3.0], [3.0, 0.0]], dtype=torch.float64)
    for energies, temperature in ((near, 0.25), (far, 1.0)):
        result = swap_info_nce(energies)
        gap = float(energies[0, 1] - energies[0, 0])
        assert result.temperature == temperature
        assert float(result.loss) == pytest.approx(math.log1p(math.exp(-gap / temperature)), abs=EXACT)


def test_further_negatives_are_columns_of_their_own() -> None:
    energies = torch.tensor([[0.2, 9.0], [9.0, 0.4]], dtype=torch.float64)
    own = torch.tensor([[0.5, 0.9], [1.0, math.nan]], dtype=torch.float64)
    result = swap_info_nce(
        energies,
        0.5,
        mask=torch.zeros(2, 2, dtype=torch.bool),  # the diagonal counts in any case
        negatives=own,
        negatives_mask=torch.tensor([[True, True], [True, False]]),
    )
    first = math.log(1 + math.exp(-0.6) + math.exp(-1.4))
    second = math.log(1 + math.exp(-1.2))
    assert result.temperature == 0.5  # gap 0.8 - 0.3
    assert result.gap == pytest.approx(0.5, abs=EXACT)
    assert float(result.loss) == pytest.approx((first + second) / 2, abs=EXACT)


def test_rows_that_do_not_count_are_nobodys_negatives_either() -> None:
    energies = torch.tensor([[0.2, 0.7, math.nan], [0.9, 0.3, math.nan], [math.nan] * 3], dtype=torch.float64)
    energies.requires_grad_()
    rows = torch.tensor([True, True, False])
    result = swap_info_nce(energies, rows=rows)
    alone = swap_info_nce(energies[:2, :2])
    assert float(result.loss.detach()) == pytest.approx(float(alone.loss.detach()), abs=EXACT)
    assert (result.temperature, result.gap) == (alone.temperature, alone.gap)
    result.loss.backward()
    assert energies.grad is not None
    assert bool(torch.isfinite(energies.grad).all())


def test_nothing_to_tell_apart_costs_nothing() -> None:
    alone = swap_info_nce(torch.tensor([[0.7]], requires_grad=True))
    assert float(alone.loss.detach()) == 0.0
    assert alone.loss.requires_grad
    nobody = swap_info_nce(torch.ones(2, 2), rows=torch.zeros(2, dtype=torch.bool))
    assert float(nobody.loss) == float(nobody.positive) == float(nobody.negative) == 0.0


def test_large_energies_do_not_overflow() -> None:
    energies = torch.tensor([[1e4, -1e4], [0.0, -1e4]], requires_grad=True)
    result = swap_info_nce(energies)
    result.loss.backward()
    assert bool(torch.isfinite(result.loss))
    assert energies.grad is not None
    assert bool(torch.isfinite(energies.grad).all())


def test_wrong_shapes_are_named() -> None:
    square = torch.zeros(2, 2)
    with pytest.raises(ValueError, match=r"`energies` must have shape \(B, B\), got \(2, 3\)"):
        swap_info_nce(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"`negatives` must have shape \(B=2, M\), got \(3, 1\)"):
        swap_info_nce(square, negatives=torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"`mask` must be bool of shape \(2, 2\), got torch.float32"):
        swap_info_nce(square, mask=square)
    with pytest.raises(ValueError, match=r"`rows` must have shape \(B=2,\), got \(3,\)"):
        swap_info_nce(square, rows=torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="`base_temperature` must be positive, got 0"):
        swap_info_nce(square, 0)
    with pytest.raises(ValueError, match=r"\(n_candidates >= 1, n_graphs\), got \(0, 2\)"):
        middle_candidate(torch.zeros(0, 2))


def test_the_middle_candidate_is_neither_the_easiest_nor_the_hardest() -> None:
    energies = torch.tensor([[3.0, 1.0], [1.0, 2.0], [2.0, 3.0]])
    assert middle_candidate(energies).tolist() == [2, 1]
    assert middle_candidate(energies[:2]).tolist() == [0, 1]  # the upper one of two
    assert middle_candidate(energies[:1]).tolist() == [0, 0]


def test_saturation_is_the_share_beyond_six() -> None:
    assert float(saturation(torch.tensor([0.0, 6.0, -6.0, 6.01, -7.0]))) == pytest.approx(0.4)
    assert float(saturation(torch.zeros(0))) == 0.0


def test_noise_is_of_the_given_size_relative_to_each_structure_and_has_no_drift() -> None:
    generator = torch.Generator().manual_seed(0)
    index = torch.arange(2).repeat_interleave(400)
    expert = torch.randn(800, 3, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 0.01])[index, None]
    noise = noisy_actions(expert, 0.3, index, 2, generator) - expert
    for k, size in ((0, 0.3), (1, 0.003)):
        assert float(noise[index == k].std()) == pytest.approx(size, rel=0.1)
        torch.testing.assert_close(noise[index == k].mean(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)
    absolute = noisy_actions(expert, 0.1, index, 2, generator, relative=False) - expert
    assert float(absolute[index == 1].std()) == pytest.approx(0.1, rel=0.1)
    again = [noisy_actions(expert, 0.1, index, 2, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*again)


def test_actions_are_swapped_among_structures_of_equal_size_only() -> None:
    sizes = torch.tensor([2, 3, 2, 2, 1])
    partners, there = swap_partners(sizes)
    assert partners.tolist() == [[2, 1, 3, 0, 4], [3, 1, 0, 2, 4]]
    assert there.tolist() == [[True, False, True, True, False]] * 2
    limited, _ = swap_partners(sizes, limit=1)
    assert limited.tolist() == [[2, 1, 3, 0, 4]]
    index = torch.repeat_interleave(torch.arange(5), sizes)
    ptr = torch.tensor([0, 2, 5, 7, 9, 10])
    actions = torch.arange(10.0).unsqueeze(1).repeat(1, 3)
    swapped = actions_of(partners[0], actions, ptr, index)
    assert swapped[:, 0].tolist() == [5, 6, 2, 3, 4, 7, 8, 0, 1, 9]


def test_alignment_is_one_minus_the_cosine_downhill() -> None:
    index = torch.tensor([0, 0, 1, 2])
    towards = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [1.0, 0, 0], [1.0, 0, 0]])
    gradient = torch.tensor([[-3.0, 0, 0], [0, -3.0, 0], [2.0, 0, 0], [0, 1.0, 0]], requires_grad=True)
    loss = gradient_alignment(gradient, towards, index, 3)
    torch.testing.assert_close(loss, torch.tensor([0.0, 2.0, 1.0]), rtol=0, atol=1e-6)
    assert gradient_alignment(torch.zeros(4, 3), towards, index, 3).tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="the same shape"):
        gradient_alignment(gradient, towards[:2], index, 3)
