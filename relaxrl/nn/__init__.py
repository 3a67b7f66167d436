"""Networks that know graphs, not reinforcement learning."""

from relaxrl.nn.action_energy import ActionEnergy
from relaxrl.nn.action_energy_config import ActionEnergyConfig, VerifiedActorConfig, VerifierConfig
from relaxrl.nn.actor import Actor, DirectActor
from relaxrl.nn.build import (
    build_action_energy,
    build_actor,
    build_critic,
    build_energy_model,
    build_planning_actor,
    build_ranked_actor,
    build_trunk_energy,
    build_verified_actor,
)
from relaxrl.nn.candidates import RankedActor
from relaxrl.nn.config import (
    ActorConfig,
    CandidatesConfig,
    CriticConfig,
    DirectActorConfig,
    HessianActorConfig,
    PolicyHeadsConfig,
    RankedActorConfig,
    TrunkConfig,
)
from relaxrl.nn.critic import Critic, TwinCritic
from relaxrl.nn.edges import Edges
from relaxrl.nn.energy import EnergyModel
from relaxrl.nn.heads import Decisions, PolicyHeads
from relaxrl.nn.hessian import HessianActor
from relaxrl.nn.inputs import NetworkInputs, network_inputs
from relaxrl.nn.planning import PlanningActor, plan
from relaxrl.nn.planning_config import EnergyModelConfig, PlanningConfig
from relaxrl.nn.pretrained import PretrainedCalculator, load_pretrained, load_trunk, save_pretrained
from relaxrl.nn.receptive_field import ReceptiveField, format_receptive_field, receptive_field_report
from relaxrl.nn.trunk import Trunk, TrunkOutput
from relaxrl.nn.trunk_energy import TrunkEnergyConfig, TrunkEnergyModel
from relaxrl.nn.verifier import VerifiedActor

__all__ = [
    "ActionEnergy",
    "ActionEnergyConfig",
    "Actor",
    "ActorConfig",
    "CandidatesConfig",
    "Critic",
    "CriticConfig",
    "Decisions",
    "DirectActor",
    "DirectActorConfig",
    "Edges",
    "EnergyModel",
    "EnergyModelConfig",
    "HessianActor",
    "HessianActorConfig",
    "NetworkInputs",
    "PlanningActor",
    "PlanningConfig",
    "PolicyHeads",
    "PolicyHeadsConfig",
    "PretrainedCalculator",
    "RankedActor",
    "RankedActorConfig",
    "ReceptiveField",
    "Trunk",
    "TrunkConfig",
    "TrunkEnergyConfig",
    "TrunkEnergyModel",
    "TrunkOutput",
    "TwinCritic",
    "VerifiedActor",
    "VerifiedActorConfig",
    "VerifierConfig",
    "build_action_energy",
    "build_actor",
    "build_critic",
    "build_energy_model",
    "build_planning_actor",
    "build_ranked_actor",
    "build_trunk_energy",
    "build_verified_actor",
    "format_receptive_field",
    "load_pretrained",
    "load_trunk",
    "network_inputs",
    "plan",
    "receptive_field_report",
    "save_pretrained",
]
