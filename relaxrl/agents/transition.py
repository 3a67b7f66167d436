"""`Transition`: a batch of steps, what replay stores and TD3 learns from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from relaxrl.graph import AtomGraph

GRAPH_ATOM_FIELDS = ("positions", "forces", "previous_displacement", "previous_forces")
GRAPH_FIELDS = ("cell", "pbc", "energy", "features")
ATOM_FIELDS = ("proposed", "applied", "atom_reward")
FIELDS = ("reward", "terminated", "steps")


@dataclass(frozen=True)
class Transition:
    """A batch of transitions, one per structure; edges are not kept.

    Attributes:
        graph: The structures before the step, with forces and history.
        proposed: (n_atoms, 3), Å; the displacement the policy asked for, noise included.
        applied: (n_atoms, 3), Å; what happened after the environment's correction.
        reward: (n_graphs,); with n-step returns the discounted sum over `steps` steps.
        atom_reward: (n_atoms,); the same per atom.
        next_graph: The structures after the step (the last of `steps`), before any reset.
        terminated: (n_graphs,), bool; the episode ended by success. A truncated one is not terminated: it bootstraps.
        steps: (n_graphs,), int64; environment steps between `graph` and `next_graph`; 1 unless n-step returns are used.

    Raises:
        ValueError: A shape is not as above.
    """

    graph: AtomGraph
    proposed: Tensor
    applied: Tensor
    reward: Tensor
    atom_reward: Tensor
    next_graph: AtomGraph
    terminated: Tensor
    steps: Tensor

    def __post_init__(self) -> None:
        n_atoms, n_graphs = self.graph.n_atoms, self.graph.n_graphs
        if not torch.equal(self.graph.graph_index, self.next_graph.graph_index):
            raise ValueError("`next_graph` must hold the same structures as `graph`, atom by atom")
        shapes: dict[str, tuple[int, ...]] = {
            "proposed": (n_atoms, 3),
            "applied": (n_atoms, 3),
            "atom_reward": (n_atoms,),
            "reward": (n_graphs,),
            "terminated": (n_graphs,),
            "steps": (n_graphs,),
        }
        for name, shape in shapes.items():
            if (got := tuple(getattr(self, name).shape)) != shape:
                raise ValueError(
                    f"`{name}` must have shape {shape} (n_atoms={n_atoms}, n_graphs={n_graphs}), got {got}"
                )

    @staticmethod
    def of_step(
        graph: AtomGraph,
        proposed: Tensor,
        applied: Tensor,
        reward: Tensor,
        atom_reward: Tensor,
        next_graph: AtomGraph,
        terminated: Tensor,
    ) -> Transition:
        """Transitions of one environment step each."""
        steps = torch.ones(graph.n_graphs, dtype=torch.int64)
        return Transition(
            graph.without_edges(),
            proposed.detach(),
            applied.detach(),
            reward,
            atom_reward,
            next_graph.without_edges(),
            terminated,
            steps,
        )

    def __len__(self) -> int:
        return self.graph.n_graphs

    def to(self, device: torch.device | str) -> Transition:
        """A copy on `device`; types are kept."""
        values = {field.name: getattr(self, field.name).to(device) for field in dataclasses.fields(self)}
        return Transition(**values)

    def replace_graphs(self, graph: AtomGraph, next_graph: AtomGraph) -> Transition:
        """A copy with other graphs of the same structures, for example with edges."""
        return dataclasses.replace(self, graph=graph, next_graph=next_graph)

    def select(self, indices: Sequence[int] | Tensor) -> Transition:
        """The transitions of these structures, in this order; repetitions are allowed."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        atom_fields, graph_fields = self.flatten()
        starts, sizes = self.graph.ptr[:-1][chosen], self.graph.atoms_per_graph[chosen]
        rows = ragged_rows(starts, sizes)
        atoms = {name: value[rows] for name, value in atom_fields.items()}
        return Transition.unflatten(atoms, {name: value[chosen] for name, value in graph_fields.items()}, sizes)

    @staticmethod
    def cat(parts: Sequence[Transition]) -> Transition:
        """Several batches as one, in order."""
        columns = {name: torch.cat([getattr(part, name) for part in parts]) for name in (*ATOM_FIELDS, *FIELDS)}
        return Transition(
            graph=AtomGraph.batch([part.graph for part in parts]),
            next_graph=AtomGraph.batch([part.next_graph for part in parts]),
            **columns,
        )

    def flatten(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """All tensors by name: those with one row per atom, and those with one row per structure."""
        atoms = {name: getattr(self, name) for name in ATOM_FIELDS}
        atoms["atomic_numbers"] = self.graph.atomic_numbers
        graphs = {name: getattr(self, name) for name in FIELDS}
        for prefix, graph in (("graph", self.graph), ("next_graph", self.next_graph)):
            for fields, names in ((atoms, GRAPH_ATOM_FIELDS), (graphs, GRAPH_FIELDS)):
                found = {f"{prefix}.{name}": value for name in names if (value := getattr(graph, name)) is not None}
                fields.update(found)
        return atoms, graphs

    @staticmethod
    def unflatten(atoms: Mapping[str, Tensor], graphs: Mapping[str, Tensor], sizes: Tensor) -> Transition:
        """The inverse of `flatten`.

        Args:
            atoms: Tensors with one row per atom.
            graphs: Tensors with one row per structure.
            sizes: (n_graphs,), int64; atoms of each structure.
        """
        graph_index = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        halves = {}
        for prefix in ("graph", "next_graph"):
            found = {
                name.removeprefix(f"{prefix}."): value
                for fields in (atoms, graphs)
                for name, value in fields.items()
                if name.startswith(f"{prefix}.")
            }
            halves[prefix] = AtomGraph(**found, atomic_numbers=atoms["atomic_numbers"], graph_index=graph_index)
        columns = {name: fields[name] for fields, names in ((atoms, ATOM_FIELDS), (graphs, FIELDS)) for name in names}
        return Transition(graph=halves["graph"], next_graph=halves["next_graph"], **columns)


def ragged_rows(starts: Tensor, sizes: Tensor) -> Tensor:
    """Row numbers of several runs of rows, one run after the other.

    Args:
        starts: (n,), int64; the first row of each run.
        sizes: (n,), int64; the length of each run.

    Returns:
        (sum of sizes,), int64.

    Examples:
        >>> ragged_rows(torch.tensor([10, 0]), torch.tensor([2, 3])).tolist()
        [10, 11, 0, 1, 2]
    """
    offsets = torch.arange(int(sizes.sum())) - torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    return torch.repeat_interleave(starts, sizes) + offsets
