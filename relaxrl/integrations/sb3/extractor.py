"""Our e3nn trunk as a features extractor of Stable-Baselines3."""

from __future__ import annotations

from e3nn import o3
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor

from relaxrl.errors import ConfigError
from relaxrl.integrations.padded import graph_from_padded, padded_rows
from relaxrl.nn import Trunk, TrunkConfig
from relaxrl.nn.inputs import network_inputs

SMALL_TRUNK = TrunkConfig(layers=2, channels=8, message_channels=8, history=False)
"""Small enough for training on one core; observations of `Relax-v0` hold no history."""


class GraphExtractor(BaseFeaturesExtractor):
    """Features of atoms from message passing, for any algorithm: `features_extractor_class=GraphExtractor`.

    For each atom so many invariant scalars and equivariant vectors, in the order of the padded arrays. The networks
    that SB3 puts behind it are not equivariant; `GraphTD3Policy` and `GraphSACPolicy` are.

    Args:
        observation_space: That of `relaxrl/Relax-v0`.
        trunk: Size; without history.
        n_scalars: Scalars per atom.
        n_vectors: Vectors per atom.

    Raises:
        ConfigError: It is another space, or the trunk asks for history.
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        trunk: TrunkConfig = SMALL_TRUNK,
        n_scalars: int = 8,
        n_vectors: int = 4,
    ) -> None:
        self.n_max = room_for(observation_space)
        check_trunk(trunk)
        super().__init__(observation_space, self.n_max * (n_scalars + 3 * n_vectors))
        self.trunk = Trunk(trunk)
        self.read = o3.Linear(self.trunk.irreps, o3.Irreps(f"{n_scalars}x0e+{n_vectors}x1o"))

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Features (n_graphs, n_max * (n_scalars + 3 n_vectors)); zero where no atom is."""
        graph, places = graph_from_padded(observations)
        parameter, config = next(self.trunk.parameters()), self.trunk.config
        inputs = network_inputs(graph, config.cutoff, config.max_neighbors, parameter.dtype, parameter.device)
        features: Tensor = self.read(self.trunk(inputs).node_features)
        return padded_rows(features, places, graph.n_graphs, self.n_max)


def room_for(observation_space: spaces.Space[object]) -> int:
    """Atoms that a space of `relaxrl/Relax-v0` has room for.

    Raises:
        ConfigError: It is another space.
    """
    if not isinstance(observation_space, spaces.Dict) or "mask" not in observation_space.spaces:
        raise ConfigError(
            f"graph networks read the Dict observations of relaxrl/Relax-v0, got {type(observation_space).__name__}"
        )
    shape = observation_space["mask"].shape
    assert shape is not None, "a Box has one"
    return int(shape[0])


def check_trunk(trunk: TrunkConfig) -> None:
    """Refuse a trunk that would read what observations don't hold.

    Raises:
        ConfigError: It asks for history.
    """
    if trunk.history:
        raise ConfigError("`trunk.history` must be false: observations of relaxrl/Relax-v0 hold no history")
