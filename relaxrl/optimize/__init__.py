"""A trained agent as an ASE optimizer, with the safeguard that makes it converge."""

from relaxrl.optimize.curvature import pair_hessian
from relaxrl.optimize.policy import CurvaturePolicy, Policy, UntrainedElementWarning
from relaxrl.optimize.quasi_newton import SecantPairs, newton_step
from relaxrl.optimize.rl_optimizer import RLOptimizer
from relaxrl.optimize.safeguard import SafeguardConfig

__all__ = [
    "CurvaturePolicy",
    "Policy",
    "RLOptimizer",
    "SafeguardConfig",
    "SecantPairs",
    "UntrainedElementWarning",
    "newton_step",
    "pair_hessian",
]
