"""Masks, padding and ragged batches, against loops over structures."""

import math

import pytest
import torch
from torch import Tensor

from relaxrl.losses import ConstraintLossConfig, constraint_loss, data_loss, point_constraint_loss, point_mean

CONFIG = ConstraintLossConfig(mom_improve_weight=0.5, physics_weight=1.5)
SIZES = (3, 1, 8)


def random_fields(*shape: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(11)
    return {
        name: torch.randn(*shape, *end, generator=generator, dtype=dtype)
        for name, end in {
            "output_pred": (4,),
            "output_true": (4,),
            "scalar_pred": (),
            "scalar_true": (),
            "vector_pred": (2,),
            "vector_true": (2,),
        }.items()
    }


def ragged() -> tuple[dict[str, Tensor], Tensor]:
    return random_fields(sum(SIZES)), torch.repeat_interleave(torch.arange(len(SIZES)), torch.tensor(SIZES))


@pytest.mark.parametrize("name", ["total", "data", "relative", "absolute"])
def test_ragged_batch_is_the_mean_over_structures(name):
    given, batch = ragged()
    singles = [
        constraint_loss(CONFIG, **{key: value[batch == index] for key, value in given.items()}) for index in range(3)
    ]
    together = constraint_loss(CONFIG, **given, batch=batch)
    expected = torch.stack([getattr(single, name) for single in singles]).mean()
    torch.testing.assert_close(getattr(together, name), expected)


def test_order_and_numbering_of_structures_do_not_matter():
    given, batch = ragged()
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(0))
    expected = constraint_loss(CONFIG, **given, batch=batch).total
    shuffled = {key: value[order] for key, value in given.items()}
    torch.testing.assert_close(constraint_loss(CONFIG, **shuffled, batch=5 * batch[order] + 2).total, expected)


def test_large_cells_do_not_dominate():
    given, batch = ragged()
    doubled = {key: torch.cat([value, value[batch == 2]]) for key, value in given.items()}
    twice_as_large = torch.cat([batch, batch[batch == 2]])
    expected = constraint_loss(CONFIG, **given, batch=batch).total
    torch.testing.assert_close(constraint_loss(CONFIG, **doubled, batch=twice_as_large).total, expected)


def test_mask_equals_leaving_points_out():
    given, batch = ragged()
    mask = torch.tensor([True, False, True, True, False, True, True, True, False, True, True, True])
    kept = {key: value[mask] for key, value in given.items()}
    for own, own_kept in ((None, None), (batch, batch[mask])):
        expected = constraint_loss(CONFIG, **kept, batch=own_kept)
        assert constraint_loss(CONFIG, **given, mask=mask, batch=own).metrics() == pytest.approx(expected.metrics())


def test_a_wholly_masked_structure_does_not_count():
    given, batch = ragged()
    expected = constraint_loss(
        CONFIG, **{key: value[batch != 1] for key, value in given.items()}, batch=batch[batch != 1]
    )
    torch.testing.assert_close(constraint_loss(CONFIG, **given, mask=batch != 1, batch=batch).total, expected.total)


def pad(values: Tensor, batch: Tensor, filler: float) -> Tensor:
    padded = values.new_full((len(SIZES), max(SIZES), *values.shape[1:]), filler)
    for index, size in enumerate(SIZES):
        padded[index, :size] = values[batch == index]
    return padded


@pytest.mark.parametrize("filler", [0.0, math.nan, math.inf])
def test_padded_equals_ragged_whatever_the_padding_holds(filler):
    given, batch = ragged()
    mask = torch.arange(max(SIZES)) < torch.tensor(SIZES)[:, None]
    padded = {key: pad(value, batch, filler).requires_grad_() for key, value in given.items()}
    loss = constraint_loss(CONFIG, **padded, mask=mask)
    assert loss.metrics() == pytest.approx(constraint_loss(CONFIG, **given, batch=batch).metrics())
    loss.total.backward()
    for key, value in padded.items():
        assert torch.isfinite(value.grad).all(), key
        assert (value.grad[~mask] == 0).all(), key


def test_points_losses_are_zero_where_masked():
    given = {key: value for key, value in random_fields(4).items() if not key.startswith("output")}
    given["scalar_pred"][2] = math.nan
    mask = torch.tensor([True, True, False, True])
    by_point = point_constraint_loss(CONFIG, **given, mask=mask)
    assert (by_point > 0).tolist() == mask.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("with_batch", [False, True])
def test_empty_masks_and_no_points_give_zero_with_zero_gradients(dtype, with_batch):
    for n, mask in ((4, torch.zeros(4, dtype=torch.bool)), (0, None), (0, torch.zeros(0, dtype=torch.bool))):
        given = {key: value.requires_grad_() for key, value in random_fields(n, dtype=dtype).items()}
        batch = torch.zeros(n, dtype=torch.int64) if with_batch else None
        loss = constraint_loss(CONFIG, **given, mask=mask, batch=batch)
        loss.total.backward()
        assert set(loss.metrics().values()) == {0.0}
        assert all((value.grad == 0).all() for value in given.values())


def test_mean_of_points_by_hand():
    values, batch = torch.tensor([1.0, 2.0, 6.0, 10.0]), torch.tensor([0, 0, 0, 3])
    assert float(point_mean(values, batch=batch)) == pytest.approx((3.0 + 10.0) / 2)
    mask = torch.tensor([True, False, True, False])
    assert float(point_mean(values, mask, batch)) == pytest.approx(3.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_terms_keep_the_dtype(dtype):
    loss = constraint_loss(CONFIG, **random_fields(3, dtype=dtype))
    assert {loss.total.dtype, loss.data.dtype, loss.relative.dtype, loss.absolute.dtype} == {dtype}


def test_no_gradient_crosses_to_other_structures():
    given, batch = ragged()
    given["output_pred"].requires_grad_()
    mask = batch == 0
    data_loss(given["output_pred"], given["output_true"], mask=mask, batch=batch).backward()
    moved = given["output_pred"].grad.abs().sum(1) > 0
    assert moved.tolist() == mask.tolist()
