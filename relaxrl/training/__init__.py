"""The loops that train agents, and what they log, plot and diagnose."""

from relaxrl.training.config import (
    EvaluationConfig,
    ReplayConfig,
    RunConfig,
    SamplingConfig,
    TrainConfig,
    WarmUpConfig,
)
from relaxrl.training.diagnostics import Diagnosis, DiagnosisConfig, Figures, diagnose
from relaxrl.training.folder import RunFolder
from relaxrl.training.rl import Trainer, TrainResult, resume, train

__all__ = [
    "Diagnosis",
    "DiagnosisConfig",
    "EvaluationConfig",
    "Figures",
    "ReplayConfig",
    "RunConfig",
    "RunFolder",
    "SamplingConfig",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "WarmUpConfig",
    "diagnose",
    "resume",
    "train",
]
