"""What the optimizer asks of an agent, and what it shows it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from ase import Atoms
from torch import Tensor

from relaxrl.graph import AtomGraph
from relaxrl.io import graph_from_atoms
from relaxrl.optimize.safeguard import Point
from relaxrl.typing import FloatArray


@runtime_checkable
class Policy(Protocol):
    """Anything that proposes displacements: a trained agent, or a function wrapped in a class."""

    def act(self, graph: AtomGraph) -> Tensor:
        """Displacements, (n_atoms, 3), Å, for structures with forces, energy and history."""


def load_policy(agent: Policy | str | Path | None) -> Policy | None:
    """The agent itself, or the one of this name or path; None stays None.

    Raises:
        TypeError: The object has no method `act`.
        CheckpointError: There is no such agent, or its files can't be used.
    """
    if agent is None or (isinstance(agent, Policy) and not isinstance(agent, str | Path)):
        return agent
    if isinstance(agent, str | Path):
        from relaxrl.agents import load_agent  # networks load torch modules for seconds: only where one is asked for

        loaded: Policy = load_agent(agent)
        return loaded
    raise TypeError(f"`agent` must be a name, a path, None, or have a method act(graph), got {type(agent).__name__}")


def feature_names(policy: Policy) -> Sequence[str]:
    """Names of the environment features that the agent was trained with; none where it names none."""
    names: Sequence[str] = getattr(policy, "feature_names", ())
    return names


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
