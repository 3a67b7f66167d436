"""Equivariant policies for TD3 and SAC of Stable-Baselines3: our actors and critics behind its interface."""

from __future__ import annotations

import math
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel, BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor, nn

from relaxrl.errors import ConfigError
from relaxrl.graph import scatter_sum
from relaxrl.integrations.padded import graph_from_padded, padded_rows, rows_of_atoms
from relaxrl.integrations.sb3.extractor import SMALL_TRUNK, check_trunk, room_for
from relaxrl.nn import ActorConfig, CriticConfig, DirectActorConfig, TwinCritic, build_actor

ACTOR = DirectActorConfig(trunk=SMALL_TRUNK)
CRITIC = CriticConfig(trunk=SMALL_TRUNK)
LOG_STD = (-6.0, 0.0)
"""Of the Gaussian's width, in units of `max_step`: between a thousandth and all of it."""


class GraphActor(BasePolicy):
    """An actor of this package: observations to actions.

    Args:
        observation_space: That of `relaxrl/Relax-v0`.
        action_space: Its actions.
        config: Size; `max_step` must be that of the environment.
    """

    def __init__(
        self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], config: ActorConfig
    ) -> None:
        super().__init__(observation_space, action_space, squash_output=True)
        self.n_max = room_for(observation_space)
        self.max_step = config.max_step
        self.network = build_actor(config)

    def forward(self, observations: dict[str, Tensor], deterministic: bool = False) -> Tensor:  # noqa: ARG002 - the library's
        """Actions (n_graphs, 3 * n_max)."""
        graph, places = graph_from_padded(observations)
        return padded_rows(self.network(graph) / self.max_step, places, graph.n_graphs, self.n_max)

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        return self.forward(observation, deterministic)


class GraphGaussianActor(GraphActor):
    """The same actor with noise of a learned width, isotropic for each atom, before its displacement is limited.

    SB3's tanh per component would not rotate with the crystal. Here u = mean + std * noise of each atom is
    shortened along its own direction, a = u (1 + |u|⁴)^(-1/4), in units of `max_step`: the limit of our actors, so
    that the action without noise is the actor's own. Its Jacobian has the determinant (1 + |u|⁴)^(-7/4).

    Args:
        observation_space: That of `relaxrl/Relax-v0`.
        action_space: Its actions.
        config: Size.
        initial_std: Width before training, in units of `max_step`.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        config: DirectActorConfig,
        initial_std: float,
    ) -> None:
        super().__init__(observation_space, action_space, config)
        self.log_std = nn.Linear(self.network.trunk.n_scalars, 1)
        with torch.no_grad():
            self.log_std.weight.zero_()
            self.log_std.bias.fill_(math.log(initial_std))

    def forward(self, observations: dict[str, Tensor], deterministic: bool = False) -> Tensor:
        """Actions (n_graphs, 3 * n_max), drawn or the most usual."""
        return super().forward(observations) if deterministic else self.action_log_prob(observations)[0]

    def action_log_prob(self, observations: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Actions (n_graphs, 3 * n_max) drawn at random, and the logarithms of their densities (n_graphs,)."""
        graph, places = graph_from_padded(observations)
        _, output, step = self.network.proposal(graph)
        scalars = output.node_features[:, : self.network.trunk.n_scalars]
        log_std = self.log_std(scalars).clamp(*LOG_STD)
        noise = torch.randn_like(step)
        raw = step / self.max_step + log_std.exp() * noise
        widening = torch.log1p(raw.square().sum(-1).square())  # log(1 + |u|⁴)
        action = raw * torch.exp(-0.25 * widening).unsqueeze(-1)
        gaussian = -0.5 * noise.square().sum(-1) - 3.0 * log_std.squeeze(-1) - 1.5 * math.log(2.0 * math.pi)
        log_prob = scatter_sum(gaussian + 1.75 * widening, graph.graph_index, graph.n_graphs)
        return padded_rows(action, places, graph.n_graphs, self.n_max), log_prob


