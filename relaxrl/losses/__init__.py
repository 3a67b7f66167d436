"""Pure loss functions: they know tensors, not networks."""

from relaxrl.losses.cloning import CloningLoss, cloning_loss
from relaxrl.losses.deviation import deviation_penalty
from relaxrl.losses.td3 import CriticLoss, critic_loss, lap_loss, q_objective, td3_target

__all__ = [
    "CloningLoss",
    "CriticLoss",
    "cloning_loss",
    "critic_loss",
    "deviation_penalty",
    "lap_loss",
    "q_objective",
    "td3_target",
]
