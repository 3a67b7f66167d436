"""Agents that relax crystal and atomic structures in far fewer force evaluations than BFGS."""

import gymnasium

__version__ = "0.1.0"

# Here, because worker processes know the name "relaxrl:relaxrl/Relax-v0" only; the entry point is imported when made.
gymnasium.register(id="relaxrl/Relax-v0", entry_point="relaxrl.envs.gym_env:RelaxEnv")
