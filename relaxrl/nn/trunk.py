"""The geometric trunk: from a graph (and, for critics, an action) to equivariant features of its atoms."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from e3nn import o3
from torch import Tensor, nn

from relaxrl.nn.config import TrunkConfig
from relaxrl.nn.convolution import Convolution, natural_irreps
from relaxrl.nn.edges import EdgeEmbedding, Edges
from relaxrl.nn.elements import ElementEmbedding
from relaxrl.nn.embedding import VectorEmbedding, unit_vectors
from relaxrl.nn.inputs import NetworkInputs


@dataclass(frozen=True)
class TrunkOutput:
    """What a trunk knows of a batch.

    Attributes:
        node_features: (n_atoms, irreps.dim), after the last layer.
        layer_features: The same after the input embedding and after each layer; layers + 1 tensors.
        edges: Edge features, shared by all layers.
        units: (n_atoms, n_vectors, 3), directions of the input vectors: force, then last displacement and change of the
            force (with history), then the action (critics).
    """

    node_features: Tensor
    layer_features: list[Tensor]
    edges: Edges
    units: Tensor


class Layer(nn.Module):
    """One round of messages from neighbours, then one of products among an atom's own features.

    Args:
        config: Size of the trunk.
        irreps: Irreps of the node features.
    """

    def __init__(self, config: TrunkConfig, irreps: o3.Irreps) -> None:
        super().__init__()
        self.n_scalars = irreps[0].mul
        self.channels = config.channels
        self.lmax = config.lmax
        sent = natural_irreps(config.message_channels, config.lmax)
        self.send = o3.Linear(irreps, sent)
        self.convolution = Convolution(sent, irreps, config.lmax, config.radial_functions)
        # Both factors of the products at once: each linear layer has its overhead.
        self.factors = o3.Linear(irreps, natural_irreps(2 * config.channels, config.lmax, lmin=1))
        n_gates = config.channels * config.lmax
        n_invariants = self.n_scalars + n_gates
        self.network = nn.Sequential(
            nn.LayerNorm(n_invariants) if config.layer_norm else nn.Identity(),
            nn.Linear(n_invariants, self.n_scalars),
            nn.SiLU(),
            nn.Linear(self.n_scalars, self.n_scalars + n_gates),
        )

    def forward(self, features: Tensor, edges: Edges) -> Tensor:
        """New features (n_atoms, irreps.dim) from features of the same shape."""
        features = features + self.convolution(self.send(features), edges)
        pairs = self._pairs(self.factors(features))
        # The mean over components keeps invariants of order 1 for every l.
        products = [(left * right).mean(-1) for left, right in pairs]
        update: Tensor = self.network(torch.cat([features[:, : self.n_scalars], *products], dim=1))
        changes, *gates = torch.split(update, [self.n_scalars, *[self.channels] * self.lmax], dim=1)
        gated = [(right * gate.unsqueeze(-1)).flatten(1) for (_, right), gate in zip(pairs, gates, strict=True)]
        return features + torch.cat([changes, *gated], dim=1)

    def _pairs(self, factors: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Both factors, (n_atoms, channels, 2l + 1) each, of each l >= 1."""
        pairs, first = [], 0
        for degree in range(1, self.lmax + 1):
            last = first + 2 * self.channels * (2 * degree + 1)
            block = factors[:, first:last].view(len(factors), 2 * self.channels, -1)
            pairs.append((block[:, : self.channels], block[:, self.channels :]))
            first = last
        return pairs


class Trunk(nn.Module):
    """Message passing over a graph; knows forces and history, and never the environment features.

    Args:
        config: Size.
        action: Whether a displacement is an input (critics).
    """

    def __init__(self, config: TrunkConfig, action: bool = False) -> None:
        super().__init__()
        self.config = config
        self.action = action
        self.n_scalars = 2 * config.channels
        tensors = natural_irreps(config.channels, config.lmax, lmin=1)
        self.irreps = o3.Irreps([(self.n_scalars, (0, 1)), *tensors])
        n_vectors = config.forces + 2 * config.history + action
        self.elements = ElementEmbedding(config.channels, config.learned_elements)
        self.n_vectors = n_vectors
        self.vectors = VectorEmbedding(n_vectors)
        n_inputs = config.channels + self.vectors.dim + 2 * action
        self.scalars = nn.Sequential(
            nn.Linear(n_inputs, self.n_scalars), nn.SiLU(), nn.Linear(self.n_scalars, self.n_scalars + config.channels)
        )
        self.directions = o3.Linear(o3.Irreps([(n_vectors, (1, -1))]), o3.Irreps([(config.channels, (1, -1))]))
        self.edges = EdgeEmbedding(config, config.channels, action)
        self.layers = nn.ModuleList(Layer(config, self.irreps) for _ in range(config.layers))

    def forward(self, inputs: NetworkInputs, displacement: Tensor | None = None) -> TrunkOutput:
        """Features of all atoms.

        Args:
            inputs: The structures.
            displacement: (n_atoms, 3), Å; the action, if and only if this trunk takes one.

        Raises:
            ValueError: A displacement is missing or not wanted.
        """
        if (displacement is not None) != self.action:
            raise ValueError(f"this trunk {'needs' if self.action else 'takes no'} displacement")
        elements = self.elements(inputs.atomic_numbers)
        edges = self.edges(inputs, elements, displacement)
        vectors = self._vectors(inputs, displacement)
        units = unit_vectors(vectors)
        known = [elements, self.vectors(vectors, units)]
        if displacement is not None:
            known.append(_work(inputs.forces, displacement))
        invariants: Tensor = self.scalars(torch.cat(known, dim=1))
        scalars, gates = invariants[:, : self.n_scalars], invariants[:, self.n_scalars :]
        directions = self.directions(units.flatten(1)).view(len(units), -1, 3) * gates.unsqueeze(-1)
        higher = scalars.new_zeros(len(scalars), self.irreps.dim - self.n_scalars - 3 * self.config.channels)
        features = torch.cat([scalars, directions.flatten(1), higher], dim=1)
        layer_features = [features]
        for layer in self.layers:
            features = layer(features, edges)
            layer_features.append(features)
        return TrunkOutput(features, layer_features, edges, units)

    def _vectors(self, inputs: NetworkInputs, displacement: Tensor | None) -> Tensor:
        vectors = [inputs.forces] if self.config.forces else []
        if self.config.history:
            vectors += [inputs.previous_displacement, inputs.force_change]
        if displacement is not None:
            vectors.append(displacement)
        return torch.stack(vectors, dim=1) if vectors else inputs.forces.new_zeros(inputs.n_atoms, 0, 3)


def _work(forces: Tensor, displacement: Tensor) -> Tensor:
    """What an action should gain, to first order, and what its curvature costs, on scales that span decades: (n, 2)."""
    work = (forces * displacement).sum(-1)
    curvature = displacement.square().sum(-1)
    return torch.asinh(torch.stack([work, curvature], dim=1) / 1e-3)
