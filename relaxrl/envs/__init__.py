"""The relaxation environment: state, action correction, reward; it runs without any network."""

from relaxrl.envs.cell_config import CellConfig
from relaxrl.envs.config import EnvConfig
from relaxrl.envs.core import RelaxationEnv
from relaxrl.envs.correction import Correction, correct
from relaxrl.envs.features import FEATURES, environment_features
from relaxrl.envs.integrity import limit_radially
from relaxrl.envs.reward import RewardConfig, RewardWeights
from relaxrl.envs.termination import Reason
from relaxrl.envs.types import Action, StepResult

__all__ = [
    "FEATURES",
    "Action",
    "CellConfig",
    "Correction",
    "EnvConfig",
    "Reason",
    "RelaxationEnv",
    "RewardConfig",
    "RewardWeights",
    "StepResult",
    "correct",
    "environment_features",
    "limit_radially",
]
