"""What every run by gradient descent on an explicit loss can be asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal

from relaxrl.config import configclass, with_defaults
from relaxrl.errors import ConfigError
from relaxrl.training.config import EvaluationConfig, RunConfig
from relaxrl.training.supervised import FitConfig
from relaxrl.training.supervised.measures import check_targets

_EVALUATION: dict[str, Any] = {"every": 24_000, "count": None}
_UPDATES = 4000

TRAINER: dict[str, Any] = {
    "run_name": "agent",
    "optimizer": "Adam",
    "max_lr": 2e-3,
    "min_lr": 2e-5,
    "warmup_epochs": 1,
    "ema_decay": 0.99,
    "ema_warmup": True,  # a few thousand updates: a long memory would be full of the first of them
    "grad_clip": 5.0,  # logarithmic losses have steep walls
}
"""What these methods have for defaults in `trainer`."""

_NOW: dict[str, str] = {
    "learning_rate": "is now `trainer.max_lr`",
    "warm_up": "is now `trainer.warmup_epochs`, in epochs of `updates_per_epoch` updates",
    "grad_clip": "is now `trainer.grad_clip`",
    "ema_decay": "is now `trainer.ema_decay`",
    "pretrained": "is now `trainer.ckpt_file`",
    "trainer.seed": "has no meaning here: all randomness comes from `run.seed`",
    "trainer.save_dir": "has no meaning here: checkpoints and logs are in the run's folder, `run.dir`",
    "trainer.num_workers": "has no meaning here: crystals are displaced anew for each update, nothing is loaded",
    "trainer.lossfn": "has no meaning here: the method has its own loss, of errors relative to each structure's own",
    "trainer.losses_weight": "has no meaning here: the method has its own loss; its weights are `energy_weight` in "
    "cloning, `force_weight` in the surrogate, and those of `loss` in training by constraints",
}
"""Keys that these methods don't have, and what to give instead."""


@configclass
class GradientConfig:
    """Crystals displaced from their minima, a loss, and its minimisation; methods add what their loss needs."""

    targets: ClassVar[tuple[str, ...]] = ("displacement",)
    """Errors on the development set that `trainer.early_stoppings` may name."""

    structures: tuple[str, ...] | str
    """Training crystals, relaxed: files, folders, or shipped sets such as `metals:train`."""
    weights: tuple[float, ...] | None = None
    """How often crystals of each entry of `structures` are drawn, relative to the other entries: [1, 2] draws those of
    the second twice as often, however many they are. None draws all crystals equally often."""
    kind: Literal["minimum"] | None = None
    """`minimum`: the crystals are relaxed, whatever their files say, and so are those of the development set. None goes
    by the files."""
    calculator: str = "emt"
    """Potential by name or import path, with arguments."""
    rattle: tuple[float, float] = (0.003, 0.3)
    """Å; lowest and highest standard deviation of the displacement from the minimum, drawn log-uniformly per crystal:
    the first step of a relaxation and the last one count the same."""
    batch_size: int = 24
    """Crystals per update."""
    updates_per_epoch: int = 50
    """Crystals are displaced anew for each update, so that the data never end: an epoch is this many updates, after
    which the loss is computed on the development set. What `trainer` gives in epochs goes by it."""
    trainer: Annotated[FitConfig, with_defaults(**TRAINER)] = field(default_factory=lambda: FitConfig(**TRAINER))
    """Optimizer, rates, average, checkpoints; see `FitConfig`. `ckpt_file` may also name an agent, its run folder, or
    the run folder of `relaxrl pretrain`. The run ends after `max_epochs` epochs, or earlier by what `run` says; a
    cosine without `T_max` ends with the run. Seed and folder are those of `run`; the loss is the method's own."""
    fmax: float = 0.01
    """eV/Å, at which relaxations of the development set count as converged."""
    evaluation: Annotated[EvaluationConfig, with_defaults(**_EVALUATION)] = field(
        default_factory=lambda: EvaluationConfig(**_EVALUATION)
    )
    """Judging progress by relaxations; `every` counts displaced crystals, `steps` bounds relaxations with the
    optimizer."""
    run: Annotated[RunConfig, with_defaults(updates=_UPDATES)] = field(
        default_factory=lambda: RunConfig(updates=_UPDATES)
    )
    """Folder, seed, length. `updates` also decides how the rate falls; `steps` and `log_every` count displaced
    crystals; `n_envs` and `updates_per_step` mean nothing here."""

    @property
    def total_updates(self) -> int:
        """Updates of the whole run: those of `run.updates`, or of `trainer.max_epochs` epochs if these are fewer."""
        epochs = self.trainer.max_epochs * self.updates_per_epoch
        return epochs if self.run.updates is None else min(self.run.updates, epochs)

    def __post_init__(self) -> None:
        """Check ranges."""
        names = (self.structures,) if isinstance(self.structures, str) else self.structures
        if self.weights is not None and len(self.weights) != len(names):
            raise ValueError(
                f"`weights` must have one number for each of the {len(names)} entries of `structures`, got "
                f"{len(self.weights)}"
            )
        if self.weights is not None and not (min(self.weights) >= 0 and 0 < sum(self.weights) < float("inf")):
            raise ValueError(f"`weights` must be finite and not negative, and one of them positive, got {self.weights}")
        low, high = self.rattle
        if not 0 < low <= high:
            raise ValueError(f"`rattle` must be two positive lengths in Å, the lower one first, got {self.rattle}")
        for name in ("batch_size", "updates_per_epoch"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        if not self.fmax > 0:
            raise ValueError(f"`fmax` must be positive, got {self.fmax}")
        check_targets(self.targets, self.trainer.early_stoppings, "trainer.early_stoppings", all_of_them=False)


def refuse_moved(config: Mapping[str, Any], overrides: Sequence[str], source: str) -> None:
    """`ConfigError` for keys that these methods don't have, or no longer; says what to give instead.

    Args:
        config: As in the file.
        overrides: `key=value` each.
        source: What errors call the file.
    """
    section = config.get("trainer")
    places = dict.fromkeys(config, source)
    places |= {f"trainer.{key}": source for key in (section if isinstance(section, Mapping) else ())}
    places |= {override.partition("=")[0].strip(): f"override `{override}`" for override in overrides}
    for key, place in places.items():
        if key in _NOW:
            raise ConfigError(f"{place}: the key `{key}` {_NOW[key]}")
