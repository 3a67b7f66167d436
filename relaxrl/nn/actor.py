"""Actors: from a graph to one displacement per atom."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod

import torch
from e3nn import o3
from torch import Tensor, nn

from relaxrl.graph import AtomGraph, scatter_sum
from relaxrl.nn.config import DirectActorConfig, PolicyHeadsConfig
from relaxrl.nn.edges import Edges
from relaxrl.nn.embedding import smooth_norm
from relaxrl.nn.fusion import EnvironmentGate
from relaxrl.nn.heads import Decisions, PolicyHeads, within_trust_radius
from relaxrl.nn.inputs import NetworkInputs, network_inputs
from relaxrl.nn.memory import keep_freed_memory
from relaxrl.nn.trunk import Trunk, TrunkOutput

ALL = slice(None)
"""All layers of a trunk, what it makes of the input included."""


class Actor(nn.Module, ABC):
    """What every actor is: `raw_displacement`, times the gate, limited in length and to the trust radius.

    Gate and trust radius are outputs of the policy heads where the configuration asks for them; otherwise the gate
    depends on the environment features alone, or is 1, and there is no trust radius below `max_step`.

    Args:
        cutoff: Å, of the edges.
        max_neighbors: Nearest neighbours kept per atom; None keeps all.
        env_input_dim: Number of environment features; 0 means no gate.
        max_step: Å, limit of one atom's displacement.
    """

    trunk: Trunk
    environment_gate: EnvironmentGate | None
    policy_heads: PolicyHeads | None

    def __init__(self, cutoff: float, max_neighbors: int | None, env_input_dim: int, max_step: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.max_neighbors = max_neighbors
        self.env_input_dim = env_input_dim
        self.max_step = max_step
        keep_freed_memory()

    def add_heads(self, config: PolicyHeadsConfig | None) -> None:
        """Make gate or policy heads; last in a constructor, so that other parameters start the same without them."""
        dim, n_scalars = self.env_input_dim, self.trunk.n_scalars
        self.environment_gate = EnvironmentGate(dim) if dim and config is None else None
        self.policy_heads = None if config is None else PolicyHeads(config, n_scalars, dim, self.max_step)

    @abstractmethod
    def raw_displacement(self, inputs: NetworkInputs, output: TrunkOutput) -> Tensor:
        """Equivariant displacements (n_atoms, 3), Å, before gate and limit; 0 where forces vanish.

        Args:
            inputs: The structures.
            output: What the trunk knows of them.
        """

    def forward(self, graph: AtomGraph) -> Tensor:
        """Displacements (n_atoms, 3), Å, in the dtype of the graph's positions and on their device.

        Args:
            graph: The structures with forces, and history and environment features where the actor uses them. Edges
                are made if there are none; those given must reach to `cutoff`.

        Raises:
            ValueError: Forces or environment features are missing.
        """
        inputs, output, step = self.proposal(graph)
        return self.decide(step, output, inputs).to(graph.positions)

    def proposal(self, graph: AtomGraph) -> tuple[NetworkInputs, TrunkOutput, Tensor]:
        """What the networks read, what the trunk makes of it, and the raw displacement (n_atoms, 3), Å."""
        inputs = self._inputs(graph)
        output = self.trunk(inputs)
        return inputs, output, self.raw_displacement(inputs, output)

    def layer_displacements(self, graph: AtomGraph) -> Tensor:
        """The action that the head reads off before and after each layer, (layers + 1, n_atoms, 3), Å, without gate."""
        inputs = self._inputs(graph)
        return self.read_outs(inputs, self.trunk(inputs)).to(graph.positions)

    def read_outs(self, inputs: NetworkInputs, output: TrunkOutput, layers: slice = ALL) -> Tensor:
        """Actions that the head reads off some of `output.layer_features`, (n, n_atoms, 3), Å, limited, without gate.

        Only the last one is trained to be right; those before know less of the surroundings.
        """
        steps = [
            self.raw_displacement(inputs, dataclasses.replace(output, node_features=features))
            for features in output.layer_features[layers]
        ]
        return limited(torch.stack(steps), self.max_step)

    def decide(self, step: Tensor, output: TrunkOutput, inputs: NetworkInputs) -> Tensor:
        """A raw displacement (n_atoms, 3), Å, gated, limited, and scaled into the trust radius."""
        if self.policy_heads is None:
            if self.environment_gate is not None:
                step = step * self.environment_gate(inputs.features).to(step)[inputs.graph_index].unsqueeze(-1)
            return limited(step, self.max_step)
        decisions = self.policy_heads(output.node_features[:, : self.trunk.n_scalars], step, inputs)
        return self.decided(step, decisions, inputs.graph_index)

    def step_gate(self, step: Tensor, output: TrunkOutput, inputs: NetworkInputs) -> Tensor | None:
        """The factor on each structure's step, (n_graphs,); None for 1. Arguments as for `decide`."""
        if self.policy_heads is not None:
            made: Decisions = self.policy_heads(output.node_features[:, : self.trunk.n_scalars], step, inputs)
            return made.gate
        return None if self.environment_gate is None else self.environment_gate(inputs.features)

    def decided(self, step: Tensor, decisions: Decisions, graph_index: Tensor) -> Tensor:
        """A raw displacement (n_atoms, 3), Å, after these decisions."""
        step = step * decisions.gate.to(step)[graph_index].unsqueeze(-1)
        radius = decisions.trust_radius.to(step)
        return within_trust_radius(
            step, limited(step, self.max_step), radius, self.max_step, graph_index, len(decisions.gate)
        )

    def decisions(self, graph: AtomGraph) -> Decisions:
        """Gate and trust radius of each structure: 1 and `max_step` where nothing decides."""
        if self.policy_heads is not None:
            inputs, output, step = self.proposal(graph)
            made: Decisions = self.policy_heads(output.node_features[:, : self.trunk.n_scalars], step, inputs)
            return Decisions(made.gate.to(graph.positions), made.trust_radius.to(graph.positions))
        gate = ones = graph.positions.new_ones(graph.n_graphs)
        if self.environment_gate is not None:
            parameter = next(self.parameters())
            features = None if graph.features is None else graph.features.to(parameter)
            gate = self.environment_gate(features).to(graph.positions)
        return Decisions(gate, self.max_step * ones)

    def gate(self, graph: AtomGraph) -> Tensor:
        """The factor that is put on each structure's action, (n_graphs,): 1 where there is none."""
        return self.decisions(graph).gate

    def _inputs(self, graph: AtomGraph) -> NetworkInputs:
        parameter = next(self.parameters())
        return network_inputs(graph, self.cutoff, self.max_neighbors, parameter.dtype, parameter.device)


