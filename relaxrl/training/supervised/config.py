"""The `trainer:` section of every supervised stage."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from relaxrl.config import configclass
from relaxrl.training.supervised.names import one_of, with_numbers
from relaxrl.training.supervised.optimizer import check_optimizer_kwargs
from relaxrl.training.supervised.rates import check_scheduler_kwargs

Loss = Annotated[
    Literal["mae", "mse", "smoothl1"], one_of("mae", "mse", "smoothl1", aliases={"l1": "mae", "l2": "mse"})
]
Optimizer = Annotated[Literal["Adam", "AdamW", "NAdam", "RAdam"], one_of("Adam", "AdamW", "NAdam", "RAdam")]
WarmUp = Annotated[
    Literal["linear", "exponential", "untuned_linear", "untuned_exponential", "radam"] | None,
    one_of("linear", "exponential", "untuned_linear", "untuned_exponential", "radam", optional=True),
]
Scheduler = Annotated[
    Literal["cosine_annealing", "cosine_annealing_warm_restarts", "reduce_on_plateau"],
    one_of(
        "cosine_annealing",
        "cosine_annealing_warm_restarts",
        "reduce_on_plateau",
        aliases={
            "cosine": "cosine_annealing",
            "cosine_restarts": "cosine_annealing_warm_restarts",
            "plateau": "reduce_on_plateau",
        },
    ),
]


@configclass
class EarlyStoppingConfig:
    """When one property's validation error is good enough, or no longer falls."""

    metric: Annotated[Literal["mae", "rmse"], one_of("mae", "rmse")] = "mae"
    """Mean absolute error, or the root of the mean squared error over the whole epoch."""
    patience: int = 10
    """The criterion is met after this many epochs in a row without a gain."""
    threshold: float = 0.0
    """Smaller gains over the best value don't count; in the property's unit."""
    lower_bound: float | None = None
    """The criterion counts as met while the error is below it."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.patience < 1:
            raise ValueError(f"`patience` must be at least 1, got {self.patience}")
        if self.threshold < 0:
            raise ValueError(f"`threshold` must not be negative, got {self.threshold}")


@configclass
class FitConfig:
    """How parameters are fitted, averaged, judged and kept, whatever the loss and wherever the batches come from."""

    run_name: str = "relaxrl"
    """Checkpoints bear this name."""
    resume: bool = False
    """Continue the run from its last checkpoint, bit for bit on a CPU."""
    ckpt_file: str | None = None
    """Checkpoint to begin with. Without `resume` only the model's parameters are taken, the averaged ones."""
    finetune_modules: tuple[str, ...] | None = None
    """Only parameters whose name contains one of these words are trained; null trains all."""
    optimizer: Optimizer = "AdamW"
    """`Adam`, `AdamW`, `NAdam` or `RAdam`."""
    optimizer_kwargs: Annotated[dict[str, Any], with_numbers] = field(default_factory=dict)
    """Passed on to the optimizer, such as `weight_decay` or `betas`."""
    max_lr: float = 5e-4
    """Highest learning rate."""
    min_lr: float = 0.0
    """Where cosines end; training on a plateau ends below it."""
    warmup_scheduler: WarmUp = "linear"
    """null, `linear` min(1, t/τ), `exponential` 1 - exp(-2t/τ), the same `untuned_...` with τ = floor(2/(1-β2)), or
    `radam`."""
    warmup_epochs: int = 10
    """τ of `linear` and `exponential` in epochs; 0 for no warm-up."""
    lr_scheduler: Scheduler = "cosine_annealing"
    """`cosine_annealing`/`cosine`, `cosine_annealing_warm_restarts`/`cosine_restarts`, or
    `reduce_on_plateau`/`plateau`, which goes by the validation error of each epoch."""
    lr_scheduler_kwargs: Annotated[dict[str, Any], with_numbers] = field(default_factory=dict)
    """`T_max` (of `cosine_annealing`; `max_epochs` if not given) and `T_0` (of the restarts) in epochs, `T_mult`;
    `factor`, `patience` and whatever else torch's `ReduceLROnPlateau` takes."""
    early_stoppings: Annotated[
        dict[str, EarlyStoppingConfig], BeforeValidator(lambda value: {} if value is None else value)
    ] = field(default_factory=dict)
    """Criteria by target; none, or null, for training to `max_epochs`."""
    early_stopping_mode: Annotated[Literal["and", "or"], one_of("and", "or")] = "and"
    """Whether all criteria or any of them must be met."""
    ema_decay: float | None = 0.995
    """β of the averaged parameters v ← β v + (1-β) θ that are validated and exported; null for no average."""
    ema_warmup: bool = False
    """Whether β of update t is at most (1 + t) / (10 + t): a shorter memory while there is little to remember."""
    best_k: int = 1
    """Checkpoints kept as `run_name_0.pt`, `run_name_1.pt`, ...: those of the smallest validation errors."""
    log_file: str = "loss.log"
    """In the run's folder, unless it is an absolute path."""
    log_steps: int = 50
    """Optimizer steps between lines within an epoch; each has the means over the epoch so far."""
    log_epochs: int = 1
    """Epochs between lines about whole epochs and their validation."""
    max_epochs: int = 300
    """Training ends after this many."""
    grad_clip: float | None = None
    """Largest norm of the gradient; null for any."""

    def __post_init__(self) -> None:
        """Check ranges, and what belongs together."""
        for name in ("best_k", "log_steps", "log_epochs", "max_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        if self.warmup_epochs < 0:
            raise ValueError(f"`warmup_epochs` must not be negative, got {self.warmup_epochs}")
        if not self.max_lr > 0:
            raise ValueError(f"`max_lr` must be positive, got {self.max_lr}")
        if not 0 <= self.min_lr <= self.max_lr:
            raise ValueError(f"`min_lr` must be between 0 and `max_lr` = {self.max_lr}, got {self.min_lr}")
        if self.grad_clip is not None and not self.grad_clip > 0:
            raise ValueError(f"`grad_clip` must be positive or null, got {self.grad_clip}")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"`ema_decay` must be at least 0 and below 1, or null, got {self.ema_decay}")
        if self.finetune_modules is not None and not all(self.finetune_modules or [""]):
            raise ValueError("`finetune_modules` must hold words, or be null to train all parameters")
        if not self.run_name or "/" in self.run_name:
            raise ValueError(f"`run_name` must be a name for files, got {self.run_name!r}")
        check_optimizer_kwargs(self.optimizer, self.optimizer_kwargs)
        check_scheduler_kwargs(self.lr_scheduler, self.lr_scheduler_kwargs)


@configclass
class TrainerConfig(FitConfig):
    """A module fitted to labels.

    `resume` goes on from `save_dir/run_name_last.pt`; or from `ckpt_file`, if that is another checkpoint of this run,
    or this run has none yet.
    """

    lossfn: Loss = "smoothl1"
    """`mae`/`l1`, `mse`/`l2`, or `smoothl1`, which is quadratic below 1 and linear above."""
    losses_weight: dict[str, float] = field(default_factory=dict)
    """Weight of each target in the loss; all of them, if any. Empty gives each the weight 1."""
    save_dir: str = "./"
    """Folder of checkpoints and logs."""
    seed: int | None = None
    """All randomness comes from it; null draws one, which checkpoints remember."""
    num_workers: int = 0
    """Processes that load batches; results don't depend on it."""

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        for name in ("num_workers", "seed"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"`{name}` must not be negative, got {value}")
        for name, weight in self.losses_weight.items():
            if not 0 <= weight < float("inf"):
                raise ValueError(f"`losses_weight.{name}` must be finite and not negative, got {weight}")
