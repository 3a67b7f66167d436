"""Schedules at their ends and between."""

import math

import pytest

from relaxrl.agents import Schedule
from relaxrl.config import from_dict
from relaxrl.errors import ConfigError


def test_values():
    assert Schedule(start=0.3).at(10**9) == 0.3
    linear = Schedule(kind="linear", start=2.0, end=-2.0, steps=4)
    assert [linear.at(t) for t in (0, 1, 2, 4, 100)] == [2.0, 1.0, 0.0, -2.0, -2.0]
    exponential = Schedule(kind="exponential", start=1.0, end=0.5, steps=10)
    assert exponential.at(0) == 1.0
    assert exponential.at(10) == pytest.approx(0.5 + 0.5 / math.e)
    assert exponential.at(10_000) == pytest.approx(0.5)
    assert linear.bounds == (-2.0, 2.0)


def test_from_a_file_and_its_mistakes():
    assert from_dict(Schedule, {"kind": "linear", "start": 1, "end": 0, "steps": 5}).at(5) == 0.0
    with pytest.raises(ConfigError, match="steps"):
        from_dict(Schedule, {"kind": "linear", "start": 1, "end": 0})
    with pytest.raises(ConfigError, match="end"):
        from_dict(Schedule, {"kind": "exponential", "start": 1, "steps": 3})
    with pytest.raises(ConfigError, match="finite"):
        from_dict(Schedule, {"start": float("nan")})
