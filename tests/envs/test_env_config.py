from __future__ import annotations

import pytest

from relaxrl.config import from_dict
from relaxrl.envs import EnvConfig
from relaxrl.errors import ConfigError


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fmax", 0.0),
        ("max_steps", 0),
        ("rattle", -0.1),
        ("rattle", (0.3, 0.1)),
        ("r_min", 0.0),
        ("r_min_unit", "nm"),
        ("neighbor_cutoff", -1.0),
        ("max_step", 0.0),
        ("stuck_limit", -1),
        ("explosion_fmax", 0.0),
        ("explosion_energy", 0.0),
        ("explosion_displacement", 0.0),
        ("energy_tolerance", -1e-3),
        ("reset_attempts", 0),
        ("features", ["nothing"]),
        ("reward", {"kind": "nothing"}),
    ],
)
def test_values_out_of_range_are_refused_by_name(key, value):
    with pytest.raises(ConfigError, match=key):
        from_dict(EnvConfig, {key: value})


def test_recipes_read_as_one_would_write_them():
    config = from_dict(
        EnvConfig, {"rattle": [0.1, 0.2], "features": ["step"], "reward": {"kind": "force"}}, ["reward.w_log=0.5"]
    )
    assert config.rattle == (0.1, 0.2)
    assert config.features == ("step",)
    assert (config.reward.weights.w_max, config.reward.weights.w_log) == (1.0, 0.5)
    assert from_dict(EnvConfig, {"rattle": 0.1}).rattle == 0.1
