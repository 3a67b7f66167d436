"""Environment features: global invariant scalars that an observation may carry beside the atoms.

Environment and optimizer share this one function, so that an agent sees the same numbers in training and in use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from relaxrl.graph import AtomGraph, force_norms, max_force, scatter_max, scatter_mean

_FORCE_FLOOR = 1e-6  # eV/Å
_WORK_FLOOR = 1e-12  # eV per atom
_STEP_FLOOR = 1e-4  # Å


@dataclass(frozen=True)
class _Observed:
    graph: AtomGraph
    step: Tensor
    fmax: Tensor
    fmax_first: Tensor


def _log_force(force: Tensor) -> Tensor:
    return torch.log10(force.clamp(min=_FORCE_FLOOR))


def _fmean(seen: _Observed) -> Tensor:
    forces = seen.graph.forces
    assert forces is not None, "max_force has checked it"
    return _log_force(scatter_mean(force_norms(forces), seen.graph.graph_index, seen.graph.n_graphs))


def _fmax_previous(seen: _Observed) -> Tensor:
    if seen.graph.previous_forces is None:
        return _log_force(seen.fmax)
    return _log_force(max_force(seen.graph.replace(forces=seen.graph.previous_forces)))


def _slope(seen: _Observed) -> Tensor:
    """What is left of the slope along the last step, between -1 and 1; 0 at the start and at a line's minimum."""
    graph = seen.graph
    step, before, now = graph.previous_displacement, graph.previous_forces, graph.forces
    if step is None or before is None or now is None:
        return torch.zeros_like(seen.fmax)
    left, at_first = (
        scatter_mean((force * step).sum(-1), graph.graph_index, graph.n_graphs) for force in (now, before)
    )
    return left / (left.abs() + at_first.abs()).clamp(min=_WORK_FLOOR)


def _last_step(seen: _Observed) -> Tensor:
    step = seen.graph.previous_displacement
    if step is None:
        return torch.full_like(seen.fmax, math.log10(_STEP_FLOOR))
    longest = scatter_max(torch.linalg.vector_norm(step, dim=-1), seen.graph.graph_index, seen.graph.n_graphs)
    return torch.log10(longest.clamp(min=_STEP_FLOOR))


def _density(seen: _Observed) -> Tensor:
    # Vacuum has no density of its own: only structures periodic in all directions fill their cell.
    volume = torch.linalg.det(seen.graph.cell).abs()
    bulk = seen.graph.pbc.all(dim=-1) & (volume > 0)
    per_atom = volume / seen.graph.atoms_per_graph
    return torch.where(bulk, -torch.log10(torch.where(bulk, per_atom, 1.0)), 0.0)


FEATURES: dict[str, Callable[[_Observed], Tensor]] = {
    "step": lambda seen: torch.log10(1.0 + seen.step),
    "fmax": lambda seen: _log_force(seen.fmax),
    "fmax_first": lambda seen: _log_force(seen.fmax_first),
    "fmax_ratio": lambda seen: _log_force(seen.fmax) - _log_force(seen.fmax_first),
    "fmax_previous": _fmax_previous,
    "gain": lambda seen: _log_force(seen.fmax) - _fmax_previous(seen),
    "slope": _slope,
    "last_step": _last_step,
    "fmean": _fmean,
    "density": _density,
    "n_atoms": lambda seen: torch.log10(seen.graph.atoms_per_graph.to(seen.fmax.dtype)),
}
"""What can be asked for: steps made so far; F_max now, at the start, the ratio of both, and one step ago; the gain of
the last step (F_max now over that before it); the slope left along the last step; its longest displacement (1e-4 Å at
the start); F_mean now; atoms per Å³ (0 where not periodic in all directions); number of atoms. Each is the log10 of the
quantity in Å and eV (of 1 + steps for the step count): forces span six decades, and so a network sees the decades. Only
the slope is no logarithm but F · d / (|F · d| + |F' · d|), with the last step d, the forces F now and F' before it:
positive where that step was too short, negative where it was too long."""


def check_names(names: Sequence[str]) -> None:
    """Check that all features exist.

    Raises:
        ValueError: One does not.
    """
    for name in names:
        if name not in FEATURES:
            raise ValueError(f"`features`: there is no `{name}`; there are {', '.join(FEATURES)}")


def environment_features(
    names: Sequence[str], graph: AtomGraph, step: Tensor | int, fmax_first: Tensor | float
) -> Tensor:
    """The features of each structure, (n_graphs, len(names)), in the order of `names`.

    Args:
        names: Keys of `FEATURES`.
        graph: Structures with forces.
        step: Steps made in this episode; (n_graphs,) or one number for all.
        fmax_first: F_max at the start of the episode, eV/Å; (n_graphs,) or one number for all.

    Raises:
        ValueError: A name is unknown or the graph has no forces.

    Examples:
        >>> from ase.build import bulk
        >>> from relaxrl.io import graph_from_atoms
        >>> graph = graph_from_atoms(bulk("Cu", a=4.0))
        >>> graph = graph.replace(forces=0.01 * torch.ones_like(graph.positions))
        >>> environment_features(["step", "fmax_first"], graph, 9, 0.1)
        tensor([[ 1., -1.]], dtype=torch.float64)
    """
    check_names(names)
    fmax = max_force(graph)
    seen = _Observed(
        graph,
        torch.as_tensor(step, dtype=fmax.dtype, device=fmax.device).expand_as(fmax),
        fmax,
        torch.as_tensor(fmax_first, dtype=fmax.dtype, device=fmax.device).expand_as(fmax),
    )
    if not names:
        return fmax.new_zeros((graph.n_graphs, 0))
    return torch.stack([FEATURES[name](seen) for name in names], dim=-1)
