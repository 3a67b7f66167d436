"""Agents adapted to a system: by a few dozen relaxations, or while a campaign goes on."""

from relaxrl.training.finetuning.config import FinetuneConfig, OnlineConfig
from relaxrl.training.finetuning.finetune import FinetuneResult, finetune
from relaxrl.training.finetuning.online import OnlineLearning, Round

__all__ = ["FinetuneConfig", "FinetuneResult", "OnlineConfig", "OnlineLearning", "Round", "finetune"]
