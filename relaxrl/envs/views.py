"""How structures appear as arrays, and arrays as displacements: what a library's spaces hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from relaxrl.envs.config import EnvConfig
from relaxrl.envs.core import RelaxationEnv
from relaxrl.envs.reward import CELL_TERMS, TERMS
from relaxrl.envs.types import Action, StepResult
from relaxrl.graph import AtomGraph, max_force

Float32Array = NDArray[np.float32]

LARGEST = 1e6
"""Bound of positions (Å), cells (Å), forces (eV/Å) and stress (eV/Å³) in observations; some libraries refuse infinite
bounds."""

VOIGT = ((0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1))
"""Rows and columns of the components xx, yy, zz, yz, xz, xy."""


class PaddedView:
    """Structures as a Dict of float32 boxes of fixed shape, padded with zeros; displacements as one row of numbers.

    Args:
        n_max: Atoms there is room for.
        cell: Whether cells strain: then there is stress to see, and six more numbers in an action.
    """

    def __init__(self, n_max: int, cell: bool = False) -> None:
        self.n_max = n_max
        self.cell = cell
        per_atom, per_component = (n_max,), (n_max, 3)
        boxes: dict[str, spaces.Space[Any]] = {
            "numbers": spaces.Box(0, 118, per_atom, np.float32),
            "positions": spaces.Box(-LARGEST, LARGEST, per_component, np.float32),
            "forces": spaces.Box(-LARGEST, LARGEST, per_component, np.float32),
            "cell": spaces.Box(-LARGEST, LARGEST, (3, 3), np.float32),
            "pbc": spaces.Box(0, 1, (3,), np.float32),
            "mask": spaces.Box(0, 1, per_atom, np.float32),
        }
        if cell:
            boxes["stress"] = spaces.Box(-LARGEST, LARGEST, (6,), np.float32)
        self.boxes = spaces.Dict(boxes)
        self._length, self._wanted = 3 * n_max + 6 * cell, "3 * n_max + 6" if cell else "3 * n_max"
        # One-dimensional: RLlib and CleanRL can't do with anything else.
        self.action_space: spaces.Space[Any] = spaces.Box(-1.0, 1.0, (self._length,), np.float32)

    @property
    def observation_space(self) -> spaces.Space[Any]:
        """The space of one structure."""
        return self.boxes

    def observations(self, graph: AtomGraph) -> Any:
        """A batch of structures: fresh arrays (n_graphs, ...), of which each row belongs to `observation_space`."""
        return self.arrays(graph)

    def observation(self, graph: AtomGraph) -> Any:
        """The only structure of a batch of one."""
        return {key: rows[0] for key, rows in self.arrays(graph).items()}

    def arrays(self, graph: AtomGraph) -> dict[str, Float32Array]:
        """A batch of structures by key, (n_graphs, ...)."""
        assert graph.forces is not None, "set by the core"
        rows = {
            "numbers": padded(graph.atomic_numbers, graph, self.n_max),
            "positions": padded(graph.positions, graph, self.n_max),
            "forces": padded(graph.forces, graph, self.n_max),
            "cell": graph.cell.cpu().numpy().astype(np.float32),
            "pbc": graph.pbc.cpu().numpy().astype(np.float32),
            "mask": padded(torch.ones_like(graph.atomic_numbers), graph, self.n_max),
        }
        if self.cell:
            rows["stress"] = voigt(graph).clip(-LARGEST, LARGEST).astype(np.float32)
        return rows

    def actions(self, actions: Any, graph: AtomGraph, config: EnvConfig) -> Action:
        """What the actions for a batch of structures ask for.

        Args:
            actions: (n_graphs, 3 * n_max), in units of `config.max_step`; where cells strain, six more columns, the
                strain in units of `config.cell.max_strain`.
            graph: The structures to be displaced.
            config: Options of the environment.

        Raises:
            ValueError: The actions have another shape or are not finite.
        """
        if config.cell is None:
            return Action(self.displacements(actions, graph, config.max_step))
        numbers = np.asarray(actions, dtype=np.float64)
        _check(numbers, (graph.n_graphs, self._length), f"num_envs, {self._wanted}")
        strain = torch.from_numpy(config.cell.max_strain * numbers[:, -6:])
        return Action(self._of_atoms(numbers[:, :-6], graph, config.max_step), strain)

    def action(self, action: Any, graph: AtomGraph, config: EnvConfig) -> Action:
        """The same for the only structure of a batch of one, with an action (3 * n_max,), or (3 * n_max + 6,)."""
        if config.cell is None:
            return Action(self.displacement(action, graph, config.max_step))
        numbers = np.asarray(action, dtype=np.float64)
        _check(numbers, (self._length,), self._wanted)
        return self.actions(numbers[None], graph, config)

    def displacements(self, actions: ArrayLike, graph: AtomGraph, longest: float) -> Tensor:
        """What the actions for a batch of structures ask for, (n_atoms, 3), Å.

        Args:
            actions: (n_graphs, 3 * n_max), in units of `longest`.
            graph: The structures to be displaced.
            longest: Å; that of one step.

        Raises:
            ValueError: The actions have another shape or are not finite.
        """
        numbers = np.asarray(actions, dtype=np.float64)
        _check(numbers, (graph.n_graphs, 3 * self.n_max), "num_envs, 3 * n_max")
        return self._of_atoms(numbers, graph, longest)

    def displacement(self, action: ArrayLike, graph: AtomGraph, longest: float) -> Tensor:
        """The same for the only structure of a batch of one, with an action (3 * n_max,)."""
        numbers = np.asarray(action, dtype=np.float64)
        _check(numbers, (3 * self.n_max,), "3 * n_max")
        return torch.from_numpy(longest * numbers.reshape(self.n_max, 3)[: graph.n_atoms])

    def _of_atoms(self, numbers: NDArray[np.float64], graph: AtomGraph, longest: float) -> Tensor:
        return torch.from_numpy(longest * numbers.reshape(graph.n_graphs, self.n_max, 3)[places(graph)])


class FlatView(PaddedView):
    """The boxes of `PaddedView` one after the other, in the order of `gymnasium.spaces.flatten`."""

    @property
    def observation_space(self) -> spaces.Space[Any]:
        """The space of one structure."""
        return spaces.flatten_space(self.boxes)

    def observations(self, graph: AtomGraph) -> Any:
        """A batch of structures, (n_graphs, 8 * n_max + 12), or 6 more where cells strain."""
        arrays = self.arrays(graph)
        return np.concatenate([arrays[key].reshape(graph.n_graphs, -1) for key in self.boxes], axis=1)

    def observation(self, graph: AtomGraph) -> Any:
        """The only structure of a batch of one."""
        return self.observations(graph)[0]


def places(graph: AtomGraph) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Structure and place in it of each atom, both (n_atoms,)."""
    structure, sizes = graph.graph_index.cpu().numpy(), graph.atoms_per_graph.cpu().numpy()
    first = np.cumsum(sizes) - sizes
    return structure, np.arange(graph.n_atoms) - first[structure]


