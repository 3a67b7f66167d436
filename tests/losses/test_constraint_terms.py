"""Each term against numbers worked out by hand, in its limits, and in its gradients."""

import math

import pytest
import torch
from torch import Tensor

from relaxrl.losses import (
    ConstraintLossConfig,
    ConstraintWeights,
    absolute_loss,
    constraint_loss,
    data_loss,
    improvement_penalty,
    point_constraint_loss,
    relative_loss,
    total_loss,
)

DTYPES = (torch.float32, torch.float64)
# In float64 it is ε = 1e-12 beside violations of 0.02 that hand-made numbers leave out.
ROUND_OFF = {torch.float32: 1e-5, torch.float64: 1e-10}
LN2_SQUARED = math.log(2.0) ** 2


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def fields(n: int = 7, dtype: torch.dtype = torch.float64, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "output_pred": (n, 3),
        "output_true": (n, 3),
        "scalar_pred": (n,),
        "scalar_true": (n,),
        "vector_pred": (n, 3),
        "vector_true": (n, 3),
    }
    return {name: torch.randn(shape, generator=generator, dtype=dtype) for name, shape in shapes.items()}


def constraint_fields(n: int = 7) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    made = fields(n)
    return made["scalar_pred"], made["scalar_true"], made["vector_pred"], made["vector_true"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_data_term_by_hand(dtype):
    pred = torch.tensor([[1.0, 2.0, 2.0], [0.0, 1.0, 0.0]], dtype=dtype)
    true = torch.tensor([[0.0, 0.0, 0.0], [0.0, -1.0, 0.0]], dtype=dtype)
    loss = data_loss(pred, true)
    assert loss.dtype == dtype
    assert float(loss) == pytest.approx((9.0 + 4.0) / 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_relative_term_by_hand(dtype):
    scalar_pred, scalar_true = torch.tensor([-0.3, 0.02], dtype=dtype), torch.tensor([1.0, -2.0], dtype=dtype)
    vector_pred = torch.tensor([[0.3, 0.4], [0.0, 0.1]], dtype=dtype)
    vector_true = torch.tensor([[0.0, 1.0], [3.0, 4.0]], dtype=dtype)
    loss = relative_loss(
        scalar_pred,
        scalar_true,
        vector_pred,
        vector_true,
        alpha_improve=0.1,
        mom_alpha_improve=0.5,
        mom_improve_weight=0.25,
    )
    scalar = [softplus(math.log(0.3 / 0.1)) ** 2, softplus(math.log(0.02 / 0.2)) ** 2]
    # |M| = 0.5 against 0.5 x 1; 0.1 against 0.5 x 5 = 2.5: ln(0.04) = -3.2 is clipped to -3.
    vector = [LN2_SQUARED, softplus(-3.0) ** 2]
    assert float(loss) == pytest.approx(sum(scalar) / 2 + 0.25 * sum(vector) / 2, rel=ROUND_OFF[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_absolute_term_by_hand(dtype):
    scalar = torch.tensor([1.0, -2.0, 3.0], dtype=dtype)
    vector = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]], dtype=dtype)
    assert float(absolute_loss(scalar, vector, mom_improve_weight=0.5)) == pytest.approx(14 / 3 + 0.5 * 26 / 3)


def test_both_conventions_of_the_total_by_hand():
    data, relative, absolute = (torch.tensor(value) for value in (2.0, 3.0, 5.0))
    weights = ConstraintWeights(data=0.5, rel=2.0, abs=0.1)
    default = total_loss(data, relative, absolute, weights=weights, physics_weight=4.0)
    scaled = total_loss(data, relative, absolute, weights=weights, physics_weight=4.0, mode="improvement_all")
    assert float(default) == pytest.approx(0.5 * 2 + 4 * (2 * 3 + 0.1 * 5))
    assert float(scaled) == pytest.approx(4 * (0.5 * 2 + 2 * 3 + 0.1 * 5))


@pytest.mark.parametrize("mode", ["improvement", "improvement_all"])
def test_total_is_made_of_the_terms(mode):
    config = ConstraintLossConfig(
        data_weight=0.7,
        rel_weight=1.3,
        abs_weight=0.2,
        alpha_improve=0.2,
        mom_alpha_improve=0.4,
        mom_improve_weight=0.6,
        physics_weight=2.0,
        mode=mode,
        eps=1e-3,
        clip=1.5,
    )
    given = fields()
    loss = constraint_loss(config, **given)
    data = data_loss(given["output_pred"], given["output_true"])
    scalar_pred, scalar_true, vector_pred, vector_true = constraint_fields()
    relative = relative_loss(
        scalar_pred,
        scalar_true,
        vector_pred,
        vector_true,
        alpha_improve=0.2,
        mom_alpha_improve=0.4,
        mom_improve_weight=0.6,
        eps=1e-3,
        clip=1.5,
    )
    absolute = absolute_loss(scalar_pred, vector_pred, mom_improve_weight=0.6)
    data_factor = 2.0 if mode == "improvement_all" else 1.0
    expected = data_factor * 0.7 * data + 2.0 * (1.3 * relative + 0.2 * absolute)
    assert loss.metrics() == pytest.approx(
        {"total": float(expected), "data": float(data), "relative": float(relative), "absolute": float(absolute)}
    )


def test_weights_of_the_moment_replace_the_initial_ones():
    given = fields()
    loss = constraint_loss(ConstraintLossConfig(), **given, weights=ConstraintWeights(data=0.0, rel=0.0, abs=2.0))
    assert float(loss.total) == pytest.approx(2 * float(loss.absolute))


def test_points_losses_average_to_the_constraint_terms():
    config = ConstraintLossConfig(data_weight=0.0, physics_weight=3.0, mom_improve_weight=0.5)
    given = fields()
    loss = constraint_loss(config, **given)
    by_point = point_constraint_loss(config, **{k: v for k, v in given.items() if not k.startswith("output")})
    assert by_point.shape == (7,)
    assert float(by_point.mean()) == pytest.approx(float(loss.total))


def test_scalar_outputs_are_outputs_of_one_component():
    given = fields()
    scalar_output = given | {name: given[name][:, 0] for name in ("output_pred", "output_true")}
    expected = (given["output_pred"][:, 0] - given["output_true"][:, 0]).square().mean()
    torch.testing.assert_close(constraint_loss(ConstraintLossConfig(), **scalar_output).data, expected)


# --- limits ---


@pytest.mark.parametrize("alpha", [1e-3, 0.1, 1.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_at_alpha_times_the_target_each_point_gives_ln2_squared(alpha, dtype):
    scalar = torch.logspace(-6, 6, 13, dtype=dtype)
    vector = torch.stack([scalar, -2 * scalar, 2 * scalar], dim=1)
    loss = relative_loss(
        alpha * scalar,
        scalar,
        alpha * vector,
        vector,
        alpha_improve=alpha,
        mom_alpha_improve=alpha,
        mom_improve_weight=2.0,
    )
    assert float(loss) == pytest.approx(3 * LN2_SQUARED, rel=1e-4 if dtype == torch.float32 else 1e-6)


def test_towards_zero_the_relative_term_saturates_and_the_absolute_vanishes():
    scalar_pred, scalar_true, vector_pred, vector_true = constraint_fields()
    for scale in (1e-4, 1e-8, 0.0):
        pred = (scale * scalar_pred, scale * vector_pred)
        relative = relative_loss(pred[0], scalar_true, pred[1], vector_true)
        assert float(relative) == pytest.approx(2 * softplus(-3.0) ** 2, rel=1e-12)
        expected = scale**2 * float(absolute_loss(scalar_pred, vector_pred))
        assert float(absolute_loss(*pred)) == pytest.approx(expected, rel=1e-12)


def test_far_above_the_aim_the_relative_term_saturates_without_a_gradient():
    pred = torch.tensor([0.1 * math.exp(2.9), 0.1 * math.exp(3.1), 1e6], dtype=torch.float64, requires_grad=True)
    penalty = improvement_penalty(pred, torch.ones_like(pred), 0.1)
    assert penalty[1:].tolist() == pytest.approx([softplus(3.0) ** 2] * 2)
    (gradient,) = torch.autograd.grad(penalty.sum(), pred)
    assert float(gradient[0]) > 0
    assert gradient[1:].tolist() == [0.0, 0.0]


def test_signs_and_directions_do_not_matter():
    scalar_pred, scalar_true, vector_pred, vector_true = constraint_fields()
    plain = relative_loss(scalar_pred, scalar_true, vector_pred, vector_true)
    turned = relative_loss(-scalar_pred, -scalar_true, vector_pred.flip(1), -vector_true)
    torch.testing.assert_close(plain, turned)


# --- gradients ---


def numbers(n: int = 5) -> list[Tensor]:
    made = fields(n, seed=3)
    # Aims within the clip, so that each point has a gradient to check.
    made["scalar_true"], made["vector_true"] = 5 * made["scalar_pred"], 5 * made["vector_pred"].flip(1)
    return [value.requires_grad_() for value in made.values()]


def test_gradients_of_all_terms():
    output_pred, output_true, scalar_pred, scalar_true, vector_pred, vector_true = numbers()
    assert torch.autograd.gradcheck(data_loss, (output_pred, output_true))
    assert torch.autograd.gradcheck(relative_loss, (scalar_pred, scalar_true, vector_pred, vector_true))
    assert torch.autograd.gradcheck(absolute_loss, (scalar_pred, vector_pred))


def test_gradients_of_the_total_with_mask_and_structures():
    mask, batch = torch.tensor([True, True, False, True, True]), torch.tensor([0, 0, 1, 1, 1])
    names = list(fields(1))

    def total(*values: Tensor) -> Tensor:
        given = dict(zip(names, values, strict=True))
        return constraint_loss(ConstraintLossConfig(), **given, mask=mask, batch=batch).total

    assert torch.autograd.gradcheck(total, tuple(numbers()))


def test_second_derivatives_exist_for_losses_behind_a_potential():
    _, _, scalar_pred, scalar_true, vector_pred, vector_true = numbers()
    assert torch.autograd.gradgradcheck(
        lambda h, m: relative_loss(h, scalar_true.detach(), m, vector_true.detach()), (scalar_pred, vector_pred)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zero", ["scalar_pred", "scalar_true", "vector_pred", "vector_true", "all"])
def test_exact_zeros_give_finite_losses_and_gradients(zero, dtype):
    given = fields(dtype=dtype)
    for name in given:
        if zero in (name, "all"):
            given[name] = torch.zeros_like(given[name])
    for value in given.values():
        value.requires_grad_()
    loss = constraint_loss(ConstraintLossConfig(), **given)
    loss.total.backward()
    assert all(math.isfinite(value) for value in loss.metrics().values())
    for name, value in given.items():
        assert torch.isfinite(value.grad).all(), name


@pytest.mark.parametrize("dtype", DTYPES)
def test_alpha_zero_is_finite(dtype):
    given = {name: value.requires_grad_() for name, value in fields(dtype=dtype).items()}
    config = ConstraintLossConfig(alpha_improve=0.0, mom_alpha_improve=0.0)
    loss = constraint_loss(config, **given)
    loss.total.backward()
    assert loss.metrics()["relative"] == pytest.approx(2 * softplus(3.0) ** 2)
    assert torch.isfinite(given["vector_pred"].grad).all()


def test_descent_on_the_loss_lowers_the_violation_below_the_aim():
    given = fields(seed=5)
    scalar = given["scalar_true"].clone().requires_grad_()
    vector = given["vector_true"].clone().requires_grad_()
    optimizer = torch.optim.Adam([scalar, vector], lr=1e-2)
    for _ in range(400):
        loss = constraint_loss(ConstraintLossConfig(), **(given | {"scalar_pred": scalar, "vector_pred": vector}))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    assert float((scalar.detach() / given["scalar_true"]).abs().median()) < 0.1
    assert float((vector.detach().norm(dim=1) / given["vector_true"].norm(dim=1)).median()) < 0.1
