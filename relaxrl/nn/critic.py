"""Critics: from a graph and an action to the return that should follow."""

from __future__ import annotations

from torch import Tensor, nn

from relaxrl.graph import AtomGraph, scatter_mean
from relaxrl.neighbors import with_edges
from relaxrl.nn.config import CriticConfig
from relaxrl.nn.fusion import CriticTail
from relaxrl.nn.inputs import NetworkInputs, network_inputs
from relaxrl.nn.trunk import Trunk


class Critic(nn.Module):
    """One value per structure, the mean over its atoms, and a tail only where there are environment features.

    Args:
        config: Size.
    """

    tail: CriticTail | None

    def __init__(self, config: CriticConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(config.trunk, action=True)
        self.value = nn.Sequential(
            nn.LayerNorm(self.trunk.n_scalars) if config.trunk.layer_norm else nn.Identity(),
            nn.Linear(self.trunk.n_scalars, config.head_channels),
            nn.SiLU(),
            nn.Linear(config.head_channels, 1),
        )
        # Last, so that all other parameters start the same without it.
        self.tail = CriticTail(config.env_input_dim, config.head_channels) if config.env_input_dim else None

    def forward(self, graph: AtomGraph, displacement: Tensor) -> Tensor:
        """Values (n_graphs,) in the network's dtype.

        Args:
            graph: The structures, with forces.
            displacement: (n_atoms, 3), Å; gradients flow back into it.
        """
        pooled, correction, _ = self._values(graph, displacement)
        return pooled if correction is None else pooled + correction

    def per_atom(self, graph: AtomGraph, displacement: Tensor) -> Tensor:
        """Values (n_atoms,), whose mean over the atoms of a structure is `forward`'s value."""
        _, correction, values = self._values(graph, displacement)
        return values if correction is None else values + correction[graph.graph_index.to(values.device)]

    def _values(self, graph: AtomGraph, displacement: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Pooled values (n_graphs,), the tail's correction (n_graphs,) or None, and values per atom (n_atoms,)."""
        inputs = self._inputs(graph)
        if displacement.shape != inputs.forces.shape:
            raise ValueError(
                f"`displacement` must have shape (n_atoms={inputs.n_atoms}, 3), got {tuple(displacement.shape)}"
            )
        output = self.trunk(inputs, displacement.to(inputs.forces))
        values = self.value(output.node_features[:, : self.trunk.n_scalars]).squeeze(-1)
        pooled = scatter_mean(values, inputs.graph_index, inputs.n_graphs)
        return pooled, None if self.tail is None else self.tail(pooled, inputs.features), values

    def _inputs(self, graph: AtomGraph) -> NetworkInputs:
        parameter, config = next(self.parameters()), self.config.trunk
        return network_inputs(graph, config.cutoff, config.max_neighbors, parameter.dtype, parameter.device)


class TwinCritic(nn.Module):
    """Two critics of one size and different initial parameters.

    Args:
        config: Size of each.
    """

    def __init__(self, config: CriticConfig) -> None:
        super().__init__()
        self.config = config
        self.first = Critic(config)
        self.second = Critic(config)

    def forward(self, graph: AtomGraph, displacement: Tensor) -> tuple[Tensor, Tensor]:
        """Both critics' values, (n_graphs,) each; see `Critic.forward`."""
        graph = self._with_edges(graph)
        return self.first(graph, displacement), self.second(graph, displacement)

    def per_atom(self, graph: AtomGraph, displacement: Tensor) -> tuple[Tensor, Tensor]:
        """Both critics' values per atom, (n_atoms,) each."""
        graph = self._with_edges(graph)
        return self.first.per_atom(graph, displacement), self.second.per_atom(graph, displacement)

    def _with_edges(self, graph: AtomGraph) -> AtomGraph:
        if graph.edge_index is not None:
            return graph
        return with_edges(graph, self.config.trunk.cutoff, self.config.trunk.max_neighbors)
