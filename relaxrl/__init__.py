"""Agents that relax crystal and atomic structures in far fewer force evaluations than BFGS."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import gymnasium

if TYPE_CHECKING:
    from relaxrl.agents import load_agent
    from relaxrl.evaluation import evaluate
    from relaxrl.optimize import RLOptimizer
    from relaxrl.training import train

__version__ = "0.1.0"
__all__ = ["RLOptimizer", "__version__", "evaluate", "load_agent", "train"]

_HOMES = {
    "RLOptimizer": "relaxrl.optimize",
    "evaluate": "relaxrl.evaluation",
    "load_agent": "relaxrl.agents",
    "train": "relaxrl.training",
}

# Here, because worker processes know the name "relaxrl:relaxrl/Relax-v0" only; the entry point is imported when made.
gymnasium.register(
    id="relaxrl/Relax-v0",
    entry_point="relaxrl.envs.gym_env:RelaxEnv",
    vector_entry_point="relaxrl.envs.vector_env:RelaxVectorEnv",
)
gymnasium.register(
    id="relaxrl/RelaxFlat-v0",
    entry_point="relaxrl.envs.gym_env:RelaxFlatEnv",
    vector_entry_point="relaxrl.envs.vector_env:RelaxFlatVectorEnv",
)
gymnasium.register(id="relaxrl/RelaxRagged-v0", entry_point="relaxrl.envs.ragged_env:RelaxRaggedEnv")


def __getattr__(name: str) -> Any:
    """Load the public names when they are asked for: torch takes seconds, and most commands and workers need less."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'relaxrl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
