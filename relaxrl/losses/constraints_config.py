"""Configuration of the constraint losses and of their curriculum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from relaxrl.config import configclass
from relaxrl.losses.constraints_checks import check_fraction, check_number, check_positive, check_weight

TotalMode = Literal["improvement", "improvement_all"]


@dataclass(frozen=True)
class ConstraintWeights:
    """Weights of the three terms at one moment of the training.

    Attributes:
        data: λ_data, of the distance to the target.
        rel: λ_rel, of the relative improvement.
        abs: λ_abs, of the absolute violation.

    Raises:
        ValueError: A weight is negative or not finite.
    """

    data: float
    rel: float
    abs: float

    def __post_init__(self) -> None:
        check_weight("data", self.data)
        check_weight("rel", self.rel)
        check_weight("abs", self.abs)


@configclass
class CurriculumConfig:
    """When the data term hands over to the constraint terms. All distances are in dex (factors of ten)."""

    delta_h_target: float = -2.0
    """Δ_h*: where the median of log10|H_pred| should come to lie, relative to the target's; a factor of 100 below."""
    delta_m_target: float = -1.0
    """Δ_m*: the same of |M|, a factor of 10 below: a vector has more ways to be wrong."""
    lo: float = 0.0
    """`worst_ratio` at which the progress is 1: both targets reached."""
    hi: float = 3.0
    """`worst_ratio` at which the progress starts: 3 dex from the further target, the violation of a first rough fit."""
    min_data_frac: float = 0.1
    """What remains of the data weight at progress 1; not 0, or the output would be free to leave for any exact solution
    of the constraints, the trivial one included."""
    constraint_gain: float = 2.0
    """The relative and the absolute weight grow to `1 + constraint_gain` times their initial values."""

    def __post_init__(self) -> None:
        for name in ("delta_h_target", "delta_m_target", "lo", "hi"):
            check_number(name, getattr(self, name))
        if self.lo < 0:
            raise ValueError(f"`lo` must not be negative, as `worst_ratio` never is, got {self.lo}")
        if self.hi <= self.lo:
            raise ValueError(f"`hi` must be above `lo`={self.lo}, got {self.hi}")
        check_fraction("min_data_frac", self.min_data_frac)
        check_weight("constraint_gain", self.constraint_gain)


@configclass
class ConstraintLossConfig:
    """Weights and shape of the constraint loss; weights are dimensionless, so scale fields to order 1 first."""

    data_weight: float = 1.0
    """λ_data: initial weight of the distance to the target."""
    rel_weight: float = 1.0
    """λ_rel: initial weight of the relative improvement; equal to the data term's until measured otherwise."""
    abs_weight: float = 0.1
    """λ_abs: initial weight of the absolute violation; small, since it serves where the relative term is saturated."""
    alpha_improve: float = 0.1
    """alpha_h: the scalar constraint should be violated by this fraction of the target's violation. The clip leaves a
    gradient only where ln(|H_pred| / |alpha H_true|) < clip: with 0.1 a prediction as bad as the target still feels one
    (2.3 < 3), with 0.01 it would not (4.6)."""
    mom_alpha_improve: float = 0.1
    """alpha_m: the same for the vector constraint."""
    mom_improve_weight: float = 1.0
    """w_m: weight of the vector constraint against the scalar one, in the relative and in the absolute term."""
    physics_weight: float = 1.0
    """λ_phy: global weight of the constraint terms; see `mode`."""
    mode: TotalMode = "improvement"
    """`improvement`: λ_phy multiplies the two constraint terms; `improvement_all`: the data term too."""
    eps: float = 1e-12
    """ε, in the constraints' unit: keeps the logarithms of exact zeros finite."""
    clip: float = 3.0
    """Bound of |log-ratio|: beyond a factor e^3 = 20 the relative term is constant, so that single points where the
    target happens to be almost exact can't dominate."""
    curriculum: CurriculumConfig = CurriculumConfig()
    """How the weights change with the measured violation."""

    def __post_init__(self) -> None:
        for name in ("data_weight", "rel_weight", "abs_weight", "mom_improve_weight", "physics_weight"):
            check_weight(name, getattr(self, name))
        check_fraction("alpha_improve", self.alpha_improve)
        check_fraction("mom_alpha_improve", self.mom_alpha_improve)
        check_positive("eps", self.eps)
        check_positive("clip", self.clip)

    @property
    def weights(self) -> ConstraintWeights:
        """The initial weights, those of progress 0."""
        return ConstraintWeights(data=self.data_weight, rel=self.rel_weight, abs=self.abs_weight)
