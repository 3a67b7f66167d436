"""Late fusion: environment features enter after the geometry, as an invariant gate or in the critic's tail.

Where there are no features, neither module exists, and the model is the plain one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class EnvironmentGate(nn.Module):
    """A factor between 0 and 2 per structure, exactly 1 before training.

    Args:
        env_input_dim: Number of environment features.
        channels: Width of the hidden layer.
    """

    def __init__(self, env_input_dim: int, channels: int = 32) -> None:
        super().__init__()
        self.env_input_dim = env_input_dim
        self.hidden = nn.Linear(env_input_dim, channels)
        self.last = nn.Linear(channels, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, features: Tensor | None) -> Tensor:
        """Factors (n_graphs,) from environment features (n_graphs, env_input_dim)."""
        checked = checked_features(features, self.env_input_dim)
        hidden = nn.functional.silu(self.hidden(checked))
        return 2.0 * torch.sigmoid(self.last(hidden)).squeeze(-1)


class CriticTail(nn.Module):
    """A correction of a structure's value by its environment features, exactly 0 before training.

    Args:
        env_input_dim: Number of environment features.
        channels: Width of the hidden layer.
    """

    def __init__(self, env_input_dim: int, channels: int = 32) -> None:
        super().__init__()
        self.env_input_dim = env_input_dim
        self.hidden = nn.Linear(env_input_dim + 1, channels)
        self.last = nn.Linear(channels, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, value: Tensor, features: Tensor | None) -> Tensor:
        """What to add to values (n_graphs,), from them and environment features (n_graphs, env_input_dim)."""
        checked = checked_features(features, self.env_input_dim)
        hidden = nn.functional.silu(self.hidden(torch.cat([value.unsqueeze(-1), checked], dim=1)))
        correction: Tensor = self.last(hidden).squeeze(-1)
        return correction


def checked_features(features: Tensor | None, env_input_dim: int) -> Tensor:
    """The environment features (n_graphs, env_input_dim); `ValueError` if they are missing or of another number."""
    if features is None or features.shape[-1] != env_input_dim:
        got = "none" if features is None else f"features of shape {tuple(features.shape)}"
        raise ValueError(
            f"the network was built with env_input_dim={env_input_dim} and needs graph.features of shape "
            f"(n_graphs, {env_input_dim}), got {got}"
        )
    return features
