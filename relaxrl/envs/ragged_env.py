"""`relaxrl/RelaxRagged-v0`: arrays as long as the structure has atoms, for policies that know graphs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from relaxrl.envs.config import EnvConfig
from relaxrl.envs.gym_env import RelaxEnv
from relaxrl.envs.types import Action
from relaxrl.envs.views import LARGEST, PaddedView, check_finite
from relaxrl.graph import AtomGraph


class AtomArray(spaces.Space[NDArray[np.float32]]):
    """Float32 arrays (n, ...) with any number n of atoms from 1 to `n_max`.

    Two spaces are equal if their bounds are: none of them knows which structure is there at the moment. So
    environments that run different structures can be put into one vector environment, and copies of the space in other
    processes stay valid. Samples have `n_max` rows. Gymnasium's `spaces.Graph` is no alternative: one `contains`,
    which `gymnasium.make` asks for at every step, takes tens of milliseconds.

    Args:
        n_max: Most atoms.
        item: Shape of what belongs to one atom.
        low: Least value.
        high: Largest value.
        seed: Of samples.
    """

    def __init__(self, n_max: int, item: Sequence[int], low: float, high: float, seed: int | None = None) -> None:
        self.n_max, self.item, self.low, self.high = n_max, tuple(item), low, high
        super().__init__(None, np.float32, seed)

    @property
    def is_np_flattenable(self) -> bool:
        """Whether it has a fixed length when flattened: no."""
        return False

    def sample(self, mask: None = None, probability: None = None) -> NDArray[np.float32]:
        """An array with `n_max` rows; there are no masks and no probabilities of numbers."""
        del mask, probability
        return self.np_random.uniform(self.low, self.high, (self.n_max, *self.item)).astype(np.float32)

    def contains(self, x: Any) -> bool:
        """Whether `x` is such an array."""
        if not isinstance(x, np.ndarray) or x.dtype != np.float32 or x.shape[1:] != self.item or x.ndim == 0:
            return False
        return 1 <= len(x) <= self.n_max and bool((x >= self.low).all() and (x <= self.high).all())

    def to_jsonable(self, sample_n: Iterable[NDArray[np.float32]]) -> list[Any]:
        """Arrays as nested lists."""
        return [sample.tolist() for sample in sample_n]

    def from_jsonable(self, sample_n: list[Any]) -> list[NDArray[np.float32]]:
        """Nested lists as arrays."""
        return [np.array(sample, dtype=np.float32) for sample in sample_n]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AtomArray) and self._bounds() == other._bounds()

    def __hash__(self) -> int:
        return hash(self._bounds())

    def __repr__(self) -> str:
        return f"AtomArray({self.n_max}, {self.item}, {self.low}, {self.high})"

    def _bounds(self) -> tuple[Any, ...]:
        return self.n_max, self.item, self.low, self.high


class RaggedView(PaddedView):
    """Structures without padding."""

    def __init__(self, n_max: int, cell: bool = False) -> None:
        super().__init__(n_max, cell)
        displacements = AtomArray(n_max, (3,), -1.0, 1.0)
        self.action_space = displacements
        if cell:
            strain = spaces.Box(-1.0, 1.0, (6,), np.float32)
            self.action_space = spaces.Dict({"displacements": displacements, "strain": strain})

    @property
    def observation_space(self) -> spaces.Space[Any]:
        """The space of one structure."""
        per_atom: dict[str, spaces.Space[Any]] = {
            "numbers": AtomArray(self.n_max, (), 0.0, 118.0),
            "positions": AtomArray(self.n_max, (3,), -LARGEST, LARGEST),
            "forces": AtomArray(self.n_max, (3,), -LARGEST, LARGEST),
        }
        return spaces.Dict(per_atom | {key: self.boxes[key] for key in self._whole})

    def observation(self, graph: AtomGraph) -> Any:
        """The only structure of a batch of one."""
        padded, n = super().observation(graph), graph.n_atoms
        whole = {key: padded[key] for key in self._whole}
        return {key: padded[key][:n] for key in ("numbers", "positions", "forces")} | whole

    @property
    def _whole(self) -> tuple[str, ...]:
        """What does not belong to single atoms."""
        return ("cell", "pbc", "stress") if self.cell else ("cell", "pbc")

    def action(self, action: Any, graph: AtomGraph, config: EnvConfig) -> Action:
        """What an action asks for.

        Args:
            action: As for `displacement`; where cells strain, a mapping of `displacements`, like that, and `strain`,
                (6,), in units of `config.cell.max_strain`.
            graph: The structure to be displaced.
            config: Options of the environment.

        Raises:
            ValueError: The action has another shape or is not finite.
        """
        if config.cell is None:
            return super().action(action, graph, config)
        if not isinstance(action, Mapping) or action.keys() != {"displacements", "strain"}:
            raise ValueError(
                "`action` must be a mapping of `displacements` (n_atoms, 3) and `strain` (6,), because cells strain, "
                f"got {sorted(action) if isinstance(action, Mapping) else type(action).__name__}"
            )
        strain = np.asarray(action["strain"], dtype=np.float64)
        if strain.shape != (6,):
            raise ValueError(f"`strain` of the action must have shape (6,), got {strain.shape}")
        check_finite(strain)
        displacements = self.displacement(action["displacements"], graph, config.max_step)
        return Action(displacements, torch.from_numpy(config.cell.max_strain * strain[None]))

    def displacement(self, action: ArrayLike, graph: AtomGraph, longest: float) -> Tensor:
        """What an action asks for, (n_atoms, 3), Å.

        Args:
            action: (n_atoms, 3) or with more rows, up to `n_max`, which have no effect; in units of `longest`.
            graph: The structure to be displaced.
            longest: Å; that of one step.

        Raises:
            ValueError: The action has another shape or is not finite.
        """
        numbers = np.asarray(action, dtype=np.float64)
        if numbers.ndim != 2 or numbers.shape[1] != 3 or not graph.n_atoms <= len(numbers) <= self.n_max:
            raise ValueError(
                f"`action` must have shape (n_atoms={graph.n_atoms}, 3), or more rows up to n_max={self.n_max}, "
                f"got {numbers.shape}"
            )
        check_finite(numbers)
        return torch.from_numpy(longest * numbers[: graph.n_atoms])


class RelaxRaggedEnv(RelaxEnv):
    """`RelaxEnv` without padding, for policies that know graphs.

    `relaxrl/RelaxRagged-v0`. Observations are a `Dict` of `numbers` (n,), `positions` (n, 3), `forces` (n, 3), `cell`
    (3, 3) and `pbc` (3,), float32, with the n atoms of the structure. Actions are (n, 3), in units of
    `config.max_step`; more rows, up to `n_max`, have no effect, so that a sample of the action space fits any
    structure. All else is that of `RelaxEnv`, arguments included; `info` has the fixed shapes of `n_max`. With
    `config.cell`, observations have `stress`, and actions are a `Dict` of `displacements` and `strain`, (6,).

    Vector environments of it give tuples of arrays instead of stacked ones, and processes can't share memory:
    `gymnasium.make_vec(..., vectorization_mode="async", vector_kwargs={"shared_memory": False})`.
    """

    view_type = RaggedView
