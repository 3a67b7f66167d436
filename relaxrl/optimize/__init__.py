"""A trained agent as an ASE optimizer, with the safeguard that makes it converge."""

from relaxrl.optimize.campaign import Campaign, Conditions, Relaxed, relax_one
from relaxrl.optimize.cell import RelaxCell
from relaxrl.optimize.curvature import pair_hessian
from relaxrl.optimize.learner import Learner
from relaxrl.optimize.policy import CurvaturePolicy, Policy, UntrainedElementWarning
from relaxrl.optimize.quasi_newton import SecantPairs, newton_step
from relaxrl.optimize.recording import Evaluated, RecordingCalculator
from relaxrl.optimize.rl_optimizer import RLOptimizer
from relaxrl.optimize.safeguard import SafeguardConfig

__all__ = [
    "Campaign",
    "Conditions",
    "CurvaturePolicy",
    "Evaluated",
    "Learner",
    "Policy",
    "RLOptimizer",
    "RecordingCalculator",
    "RelaxCell",
    "Relaxed",
    "SafeguardConfig",
    "SecantPairs",
    "UntrainedElementWarning",
    "newton_step",
    "pair_hessian",
    "relax_one",
]
