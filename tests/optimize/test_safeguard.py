import numpy as np
import pytest

from relaxrl.errors import CalculatorError
from relaxrl.optimize.safeguard import Point, Safeguard, SafeguardConfig, energy_change


def point(energy, fmax, x=0.0, gradient=0.0):
    return Point(np.array([x]), energy, np.array([gradient]), fmax)


def begun(energy=0.0, fmax=1.0, **config):
    safeguard = Safeguard(SafeguardConfig(**config), 0.5)
    safeguard.begin(point(energy, fmax))
    return safeguard


@pytest.mark.parametrize(
    ("energy", "fmax", "stands"),
    [(-2.0, 2.0, True), (-0.5, 0.5, True), (-0.5, 2.0, False), (0.5, 0.5, False)],
    ids=["lower energy", "higher energy but lower force", "both higher", "above the start"],
)
def test_which_steps_stand(energy, fmax, stands):
    safeguard = begun(energy=0.0, fmax=3.0)
    assert safeguard.accepts(point(-1.0, 1.0), point(energy, fmax)) is stands


def test_strict_mode_asks_for_a_record():
    safeguard = begun(energy=0.0, fmax=3.0)
    safeguard.accept(point(-1.0, 0.2))
    here, trial = point(-1.1, 1.0), point(-0.9, 0.5)
    assert safeguard.accepts(here, trial)
    assert not safeguard.accepts(here, trial, strict=True)
    assert safeguard.accepts(here, point(-0.9, 0.1), strict=True)


def test_energies_below_their_resolution_are_integrated_from_the_forces():
    old = point(-500.0, 0.02, x=0.0, gradient=-0.02)
    new = point(-499.99997, 0.01, x=0.01, gradient=0.01)
    assert energy_change(old, new) == pytest.approx(0.5 * (-0.02 + 0.01) * 0.01)
    assert energy_change(old, point(-499.99, 0.01, x=0.01, gradient=0.01)) == pytest.approx(0.01)


def test_the_radius_follows_the_quality_of_steps():
    safeguard = begun()
    safeguard.shrink(0.3)
    assert safeguard.radius == pytest.approx(0.12)
    safeguard.adapt(0.12, predicted=-1.0, actual=-0.9)
    assert safeguard.radius == pytest.approx(0.24)
    safeguard.adapt(0.1, predicted=-1.0, actual=0.1)
    assert safeguard.radius == pytest.approx(0.7 * 0.24)
    for _ in range(9):
        safeguard.adapt(safeguard.radius, predicted=-1.0, actual=-1.0)
    assert safeguard.radius == 0.5


def test_an_agent_stalls_when_forces_fall_too_slowly():
    safeguard = begun(fmax=1.0, contraction=0.5, window=2)
    safeguard.accept(point(-1.0, 0.9))
    assert not safeguard.agent_stalled  # too early to say
    safeguard.accept(point(-2.0, 0.2))
    assert not safeguard.agent_stalled
    safeguard.reject()
    assert not safeguard.agent_stalled  # 0.9 → 0.2 in two
    safeguard.reject()
    assert safeguard.agent_stalled


def test_patience_ends_loudly():
    safeguard = begun(patience=4)
    forgot = []
    for _ in range(4):
        safeguard.check_progress(point(0.0, 1.0))
        safeguard.reject()
        forgot.append(safeguard.should_forget)
    assert forgot == [False, True, False, True]
    with pytest.raises(CalculatorError, match="stuck at fmax 1 eV/Å"):
        safeguard.check_progress(point(0.0, 1.0))
    safeguard.accept(point(-1.0, 1.0))
    safeguard.check_progress(point(-1.0, 1.0))


def test_settings_are_checked():
    for wrong in ({"shrink": 1.0}, {"contraction": 0.0}, {"window": 0}, {"max_failures": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SafeguardConfig(**wrong)
