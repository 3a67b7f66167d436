"""Bad input: a ValueError that names the argument, what was expected and what came."""

import math

import pytest
import torch

from relaxrl.config import from_dict
from relaxrl.errors import ConfigError
from relaxrl.losses import (
    ConstraintLossConfig,
    ConstraintWeights,
    CurriculumConfig,
    absolute_loss,
    constraint_loss,
    curriculum_progress,
    curriculum_state,
    data_loss,
    median_log10,
    point_constraint_loss,
    relative_loss,
    scheduled_weights,
    total_loss,
)

N = 4


def good() -> dict[str, torch.Tensor]:
    return {
        "output_pred": torch.ones(N, 3),
        "output_true": torch.ones(N, 3),
        "scalar_pred": torch.ones(N),
        "scalar_true": torch.ones(N),
        "vector_pred": torch.ones(N, 3),
        "vector_true": torch.ones(N, 3),
    }


@pytest.mark.parametrize("name", ["output_true", "scalar_true", "vector_pred", "vector_true"])
def test_shapes_that_do_not_match(name):
    given = good()
    given[name] = given[name][:-1]
    with pytest.raises(ValueError, match=f"`{name}` must have .*shape.*4.*got .*3"):
        constraint_loss(ConstraintLossConfig(), **given)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("scalar_pred", (2, 2, 2)),
        ("vector_pred", (N,)),
        ("vector_pred", (N, 0)),
        ("output_pred", (N + 1, 3)),
    ],
)
def test_shapes_of_the_wrong_kind(name, shape):
    given = good()
    given[name] = torch.ones(shape)
    partner = name.replace("pred", "true")
    given[partner] = torch.ones(shape)
    with pytest.raises(ValueError, match=f"`{name}` must have shape"):
        constraint_loss(ConstraintLossConfig(), **given)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", list(good()))
def test_values_that_are_not_finite(name, value):
    given = good()
    given[name][1] = value
    with pytest.raises(ValueError, match=f"`{name}` must be finite, got .* the first at \\(1"):
        constraint_loss(ConstraintLossConfig(), **given)
    if not name.startswith("output"):
        with pytest.raises(ValueError, match=f"`{name}` must be finite"):
            point_constraint_loss(
                ConstraintLossConfig(), **{key: v for key, v in given.items() if not key.startswith("output")}
            )


def test_each_term_checks_its_own_arguments():
    bad, vector = torch.tensor([1.0, math.nan]), torch.ones(2, 3)
    with pytest.raises(ValueError, match="`output_true` must be finite"):
        data_loss(torch.ones(2, 1), bad[:, None])
    with pytest.raises(ValueError, match="`scalar_true` must be finite"):
        relative_loss(torch.ones(2), bad, vector, vector)
    with pytest.raises(ValueError, match="`scalar_pred` must be finite"):
        absolute_loss(bad, vector)
    with pytest.raises(ValueError, match="`output_true` must have the shape of `output_pred`"):
        data_loss(torch.ones(2, 3), torch.ones(2, 2))
    with pytest.raises(ValueError, match="`vector_pred` must have shape"):
        absolute_loss(torch.ones(2), torch.ones(3, 3))
    with pytest.raises(ValueError, match="`mom_improve_weight`"):
        absolute_loss(torch.ones(2), vector, mom_improve_weight=-1.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alpha_improve", -0.1),
        ("alpha_improve", 1.1),
        ("mom_alpha_improve", math.nan),
        ("mom_improve_weight", -1.0),
        ("eps", 0.0),
        ("clip", -3.0),
        ("clip", math.inf),
    ],
)
def test_parameters_out_of_range(name, value):
    given = good()
    arguments = (given["scalar_pred"], given["scalar_true"], given["vector_pred"], given["vector_true"])
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        relative_loss(*arguments, **{name: value})
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        ConstraintLossConfig(**{name: value})


@pytest.mark.parametrize("name", ["data_weight", "rel_weight", "abs_weight", "mom_improve_weight", "physics_weight"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_weights_must_be_finite_and_not_negative(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be a finite number that is not negative"):
        ConstraintLossConfig(**{name: value})


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"lo": -1.0}, "lo"),
        ({"lo": 3.0}, "hi"),
        ({"hi": math.nan}, "hi"),
        ({"min_data_frac": 1.5}, "min_data_frac"),
        ({"constraint_gain": -1.0}, "constraint_gain"),
        ({"delta_h_target": math.inf}, "delta_h_target"),
    ],
)
def test_curriculum_out_of_range(changes, name):
    with pytest.raises(ValueError, match=f"`{name}` must"):
        CurriculumConfig(**changes)