def padded(values: Tensor, graph: AtomGraph, n_max: int) -> Float32Array:
    """Values of atoms (n_atoms, ...) by structure, (n_graphs, n_max, ...), with zeros where there is no atom."""
    rows = np.zeros((graph.n_graphs, n_max, *values.shape[1:]), dtype=np.float32)
    rows[places(graph)] = values.clamp(-LARGEST, LARGEST).cpu().numpy()
    return rows


def voigt(graph: AtomGraph) -> NDArray[np.float64]:
    """Stress (n_graphs, 6) in the order of ASE: xx, yy, zz, yz, xz, xy; eV/Å³."""
    assert graph.stress is not None, "set by the core where cells strain"
    return _numbers(graph.stress, np.float64)[:, *VOIGT]


def _check(action: NDArray[np.float64], expected: tuple[int, ...], shape: str) -> None:
    if action.shape != expected:
        raise ValueError(f"`action` must have shape {expected} ({shape}), got {action.shape}")
    check_finite(action)


def check_finite(action: NDArray[np.float64]) -> None:
    """Check that all numbers of an action are finite.

    Raises:
        ValueError: One is not.
    """
    if not np.isfinite(action).all():
        raise ValueError("`action` must be finite, got NaN or infinity; the policy has probably diverged")


def information(core: RelaxationEnv, result: StepResult | None, n_max: int) -> dict[str, NDArray[Any]]:
    """What is told beside observation and reward: for each key an array (n_envs, ...), always the same keys.

    Args:
        core: The environment.
        result: What its last step did; None after a reset.
        n_max: Atoms there is room for.
    """
    graph, n_envs = core.graph, core.n_envs
    nothing, zeros = torch.zeros_like(graph.positions), torch.zeros(n_envs)
    cell = core.config.cell is not None
    names = CELL_TERMS if cell else TERMS
    terms = {f"reward_{name}": _numbers(zeros if result is None else result.terms[name], np.float64) for name in names}
    none = np.zeros((n_envs, 6), dtype=np.float32)
    proposed, applied = (None, None) if result is None else (result.proposed_strain, result.applied_strain)
    strains = {
        "proposed_strain": none if proposed is None else _numbers(proposed, np.float32),
        "corrected_strain": none.copy() if applied is None else _numbers(applied, np.float32),
    }
    return {
        "proposed": padded(nothing if result is None else result.proposed, graph, n_max),
        "corrected": padded(nothing if result is None else result.applied, graph, n_max),
        "a_back": _numbers(zeros if result is None else result.a_back, np.float64),
        **terms,
        "force_evaluations": _numbers(core.evaluations, np.int64),
        "reason": np.array([""] * n_envs if result is None else result.reason, dtype=object),
        "is_success": _numbers(zeros if result is None else result.terminated, np.bool_),
        "energy": _numbers(zeros if graph.energy is None else graph.energy, np.float64),
        "fmax": _numbers(max_force(graph), np.float64),
        **(strains | {"stress": voigt(graph), "smax": _numbers(core.stress, np.float64)} if cell else {}),
        "structure": np.array([core.crystals[index].id for index in core.indices.tolist()], dtype=object),
    }


