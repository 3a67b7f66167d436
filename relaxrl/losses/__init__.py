"""Pure loss functions: they know tensors, not networks."""

from relaxrl.losses.cloning import CloningLoss, cloning_loss, strain_loss
from relaxrl.losses.constraints_absolute import absolute_loss
from relaxrl.losses.constraints_config import ConstraintLossConfig, ConstraintWeights, CurriculumConfig
from relaxrl.losses.constraints_data import data_loss
from relaxrl.losses.constraints_points import point_mean, point_weights
from relaxrl.losses.constraints_relative import improvement_penalty, relative_loss
from relaxrl.losses.constraints_total import ConstraintLoss, constraint_loss, point_constraint_loss, total_loss
from relaxrl.losses.contrastive import (
    ContrastiveLoss,
    adaptive_temperature,
    gradient_alignment,
    middle_candidate,
    saturation,
    swap_info_nce,
)
from relaxrl.losses.curriculum import (
    CurriculumState,
    curriculum_progress,
    curriculum_state,
    median_log10,
    scheduled_weights,
)
from relaxrl.losses.deviation import deviation_penalty
from relaxrl.losses.energy import remaining_energy_loss
from relaxrl.losses.negatives import actions_of, noisy_actions, swap_partners
from relaxrl.losses.td3 import CriticLoss, critic_loss, lap_loss, q_objective, td3_target

__all__ = [
    "CloningLoss",
    "ConstraintLoss",
    "ConstraintLossConfig",
    "ConstraintWeights",
    "ContrastiveLoss",
    "CriticLoss",
    "CurriculumConfig",
    "CurriculumState",
    "absolute_loss",
    "actions_of",
    "adaptive_temperature",
    "cloning_loss",
    "constraint_loss",
    "critic_loss",
    "curriculum_progress",
    "curriculum_state",
    "data_loss",
    "deviation_penalty",
    "gradient_alignment",
    "improvement_penalty",
    "lap_loss",
    "median_log10",
    "middle_candidate",
    "noisy_actions",
    "point_constraint_loss",
    "point_mean",
    "point_weights",
    "q_objective",
    "relative_loss",
    "remaining_energy_loss",
    "saturation",
    "scheduled_weights",
    "strain_loss",
    "swap_info_nce",
    "swap_partners",
    "td3_target",
    "total_loss",
]
