"""The loops that train agents, and what they log, plot and diagnose."""

from relaxrl.training.cloning import Cloner
from relaxrl.training.cloning_config import CloningConfig
from relaxrl.training.config import (
    EvaluationConfig,
    ReplayConfig,
    RunConfig,
    SamplingConfig,
    TrainConfig,
    WarmUpConfig,
)
from relaxrl.training.constraints import ConstraintTrainer
from relaxrl.training.constraints_config import ConstraintsConfig
from relaxrl.training.diagnostics import Diagnosis, DiagnosisConfig, Figures, diagnose
from relaxrl.training.finetuning import FinetuneConfig, FinetuneResult, OnlineConfig, OnlineLearning, finetune
from relaxrl.training.folder import RunFolder
from relaxrl.training.pretraining import PretrainResult, load_pretrain_config, pretrain, resume_pretraining
from relaxrl.training.pretraining_config import PretrainConfig
from relaxrl.training.result import TrainResult
from relaxrl.training.rl import Trainer
from relaxrl.training.run import load_run_config, resume, train
from relaxrl.training.surrogate import SurrogateTrainer
from relaxrl.training.surrogate_config import SurrogateConfig

__all__ = [
    "Cloner",
    "CloningConfig",
    "ConstraintTrainer",
    "ConstraintsConfig",
    "Diagnosis",
    "DiagnosisConfig",
    "EvaluationConfig",
    "Figures",
    "FinetuneConfig",
    "FinetuneResult",
    "OnlineConfig",
    "OnlineLearning",
    "PretrainConfig",
    "PretrainResult",
    "ReplayConfig",
    "RunConfig",
    "RunFolder",
    "SamplingConfig",
    "SurrogateConfig",
    "SurrogateTrainer",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "WarmUpConfig",
    "diagnose",
    "finetune",
    "load_pretrain_config",
    "load_run_config",
    "pretrain",
    "resume",
    "resume_pretraining",
    "train",
]