def of_one(info: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """The `information` of a batch of one, with Python's own numbers."""
    return {key: rows[0] if rows.ndim > 1 else rows.tolist()[0] for key, rows in info.items()}


def merged(done: NDArray[np.bool_], new: dict[str, NDArray[Any]], old: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """`new` in the rows that are done, `old` in the others."""
    return {key: np.where(_column(done, rows), new[key], rows) for key, rows in old.items()}


def with_masks(info: dict[str, NDArray[Any]], told: NDArray[np.bool_]) -> dict[str, Any]:
    """Information of a batch as vector environments give it: nothing where none is told, and a mask `_KEY` beside it.

    Args:
        info: Arrays (n_envs, ...).
        told: (n_envs,); of which environments there is information.
    """
    whole: dict[str, Any] = {}
    for key, rows in info.items():
        nothing: Any = None if rows.dtype == object else np.zeros((), rows.dtype)
        whole[key] = np.where(_column(told, rows), rows, nothing)
        whole[f"_{key}"] = told.copy()
    return whole


def _column(choice: NDArray[np.bool_], rows: NDArray[Any]) -> NDArray[np.bool_]:
    return choice.reshape(-1, *[1] * (rows.ndim - 1))


def _numbers(values: Tensor, dtype: type[np.generic]) -> NDArray[Any]:
    return values.detach().cpu().numpy().astype(dtype)