class DirectActor(Actor):
    r"""One vector per atom, straight from the trunk.

    $$ d_i = F_i / k_i + s_i / k_0 \, (n_i + c_i \hat d_{prev} + c'_i \hat{\Delta F}) $$

    with a learned stiffness k_i (k_0 before training), the trunk's vector n_i (small before training), unit vectors of
    the history with learned invariant factors c_i (0 before training), and a scale s_i in eV/Å that follows the forces
    on the atom and its neighbours. So an untrained actor is a steepest descent, and no forces give no action.
    """

    def __init__(self, config: DirectActorConfig) -> None:
        super().__init__(config.trunk.cutoff, config.trunk.max_neighbors, config.env_input_dim, config.max_step)
        self.config = config
        self.trunk = Trunk(config.trunk)
        self.history = config.trunk.history
        self.invariants = nn.Sequential(
            nn.LayerNorm(self.trunk.n_scalars) if config.trunk.layer_norm else nn.Identity(),
            nn.Linear(self.trunk.n_scalars, config.head_channels),
            nn.SiLU(),
            last := nn.Linear(config.head_channels, 2 + 2 * self.history),
        )
        self.vector = o3.Linear(self.trunk.irreps, o3.Irreps("1x1o"))
        with torch.no_grad():
            last.weight.zero_()
            last.bias.zero_()
            # Not zero: the trunk would get no gradient in the first updates.
            self.vector.weight.mul_(0.01)
        self.add_heads(config.policy_heads)

    def raw_displacement(self, inputs: NetworkInputs, output: TrunkOutput) -> Tensor:
        """See the class."""
        return self.head(output.node_features, output.units, output.edges, inputs)

    def head(self, features: Tensor, units: Tensor, edges: Edges, inputs: NetworkInputs) -> Tensor:
        """Displacements (n_atoms, 3), Å, from node features (n_atoms, irreps.dim)."""
        invariants = self.invariants(features[:, : self.trunk.n_scalars])
        # |log(k_i / k_0)| < 3: a factor of 20 either way.
        softness = torch.exp(3.0 * torch.tanh(invariants[:, :1] / 3.0))
        directions = self.vector(features) * torch.exp(3.0 * torch.tanh(invariants[:, 1:2] / 3.0))
        if self.history:
            directions = directions + (invariants[:, 2:].unsqueeze(-1) * units[:, 1:3]).sum(1)
        scale = force_scale(inputs, edges).unsqueeze(-1)
        displacement: Tensor = (softness * inputs.forces + scale * directions) / self.config.stiffness
        return displacement


def force_scale(inputs: NetworkInputs, edges: Edges) -> Tensor:
    """Root mean square of the forces on each atom and its neighbours, weighted by the envelope, (n_atoms,), eV/Å.

    An atom whose own force vanishes still moves when its neighbours have to.
    """
    centre, neighbour = edges.index
    squared = inputs.forces.square().sum(-1)
    weights = 1.0 + scatter_sum(edges.envelope, centre, inputs.n_atoms)
    around = scatter_sum(edges.envelope * squared[neighbour], centre, inputs.n_atoms)
    return smooth_norm((squared + around) / weights)


def limited(displacement: Tensor, max_step: float) -> Tensor:
    """Displacements (..., 3) shortened smoothly so that no atom moves farther than `max_step`.

    $d / (1 + (|d| / d_{max})^4)^{1/4}$: 1.5 % shorter at half the limit. Radial, as a limit per component would not
    rotate with the crystal.
    """
    ratio = displacement.square().sum(-1, keepdim=True) / max_step**2
    return displacement * (1.0 + ratio.square()).pow(-0.25)
