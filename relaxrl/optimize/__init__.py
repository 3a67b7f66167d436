"""A trained agent as an ASE optimizer, with the safeguard that makes it converge."""

from relaxrl.optimize.curvature import pair_hessian
from relaxrl.optimize.policy import Policy
from relaxrl.optimize.quasi_newton import SecantPairs, newton_step
from relaxrl.optimize.rl_optimizer import RLOptimizer
from relaxrl.optimize.safeguard import SafeguardConfig

__all__ = ["Policy", "RLOptimizer", "SafeguardConfig", "SecantPairs", "newton_step", "pair_hessian"]
