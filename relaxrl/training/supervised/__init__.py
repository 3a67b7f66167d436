"""The trainer of the supervised stages: any module, any batches, losses by target."""

from relaxrl.training.supervised.batches import Batches, BatchSource
from relaxrl.training.supervised.config import EarlyStoppingConfig, FitConfig, TrainerConfig
from relaxrl.training.supervised.parameters import load_parameters
from relaxrl.training.supervised.result import SupervisedResult
from relaxrl.training.supervised.trainer import LossTerms, SupervisedTrainer

__all__ = [
    "BatchSource",
    "Batches",
    "EarlyStoppingConfig",
    "FitConfig",
    "LossTerms",
    "SupervisedResult",
    "SupervisedTrainer",
    "TrainerConfig",
    "load_parameters",
]
