"""Replay: the last transitions in flat ragged arrays, sampled uniformly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from relaxrl.agents.transition import Transition, ragged_rows
from relaxrl.typing import FloatArray, IntArray, StateDict

TRANSITIONS_PER_ATOM = 500
SMALLEST_CAPACITY, LARGEST_CAPACITY = 1_000, 50_000


def default_capacity(n_atoms: float) -> int:
    """How many transitions to keep for structures of this size: 500 per atom, between 1,000 and 50,000.

    Transitions of a policy that has moved on give wrong Bellman targets, so a buffer must not outlive its policy.
    Structures of 4 atoms get 2,000 (they need 1,000 to 5,000, not the customary 100,000+); larger ones have more
    degrees of freedom to cover and longer episodes, so a buffer of the same number of episodes is larger.

    Args:
        n_atoms: Atoms of a typical structure of the training set, for example the mean.

    Examples:
        >>> [default_capacity(n) for n in (1, 4, 8, 32, 108)]
        [1000, 2000, 4000, 16000, 50000]
    """
    if not n_atoms >= 1:
        raise ValueError(f"`n_atoms` must be at least 1, got {n_atoms}")
    return int(min(max(TRANSITIONS_PER_ATOM * n_atoms, SMALLEST_CAPACITY), LARGEST_CAPACITY))


@dataclass(frozen=True)
class Sample:
    """Transitions drawn from a buffer.

    Attributes:
        transition: The transitions.
        indices: (n,), int64; their places in the buffer, to report TD errors back.
        weights: (n,), float64; importance weights of the losses, 1 where sampling was uniform.
    """

    transition: Transition
    indices: IntArray
    weights: FloatArray

    def __len__(self) -> int:
        return len(self.indices)


class ReplayBuffer:
    """A ring of transitions: when full, the oldest are overwritten.

    Structures of all sizes lie behind each other in one array per field (padding or lists of graphs cost several times
    as much per batch). Rows of atoms form a ring of their own, which grows when larger structures come in. Edges are
    not stored: they cost ten times the memory of all the rest.

    Args:
        capacity: Transitions kept; see `default_capacity`.

    Raises:
        ValueError: `capacity` is less than 1.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"`capacity` must be at least 1, got {capacity}")
        self.capacity = capacity
        self._next = 0  # place of the next transition
        self._length = 0
        self._sizes = torch.zeros(capacity, dtype=torch.int64)  # atoms of the transition at each place
        self._starts = torch.zeros(capacity, dtype=torch.int64)  # its first row of atoms, modulo the rows
        self._atoms: dict[str, Tensor] = {}
        self._graphs: dict[str, Tensor] = {}
        self._rows = 0  # rows of atoms allocated
        self._first_row = 0  # row of the oldest transition's first atom
        self._used_rows = 0

    def __len__(self) -> int:
        return self._length

    def add(self, transition: Transition) -> IntArray:
        """Store a batch of transitions; of more than `capacity` the last ones.

        Returns:
            (n,), int64; their places.

        Raises:
            ValueError: The batch lacks or has a field that those stored before had or lacked.
        """
        if len(transition) > self.capacity:
            transition = transition.select(range(len(transition) - self.capacity, len(transition)))
        count = len(transition)
        sizes = transition.graph.atoms_per_graph.cpu()
        atoms, graphs = transition.to("cpu").flatten()
        self._check_fields(atoms, graphs)
        self._evict(self._length + count - self.capacity)
        self._reserve(int(sizes.sum()))
        places = (self._next + torch.arange(count)) % self.capacity
        starts = (self._first_row + self._used_rows + sizes.cumsum(0) - sizes) % max(self._rows, 1)
        rows = ragged_rows(starts, sizes) % max(self._rows, 1)
        for name, value in atoms.items():
            self._atoms[name][rows] = value.detach()
        for name, value in graphs.items():
            self._graphs[name][places] = value.detach()
        self._sizes[places], self._starts[places] = sizes, starts
        self._used_rows += int(sizes.sum())
        self._length += count
        self._next = (self._next + count) % self.capacity
        return places.numpy()

    def sample(self, batch_size: int, generator: np.random.Generator, t: int = 0) -> Sample:
        """Draw transitions with replacement, each with the same probability.

        Args:
            batch_size: How many.
            generator: Source of randomness.
            t: Environment steps so far; for replays whose sampling follows a schedule.

        Raises:
            ValueError: The buffer is empty.
        """
        del t
        self._check_not_empty()
        indices = generator.integers(self._length, size=batch_size)
        return Sample(self.get(indices), indices, np.ones(batch_size))

    def get(self, indices: IntArray) -> Transition:
        """The transitions at these places."""
        places = torch.from_numpy(np.asarray(indices, dtype=np.int64))
        sizes = self._sizes[places]
        rows = ragged_rows(self._starts[places], sizes) % max(self._rows, 1)
        atoms = {name: value[rows] for name, value in self._atoms.items()}
        return Transition.unflatten(atoms, {name: value[places] for name, value in self._graphs.items()}, sizes)

    def update_priorities(self, indices: IntArray, td_errors: FloatArray) -> None:
        """Take note of the TD errors of sampled transitions; uniform sampling has no use for them."""

    def state_dict(self) -> StateDict:
        """All transitions and counters."""
        return {
            "capacity": self.capacity,
            "next": self._next,
            "length": self._length,
            "rows": self._rows,
            "first_row": self._first_row,
            "used_rows": self._used_rows,
            "sizes": self._sizes.clone(),
            "starts": self._starts.clone(),
            "atoms": {name: value.clone() for name, value in self._atoms.items()},
            "graphs": {name: value.clone() for name, value in self._graphs.items()},
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a state made by `state_dict`.

        Raises:
            ValueError: The state is of a buffer of another capacity.
        """
        if state["capacity"] != self.capacity:
            raise ValueError(f"expected the state of a buffer of capacity {self.capacity}, got {state['capacity']}")
        self._next, self._length = state["next"], state["length"]
        self._rows, self._first_row, self._used_rows = state["rows"], state["first_row"], state["used_rows"]
        self._sizes, self._starts = state["sizes"].clone(), state["starts"].clone()
        self._atoms = {name: value.clone() for name, value in state["atoms"].items()}
        self._graphs = {name: value.clone() for name, value in state["graphs"].items()}

    def _check_not_empty(self) -> None:
        if not self._length:
            raise ValueError("can't sample from an empty buffer; add transitions first")

    def _check_fields(self, atoms: dict[str, Tensor], graphs: dict[str, Tensor]) -> None:
        if not self._graphs:
            self._atoms = {name: value.new_zeros((0, *value.shape[1:])) for name, value in atoms.items()}
            self._graphs = {name: value.new_zeros((self.capacity, *value.shape[1:])) for name, value in graphs.items()}
        differing = (self._atoms.keys() ^ atoms.keys()) | (self._graphs.keys() ^ graphs.keys())
        if differing:
            raise ValueError(f"transitions of one buffer must have the same fields, these differ: {sorted(differing)}")

    def _evict(self, count: int) -> None:
        """Forget the oldest `count` transitions."""
        if count <= 0:
            return
        oldest = (self._next - self._length + torch.arange(count)) % self.capacity
        freed = int(self._sizes[oldest].sum())
        self._first_row = (self._first_row + freed) % max(self._rows, 1)
        self._used_rows -= freed
        self._length -= count

    def _reserve(self, count: int) -> None:
        """Make room for `count` more rows of atoms: twice the need, so that growing is rare."""
        if self._used_rows + count <= self._rows:
            return
        rows = 2 * (self._used_rows + count)
        order = (self._first_row + torch.arange(self._used_rows)) % max(self._rows, 1)
        for name, old in self._atoms.items():
            grown = old.new_zeros((rows, *old.shape[1:]))
            grown[: self._used_rows] = old[order]
            self._atoms[name] = grown
        self._starts = (self._starts - self._first_row) % max(self._rows, 1)
        self._rows, self._first_row = rows, 0
