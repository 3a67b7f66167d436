"""What a training run should be watched for, and what an abnormal figure means in words.

Four figures are taken at every evaluation and kept against `t_total`, the true count of environment steps:

- *actual move*: mean displacement after correction. Near zero while forces are large: the agent runs into walls, or
  does not dare to move.
- *Q against return*: the critic's estimate beside the discounted return that really followed. Q rising while forces
  don't fall: overestimation.
- *action scale*: the gate of the actor. Towards zero: the agent avoids penalties by not moving.
- *correction share*: share of steps with `a_back > 0`, and its mean. High: illegal proposals.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from relaxrl.config import configclass


@configclass
class DiagnosisConfig:
    """From where on a figure counts as abnormal.

    Attributes:
        small_move: Å; a mean move below it is "not moving". Useful steps near convergence are about 1e-3 Å, but then
            forces are small too; see `large_force`.
        large_force: How many times the convergence threshold F_max must be for forces to count as large.
        window: Evaluations over which a trend is judged; two or three are within the noise of one evaluation set.
        q_excess: How far Q may lie above the return, as a fraction of the return's own size (at least `q_margin`).
        q_margin: Smallest excess of Q, in units of reward, that is worth a warning: the done bonus is 10, so 1 is 10 %.
        force_progress: F_max falling by less than this fraction over the window counts as "does not fall".
        small_gate: Gate below which the agent is said to avoid moving; the gate starts at 1.
        high_correction: Share of corrected steps from which proposals count as mostly illegal. Exploration noise alone
            causes a few per cent.
        high_taken_back: Mean `a_back` with the same meaning.
    """

    small_move: float = 2e-3
    large_force: float = 10.0
    window: int = 5
    q_excess: float = 0.5
    q_margin: float = 1.0
    force_progress: float = 0.1
    small_gate: float = 0.1
    high_correction: float = 0.3
    high_taken_back: float = 0.3

    def __post_init__(self) -> None:
        """Refuse ranges without sense."""
        if self.window < 2:
            raise ValueError(f"`window` must be at least 2 evaluations, got {self.window}")
        for name in ("small_move", "large_force", "q_excess", "q_margin", "small_gate", "high_correction"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}")


@dataclass(frozen=True)
class Figures:
    """The figures of one evaluation.

    Attributes:
        t_total: Environment steps since the start of the run.
        actual_move: Mean |applied displacement| per atom and step, Å.
        proposed_move: The same before correction, Å.
        q_estimate: Mean critic value of the first state and action of the episodes.
        realised_return: Mean discounted return that followed from there.
        gate: Mean gate of the actor; 1 for an actor without one.
        correction_share: Share of steps with `a_back > 0`.
        a_back: Mean fraction taken back, over all steps.
        fmax: Geometric mean of F_max after the steps, eV/Å.
        fmax_target: F_max at which an episode is converged, eV/Å.
    """

    t_total: int
    actual_move: float
    proposed_move: float
    q_estimate: float
    realised_return: float
    gate: float
    correction_share: float
    a_back: float
    fmax: float
    fmax_target: float

    def as_metrics(self) -> dict[str, float]:
        """By the names they have in the run's metrics."""
        return {f"relax/{name}": float(value) for name, value in self._items() if name not in _NOT_METRICS}

    @staticmethod
    def from_metrics(t_total: int, metrics: Mapping[str, float], fmax_target: float) -> Figures | None:
        """The inverse of `as_metrics`; None where the row has no figures."""
        names = [field.name for field in dataclasses.fields(Figures) if field.name not in _NOT_METRICS]
        values = {name: metrics.get(f"relax/{name}", math.nan) for name in names}
        if all(math.isnan(value) for value in values.values()):
            return None
        return Figures(t_total=t_total, fmax_target=fmax_target, **values)

    def _items(self) -> list[tuple[str, float]]:
        return [(field.name, getattr(self, field.name)) for field in dataclasses.fields(self)]


