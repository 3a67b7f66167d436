"""Stable-Baselines3: our graph networks in its algorithms, and its agents in our relaxations. Needs `relaxrl[sb3]`."""

from relaxrl.integrations.sb3.agents import SaveAgent, load_sb3, save_sb3
from relaxrl.integrations.sb3.extractor import GraphExtractor
from relaxrl.integrations.sb3.policies import GraphSACPolicy, GraphTD3Policy

__all__ = ["GraphExtractor", "GraphSACPolicy", "GraphTD3Policy", "SaveAgent", "load_sb3", "save_sb3"]
