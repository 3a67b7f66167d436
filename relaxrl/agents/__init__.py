"""TD3 and what it needs: replay, expert, exploration, curriculum, shipped models."""

from relaxrl.agents.agent import Agent
from relaxrl.agents.curriculum import CurriculumConfig, SizeCurriculum
from relaxrl.agents.experts import (
    BFGSExpert,
    Expert,
    ExpertConfig,
    TeleportExpert,
    build_expert,
    draw_expert_episodes,
)
from relaxrl.agents.exploration import ExplorationConfig, explore, limit_radially
from relaxrl.agents.initial import start_from, train_only_heads
from relaxrl.agents.mixed_replay import MixedReplay, MixedSample
from relaxrl.agents.nstep import NStepAssembler
from relaxrl.agents.prioritized import PrioritizedReplay, PriorityConfig
from relaxrl.agents.ranking import CandidateRanking
from relaxrl.agents.registry import AUTO, default_agent, find_agent, load_agent, shipped_agents
from relaxrl.agents.replay import ReplayBuffer, Sample, default_capacity
from relaxrl.agents.schedules import Schedule
from relaxrl.agents.td3 import TD3, TD3Config
from relaxrl.agents.transition import Transition
from relaxrl.agents.weights import difficulty_weights

__all__ = [
    "AUTO",
    "TD3",
    "Agent",
    "BFGSExpert",
    "CandidateRanking",
    "CurriculumConfig",
    "Expert",
    "ExpertConfig",
    "ExplorationConfig",
    "MixedReplay",
    "MixedSample",
    "NStepAssembler",
    "PrioritizedReplay",
    "PriorityConfig",
    "ReplayBuffer",
    "Sample",
    "Schedule",
    "SizeCurriculum",
    "TD3Config",
    "TeleportExpert",
    "Transition",
    "build_expert",
    "default_agent",
    "default_capacity",
    "difficulty_weights",
    "draw_expert_episodes",
    "explore",
    "find_agent",
    "limit_radially",
    "load_agent",
    "shipped_agents",
    "start_from",
    "train_only_heads",
]