def test_configuration_names_unknown_keys_and_modes():
    config = from_dict(
        ConstraintLossConfig, {"alpha_improve": 0.2, "mode": "improvement_all", "curriculum": {"min_data_frac": 0.3}}
    )
    assert (config.alpha_improve, config.mode, config.curriculum.min_data_frac) == (0.2, "improvement_all", 0.3)
    with pytest.raises(ConfigError, match="min_data_frac"):
        from_dict(ConstraintLossConfig, {"curriculum": {"min_data_fraq": 0.3}})
    with pytest.raises(ConfigError, match="alpha_improve"):
        from_dict(ConstraintLossConfig, {"alpha_improve": 2.0})
    with pytest.raises(ConfigError, match="mode"):
        from_dict(ConstraintLossConfig, {"mode": "sum"})


def test_weights_of_the_moment():
    with pytest.raises(ValueError, match="`rel` must be a finite number"):
        ConstraintWeights(data=1.0, rel=-1.0, abs=1.0)
    terms = (torch.tensor(1.0),) * 3
    with pytest.raises(ValueError, match="`mode` must be 'improvement' or 'improvement_all', got 'sum'"):
        total_loss(*terms, weights=ConstraintWeights(data=1.0, rel=1.0, abs=1.0), mode="sum")
    with pytest.raises(ValueError, match="`physics_weight`"):
        total_loss(*terms, weights=ConstraintWeights(data=1.0, rel=1.0, abs=1.0), physics_weight=-1.0)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("mask", torch.ones(N - 1, dtype=torch.bool), r"bool of shape \(4,\), got torch.bool of shape \(3,\)"),
        ("mask", torch.ones(N), "bool of shape .*got torch.float32"),
        ("batch", torch.zeros(N + 1, dtype=torch.int64), r"int64 of shape \(4,\)"),
        ("batch", torch.zeros(N), "int64 of shape .*got torch.float32"),
        ("batch", torch.tensor([0, 0, -1, 1]), "indices of structures from 0, got -1"),
    ],
)
def test_mask_and_batch_must_fit_the_points(name, value, message):
    with pytest.raises(ValueError, match=f"`{name}` must (be|hold) {message}"):
        constraint_loss(ConstraintLossConfig(), **good(), **{name: value})


def test_padded_points_have_no_batch():
    with pytest.raises(ValueError, match="`batch` is for flat points"):
        data_loss(torch.ones(2, 4, 3), torch.ones(2, 4, 3), batch=torch.zeros(2, 4, dtype=torch.int64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_dtypes_too_small_for_the_violations(dtype):
    given = good()
    given["vector_pred"] = given["vector_pred"].to(dtype)
    with pytest.raises(ValueError, match="`vector_pred` must be float32 or float64"):
        constraint_loss(ConstraintLossConfig(), **given)


def test_a_validation_needs_points():
    given = {key: value for key, value in good().items() if not key.startswith("output")}
    with pytest.raises(ValueError, match="`mask` leaves no point"):
        curriculum_state(CurriculumConfig(), **given, mask=torch.zeros(N, dtype=torch.bool))
    with pytest.raises(ValueError, match="`scalar_pred` leaves no point"):
        curriculum_state(CurriculumConfig(), **{key: value[:0] for key, value in given.items()})
    with pytest.raises(ValueError, match="`values` has no point"):
        median_log10(torch.zeros(0))
    given["vector_true"][0, 0] = math.nan
    with pytest.raises(ValueError, match="`vector_true` must be finite"):
        curriculum_state(CurriculumConfig(), **given)


def test_progress_out_of_range():
    with pytest.raises(ValueError, match=r"`progress` must be in \[0, 1\], got 1.5"):
        scheduled_weights(ConstraintLossConfig(), 1.5)
    with pytest.raises(ValueError, match="`worst_ratio` must be a finite number"):
        curriculum_progress(math.nan)
    with pytest.raises(ValueError, match="`hi` must be above `lo`"):
        curriculum_progress(1.0, lo=2.0, hi=2.0)