class GraphCritic(BaseModel):
    """Our twin critic: observations and actions to two values.

    Args:
        observation_space: That of `relaxrl/Relax-v0`.
        action_space: Its actions.
        config: Size.
        max_step: Å; unit of the actions.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        config: CriticConfig,
        max_step: float,
    ) -> None:
        super().__init__(observation_space, action_space)
        self.n_max = room_for(observation_space)
        self.max_step = max_step
        self.twin = TwinCritic(config)

    def forward(self, observations: dict[str, Tensor], actions: Tensor) -> tuple[Tensor, ...]:
        """Both values, (n_graphs, 1) each."""
        graph, places = graph_from_padded(observations)
        first, second = self.twin(graph, self.max_step * rows_of_atoms(actions, places, self.n_max))
        return first.unsqueeze(1), second.unsqueeze(1)

    def q1_forward(self, observations: dict[str, Tensor], actions: Tensor) -> Tensor:
        """The first value, (n_graphs, 1)."""
        graph, places = graph_from_padded(observations)
        displacement = self.max_step * rows_of_atoms(actions, places, self.n_max)
        value: Tensor = self.twin.first(graph, displacement)
        return value.unsqueeze(1)


class GraphTD3Policy(TD3Policy):
    """Policy of TD3 with the actor and critics of this package: `TD3(GraphTD3Policy, env, policy_kwargs={...})`.

    Args:
        observation_space: That of `relaxrl/Relax-v0`.
        action_space: Its actions.
        lr_schedule: Learning rate.
        actor_config: Size of the actor; its `max_step` must be that of the environment.
        critic_config: Size of each critic.
        **kwargs: Of `TD3Policy`; those of its networks have no effect.

    Raises:
        ConfigError: The networks would read what observations don't hold.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Any,
        actor_config: ActorConfig = ACTOR,
        critic_config: CriticConfig = CRITIC,
        **kwargs: Any,
    ) -> None:
        _check(actor_config, critic_config, observation_space)
        self.actor_config, self.critic_config = actor_config, critic_config
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """A new actor; the extractor is not used."""
        del features_extractor
        return GraphActor(self.observation_space, self.action_space, self.actor_config).to(self.device)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """A new pair of critics; the extractor is not used."""
        del features_extractor
        made = GraphCritic(self.observation_space, self.action_space, self.critic_config, self.actor_config.max_step)
        return made.to(self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        own = {"actor_config": self.actor_config, "critic_config": self.critic_config}
        return super()._get_constructor_parameters() | own


class GraphSACPolicy(SACPolicy):
    """Policy of SAC with the actor and critics of this package; see `GraphTD3Policy` and `GraphGaussianActor`.

    Args:
        observation_space: That of `relaxrl/Relax-v0`.
        action_space: Its actions.
        lr_schedule: Learning rate.
        actor_config: Size of the actor; its `max_step` must be that of the environment.
        critic_config: Size of each critic.
        initial_std: Width of the noise before training, in units of `max_step`.
        **kwargs: Of `SACPolicy`; those of its networks have no effect.

    Raises:
        ConfigError: The networks would read what observations don't hold.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Any,
        actor_config: DirectActorConfig = ACTOR,
        critic_config: CriticConfig = CRITIC,
        initial_std: float = 0.05,
        **kwargs: Any,
    ) -> None:
        _check(actor_config, critic_config, observation_space)
        if kwargs.get("use_sde"):
            raise ConfigError("`use_sde` must be false: its noise does not rotate with the crystal")
        self.actor_config, self.critic_config, self.initial_std = actor_config, critic_config, initial_std
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """A new actor; the extractor is not used."""
        del features_extractor
        made = GraphGaussianActor(self.observation_space, self.action_space, self.actor_config, self.initial_std)
        return made.to(self.device)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """A new pair of critics; the extractor is not used."""
        del features_extractor
        made = GraphCritic(self.observation_space, self.action_space, self.critic_config, self.actor_config.max_step)
        return made.to(self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        own = {
            "actor_config": self.actor_config,
            "critic_config": self.critic_config,
            "initial_std": self.initial_std,
        }
        return super()._get_constructor_parameters() | own


def _check(actor: ActorConfig, critic: CriticConfig, observations: spaces.Space[Any]) -> None:
    if isinstance(observations, spaces.Dict) and "stress" in observations.spaces:
        raise ConfigError(
            "these policies move atoms alone: leave `cell` out of the environment's config, or let SB3's own networks "
            "act, on features of GraphExtractor for instance"
        )
    for config in (actor, critic):
        check_trunk(config.trunk)
        if config.env_input_dim:
            raise ConfigError(f"`env_input_dim` must be 0: observations hold no features, got {config.env_input_dim}")
