"""Optimizers by name, each as it comes from its library; ours among them."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ase import Atoms
from ase.filters import FrechetCellFilter
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
from relaxrl.evaluation.oracle import PATIENT, newton_oracle
from relaxrl.optimize import Policy, RLOptimizer
from relaxrl.potentials import CalculatorSpec

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

FIXED_CELL = frozenset({"PreconLBFGS"})
"""Methods that know positions alone, and no filters of cells."""

ORACLE = "newton-oracle"
"""Our optimizer with exact Hessians, which nobody counts: a yardstick, not a competitor."""

AGENT_PREFIX = "agent:"

STANDARD = (*CLASSICAL, UNTRAINED)
"""What runs where nobody names methods: all that any calculator allows."""


def method_names() -> list[str]:
    """All names but those of agents."""
    return [*STANDARD, ORACLE]


def is_guided(method: str) -> bool:
    """Whether the method proposes steps to our optimizer, which may relieve it."""
    return method == ORACLE or method.startswith(AGENT_PREFIX)


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


def make_optimizer(
    method: str,
    atoms: Atoms,
    agents: Mapping[str, Policy],
    calculator: CalculatorSpec | None = None,
    cell: bool = False,
) -> Any:
    """The optimizer of this name for these atoms, silent.

    Args:
        method: A name of `method_names()`, or `agent:NAME`.
        atoms: With a calculator.
        agents: Loaded agents by NAME.
        calculator: What the atoms' calculator was made from; the oracle asks it for Hessians.
        cell: Whether the cell relaxes, too: classical methods do so on ASE's `FrechetCellFilter`.

    Raises:
        ConfigError: The oracle is asked for, and the calculator has no exact Hessians.
    """
    if method.startswith(AGENT_PREFIX):
        return RLOptimizer(atoms, agent=agents[method.removeprefix(AGENT_PREFIX)], logfile=None, cell=cell)
    if method == UNTRAINED:
        return RLOptimizer(atoms, agent=None, logfile=None, cell=cell)
    if method == ORACLE:
        if calculator is None:
            raise ConfigError(f"method {ORACLE} needs the calculator's specification, got none")
        return RLOptimizer(atoms, agent=newton_oracle(calculator), logfile=None, safeguard=PATIENT)
    return CLASSICAL[method](FrechetCellFilter(atoms) if cell else atoms, logfile=None)
