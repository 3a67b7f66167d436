"""What the optimizer asks of an agent, and what it shows it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from ase import Atoms
from scipy import sparse
from torch import Tensor

from relaxrl.errors import CheckpointError, StructureError
from relaxrl.graph import AtomGraph
from relaxrl.io import graph_from_atoms
from relaxrl.optimize.quasi_newton import DENSE_LIMIT
from relaxrl.optimize.safeguard import Point
from relaxrl.typing import FloatArray

STIFFEST = 1e6
"""eV/Å²; stiffer Hessians are nonsense (diamond has 100), and their squares would overflow."""


class UntrainedElementWarning(UserWarning):
    """An agent meets elements that it was not trained on."""


@runtime_checkable
class Policy(Protocol):
    """Anything that proposes displacements: a trained agent, or a function wrapped in a class."""

    def act(self, graph: AtomGraph) -> Tensor:
        """Displacements, (n_atoms, 3), Å, for structures with forces, energy and history."""


@runtime_checkable
class CurvaturePolicy(Policy, Protocol):
    """A policy that also shows the Hessian that its displacements come from, so that it can be corrected."""

    def hessian(self, graph: AtomGraph) -> FloatArray | sparse.csr_array | None:
        """(3 n_atoms, 3 n_atoms), eV/Å², symmetric, of one structure; None where it has none to show."""


def load_policy(agent: Policy | str | Path | None) -> Policy | None:
    """The agent itself, or the one of this name or path; None stays None.

    `none` is no agent, as on the command line. Names of other libraries' agents begin with `sb3:` or `policy:`; see
    `relaxrl.integrations.load_foreign`. A shipped agent is loaded once, and the same object given to all who ask for it
    by name: to make networks takes as long as some evaluations of a machine-learned potential. `load_agent` gives one
    that may be changed.

    Raises:
        TypeError: The object has no method `act`.
        ConfigError: An agent of another library can't be imported.
        CheckpointError: There is no such agent, or its files can't be used.
    """
    if agent is None or agent == "none":
        return None
    if isinstance(agent, Policy) and not isinstance(agent, str | Path):
        return agent
    if isinstance(agent, str | Path):
        # Networks load torch modules for seconds: only where one is asked for.
        from relaxrl.agents import load_agent, shipped_agents
        from relaxrl.integrations import is_foreign, load_foreign

        if is_foreign(str(agent)):
            return load_foreign(str(agent))
        if str(agent) in shipped_agents():
            return _shipped(str(agent))
        loaded: Policy = load_agent(agent)
        return loaded
    raise TypeError(f"`agent` must be a name, a path, None, or have a method act(graph), got {type(agent).__name__}")


@lru_cache(maxsize=4)
def _shipped(name: str) -> Policy:
    from relaxrl.agents import load_agent

    return load_agent(name)


def suited(agent: str | None, symbols: Iterable[str]) -> str | None:
    """The agent of this name; for `auto` the shipped one that was trained on all of these elements, if there is one."""
    if agent != "auto":
        return agent
    from relaxrl.agents import default_agent

    return default_agent(symbols)


def is_agent(path: str | Path) -> bool:
    """Whether a name or path means an agent."""
    from relaxrl.agents import find_agent, shipped_agents

    if str(path) in shipped_agents():
        return True
    try:
        return Path(path).is_dir() and bool(find_agent(path))
    except CheckpointError:
        return False


def feature_names(policy: Policy | None) -> Sequence[str]:
    """Names of the environment features that the agent was trained with; none where it names none."""
    names: Sequence[str] = getattr(policy, "feature_names", ())
    return names


def predicted_hessian(policy: Policy | None, graph: AtomGraph, strain: bool = False) -> FloatArray | None:
    """The Hessian of a policy that shows one, (3 n_atoms, 3 n_atoms), eV/Å², symmetric; else None.

    Also None for structures too large for dense matrices, and where it holds numbers that can't be a curvature.

    Args:
        policy: The agent.
        graph: One structure.
        strain: Whether strain counts, too: (3 n_atoms + 6, 3 n_atoms + 6), of a method `hessian_with_strain`.

    Raises:
        ValueError: It has another shape.
    """
    # Not by `isinstance`: from Python 3.12 on that overlooks what an agent standing for another passes on.
    show = getattr(policy, "hessian_with_strain" if strain else "hessian", None)
    if show is None or 3 * graph.n_atoms > DENSE_LIMIT:
        return None
    shown: FloatArray | sparse.csr_array | None = show(graph)
    if shown is None:
        return None
    matrix = np.asarray(shown.toarray() if sparse.issparse(shown) else shown, dtype=np.float64)
    n_dof = 3 * graph.n_atoms + 6 * strain
    if matrix.shape != (n_dof, n_dof):
        raise ValueError(f"the agent must show a Hessian of shape ({n_dof}, {n_dof}), got {matrix.shape}")
    if not np.abs(matrix).max(initial=0.0) < STIFFEST:  # so that NaN fails, too
        return None
    symmetric: FloatArray = 0.5 * (matrix + matrix.T)
    return symmetric


def check_size(policy: Policy | None, n_atoms: int, structure: str) -> None:
    """Raise where an agent was trained with room for fewer atoms; ours have no such limit.

    Raises:
        StructureError: Names agent, structure and both numbers.
    """
    room = getattr(policy, "max_atoms", None)
    if room is not None and n_atoms > room:
        raise StructureError(
            f"{structure} has {n_atoms} atoms, but {getattr(policy, 'name', 'the agent')} was trained with room for "
            f"n_max = {room}; train it in an environment with a larger n_max"
        )


def untrained_elements(policy: Policy | None, symbols: Iterable[str]) -> str:
    """What to tell who relaxes elements that the agent was not trained on; empty where there is nothing to tell.

    Args:
        policy: The agent; one that does not say what it was trained on is not doubted.
        symbols: Elements that it meets.
    """
    known = set(getattr(policy, "elements", ()))
    unknown = set(symbols) - known
    if not known or not unknown:
        return ""
    return (
        f"the agent was trained on {' '.join(sorted(known))}, not on {' '.join(sorted(unknown))}. Related elements do "
        "as well mostly; the result is a minimum in any case, but may take more force evaluations than without an "
        "agent (`agent=None`, `--agent none`)"
    )


def observe(
    atoms: Atoms, point: Point, previous: Point | None, step: int, fmax_first: float, names: Sequence[str]
) -> AtomGraph:
    """The graph that an agent sees: the same as in the environment that it was trained in.

    Args:
        atoms: Gives elements, cell and periodicity.
        point: The current geometry.
        previous: The geometry before; None at the start, which is told as a step of zero and unchanged forces.
        step: Steps made so far.
        fmax_first: eV/Å, at the start.
        names: Environment features to add.
    """
    graph = graph_from_atoms(atoms)
    before = point if previous is None else previous
    graph = graph.replace(
        positions=_rows(point.x),
        forces=_rows(-point.gradient),
        energy=torch.tensor([point.energy], dtype=torch.float64),
        previous_displacement=_rows(point.x - before.x),
        previous_forces=_rows(-before.gradient),
    )
    if not names:
        return graph
    from relaxrl.envs.features import environment_features  # loads gymnasium: only for agents that ask for features

    return graph.replace(features=environment_features(names, graph, step=step, fmax_first=fmax_first))


def _rows(vector: FloatArray) -> Tensor:
    return torch.from_numpy(vector.reshape(-1, 3).copy())
