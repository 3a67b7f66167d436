"""Networks that know graphs, not reinforcement learning."""

from relaxrl.nn.actor import Actor, DirectActor
from relaxrl.nn.build import build_actor, build_critic
from relaxrl.nn.config import (
    ActorConfig,
    CriticConfig,
    DirectActorConfig,
    HessianActorConfig,
    PolicyHeadsConfig,
    TrunkConfig,
)
from relaxrl.nn.critic import Critic, TwinCritic
from relaxrl.nn.edges import Edges
from relaxrl.nn.heads import Decisions, PolicyHeads
from relaxrl.nn.hessian import HessianActor
from relaxrl.nn.inputs import NetworkInputs, network_inputs
from relaxrl.nn.receptive_field import ReceptiveField, format_receptive_field, receptive_field_report
from relaxrl.nn.trunk import Trunk, TrunkOutput

__all__ = [
    "Actor",
    "ActorConfig",
    "Critic",
    "CriticConfig",
    "Decisions",
    "DirectActor",
    "DirectActorConfig",
    "Edges",
    "HessianActor",
    "HessianActorConfig",
    "NetworkInputs",
    "PolicyHeads",
    "PolicyHeadsConfig",
    "ReceptiveField",
    "Trunk",
    "TrunkConfig",
    "TrunkOutput",
    "TwinCritic",
    "build_actor",
    "build_critic",
    "format_receptive_field",
    "network_inputs",
    "receptive_field_report",
]