_NOT_METRICS = ("t_total", "fmax_target")


@dataclass(frozen=True)
class Diagnosis:
    """One abnormal figure.

    Attributes:
        figure: `actual move`, `Q against return`, `action scale` or `correction share`.
        message: What it means and what to try, in words.
    """

    figure: str
    message: str


def diagnose(history: Sequence[Figures], config: DiagnosisConfig | None = None) -> list[Diagnosis]:
    """The abnormal figures of the last evaluation, in the light of those before it.

    Args:
        history: All evaluations of the run so far, oldest first.
        config: Thresholds.

    Examples:
        >>> calm = Figures(0, 0.05, 0.05, 4.0, 4.2, 1.0, 0.0, 0.0, 0.02, 0.01)
        >>> diagnose([calm])
        []
    """
    config = config or DiagnosisConfig()
    if not history:
        return []
    found = [_move(history[-1], config), _overestimation(history, config)]
    found += [_scale(history[-1], config), _correction(history[-1], config)]
    return [diagnosis for diagnosis in found if diagnosis is not None]


def _move(now: Figures, config: DiagnosisConfig) -> Diagnosis | None:
    if not (now.actual_move < config.small_move and now.fmax > config.large_force * now.fmax_target):
        return None
    symptom = f"atoms move {now.actual_move:.2g} Å per step although F_max is {now.fmax:.2g} eV/Å"
    if now.proposed_move >= config.small_move:
        cause = (
            f"the agent runs into walls: it proposes {now.proposed_move:.2g} Å and the correction takes it back. "
            "Raise `td3.deviation_weight`, or lower `env.r_min` if it forbids the minimum itself."
        )
    else:
        cause = (
            "the agent hardly proposes to move. Look at the action scale, and at the cloning weight early in training."
        )
    return Diagnosis("actual move", f"{symptom}: {cause}")


def _overestimation(history: Sequence[Figures], config: DiagnosisConfig) -> Diagnosis | None:
    if len(history) < config.window:
        return None
    window = history[-config.window :]
    first, last = window[0], window[-1]
    values = (first.q_estimate, last.q_estimate, last.realised_return, first.fmax, last.fmax)
    if not all(math.isfinite(value) for value in values):
        return None
    rises = last.q_estimate > first.q_estimate
    stagnates = last.fmax > (1 - config.force_progress) * first.fmax and last.fmax > last.fmax_target
    excess = last.q_estimate - last.realised_return
    if not (rises and stagnates and excess > max(config.q_margin, config.q_excess * abs(last.realised_return))):
        return None
    return Diagnosis(
        "Q against return",
        f"overestimation: Q rose from {first.q_estimate:.3g} to {last.q_estimate:.3g} over {config.window} evaluations "
        f"while the return is {last.realised_return:.3g} and F_max did not fall ({first.fmax:.2g} to {last.fmax:.2g} "
        "eV/Å). Lower `td3.gamma` or `td3.critic_lr`, or shrink `replay.capacity`: old transitions give wrong targets.",
    )


def _scale(now: Figures, config: DiagnosisConfig) -> Diagnosis | None:
    if not now.gate < config.small_gate:
        return None
    return Diagnosis(
        "action scale",
        f"the gate fell to {now.gate:.2g}: the agent avoids penalties by not moving. Lower `env.reward.w_correction`, "
        "raise `env.reward.w_delta`, or train without environment features.",
    )


def _correction(now: Figures, config: DiagnosisConfig) -> Diagnosis | None:
    if not (now.correction_share > config.high_correction or now.a_back > config.high_taken_back):
        return None
    return Diagnosis(
        "correction share",
        f"illegal proposals: {now.correction_share:.0%} of the steps were corrected, {now.a_back:.0%} of the move was "
        "taken back on average. Raise `td3.deviation_weight` or `env.reward.w_correction`, or lower "
        "`exploration.scale.start` or `env.max_step`.",
    )
