"""Optimizers by name, each as it comes from its library; ours among them."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ase import Atoms
from ase.optimize import (
    BFGS,
    FIRE,
    FIRE2,
    LBFGS,
    BFGSLineSearch,
    GoodOldQuasiNewton,
    GPMin,
    MDMin,
)
from ase.optimize.precon import PreconLBFGS
from ase.optimize.sciopt import SciPyFminCG

from relaxrl.errors import ConfigError
from relaxrl.optimize import Policy, RLOptimizer

Method = Callable[..., Any]
"""Makes an ASE optimizer from atoms (and `logfile`)."""

CLASSICAL: Mapping[str, Method] = {
    "BFGS": BFGS,
    "LBFGS": LBFGS,
    "BFGSLineSearch": BFGSLineSearch,
    "FIRE": FIRE,
    "FIRE2": FIRE2,
    "MDMin": MDMin,
    "GPMin": GPMin,
    "GoodOldQuasiNewton": GoodOldQuasiNewton,
    "SciPyFminCG": SciPyFminCG,
    # ASE's "auto" leaves the preconditioner out below 100 atoms, where it helps as well.
    "PreconLBFGS": functools.partial(PreconLBFGS, precon="Exp"),
    "BFGS-alpha10": functools.partial(BFGS, alpha=10.0),
    "BFGS-alpha20": functools.partial(BFGS, alpha=20.0),
}
"""All with the defaults of ASE, but for what the name says."""

REFERENCE = "BFGS"
"""What ratios are taken to: ASE's default for most users."""

UNTRAINED = "untrained"
"""Our optimizer without an agent: the quasi-Newton method that agents fall back to. An agent has to beat it."""

AGENT_PREFIX = "agent:"


def method_names() -> list[str]:
    """All names but those of agents."""
    return [*CLASSICAL, UNTRAINED]


def check_methods(names: Iterable[str]) -> list[str]:
    """The names, each once and in order, with `BFGS` first where it is missing.

    Raises:
        ConfigError: A name is unknown.
    """
    known = {name.lower(): name for name in method_names()}
    checked = []
    for name in names:
        if name.lower() not in known:
            near = difflib.get_close_matches(name.lower(), known, n=1)
            hint = f"; did you mean {known[near[0]]}?" if near else ""
            raise ConfigError(f"unknown method {name!r}: expected one of {', '.join(known.values())}{hint}")
        checked.append(known[name.lower()])
    if REFERENCE not in checked:
        checked.insert(0, REFERENCE)
    return list(dict.fromkeys(checked))


def make_optimizer(method: str, atoms: Atoms, agents: Mapping[str, Policy]) -> Any:
    """The optimizer of this name for these atoms, silent.

    Args:
        method: A name of `method_names()`, or `agent:NAME`.
        atoms: With a calculator.
        agents: Loaded agents by NAME.
    """
    if method.startswith(AGENT_PREFIX):
        return RLOptimizer(atoms, agent=agents[method.removeprefix(AGENT_PREFIX)], logfile=None)
    if method == UNTRAINED:
        return RLOptimizer(atoms, agent=None, logfile=None)
    return CLASSICAL[method](atoms, logfile=None)
