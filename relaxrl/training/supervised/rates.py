"""The learning rate over a run: a schedule, dampened while the optimizer's averages are young."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytorch_warmup
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, CosineAnnealingWarmRestarts, LRScheduler, ReduceLROnPlateau

from relaxrl.training.supervised.names import keyword_arguments, parameters_of
from relaxrl.typing import StateDict

if TYPE_CHECKING:
    from relaxrl.training.supervised.config import FitConfig

_SCHEDULERS = {
    "cosine_annealing": CosineAnnealingLR,
    "cosine_annealing_warm_restarts": CosineAnnealingWarmRestarts,
    "reduce_on_plateau": ReduceLROnPlateau,
}
_OWNED = {"eta_min": "min_lr", "min_lr": "min_lr", "optimizer": "optimizer", "last_epoch": "resume", "mode": "lossfn"}


def check_scheduler_kwargs(name: str, kwargs: Mapping[str, Any]) -> None:
    """Refuse keyword arguments, and values of them, that the scheduler doesn't take.

    Raises:
        ValueError: Names the key.
    """
    known = [key for key in parameters_of(_SCHEDULERS[name]) if key not in _OWNED]
    keyword_arguments("lr_scheduler_kwargs", kwargs, known, _OWNED)
    for key, value in kwargs.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if key != "threshold_mode" and not number:
            raise ValueError(f"`lr_scheduler_kwargs.{key}` must be a number, got {value!r}")
        if key in ("T_max", "T_0") and not value > 0:
            raise ValueError(f"`lr_scheduler_kwargs.{key}` must be a positive number of epochs, got {value}")
        if key == "T_mult" and (value < 1 or value != int(value)):
            raise ValueError(f"`lr_scheduler_kwargs.T_mult` must be a whole number of at least 1, got {value}")
        if key == "factor" and not 0 < value < 1:
            raise ValueError(f"`lr_scheduler_kwargs.factor` must be between 0 and 1, got {value}")
        if key in ("patience", "cooldown") and (value < 0 or value != int(value)):
            raise ValueError(f"`lr_scheduler_kwargs.{key}` must be a whole number of epochs, got {value}")
        if key == "threshold_mode" and value not in ("rel", "abs"):
            raise ValueError(f"`lr_scheduler_kwargs.threshold_mode` must be rel or abs, got {value!r}")
    if name == "cosine_annealing_warm_restarts" and "T_0" not in kwargs:
        raise ValueError("`lr_scheduler_kwargs.T_0` is missing; give the number of epochs up to the first restart")


class LearningRate:
    r"""Scheduler times warm-up factor $\omega_t$, with $t$ = 1, 2, ... counting optimizer steps.

    Everything given in epochs is converted to optimizer steps; `reduce_on_plateau` alone goes by epochs.

    Args:
        config: Names, bounds and periods.
        optimizer: Its groups' rates must be `max_lr`.
        steps_per_epoch: Optimizer steps.
        total_steps: Of the run, at whose end a cosine without `T_max` ends; `max_epochs` if None.

    References:
        Ma and Yarats, On the adequacy of untuned warmup for adaptive optimization, arXiv:1910.04209.
    """

    def __init__(
        self, config: FitConfig, optimizer: Optimizer, steps_per_epoch: int, total_steps: int | None = None
    ) -> None:
        self._min_lr = config.min_lr
        self._optimizer = optimizer
        total = config.max_epochs * steps_per_epoch if total_steps is None else total_steps
        self._scheduler = _scheduler(config, optimizer, steps_per_epoch, total)
        # Only now: a warm-up dampens the rate that the scheduler has set.
        self._warmup = _warmup(config, optimizer, steps_per_epoch)

    @property
    def rate(self) -> float:
        """Of the next optimizer step."""
        return float(self._optimizer.param_groups[0]["lr"])

    @property
    def undampened(self) -> float:
        """The scheduler's part of it."""
        return self.rate if self._warmup is None else float(self._warmup.lrs[0])

    @property
    def exhausted(self) -> bool:
        """Whether plateaus have brought the rate below `min_lr`."""
        return isinstance(self._scheduler, ReduceLROnPlateau) and self.undampened < self._min_lr

    def step(self, error: float | None = None) -> None:
        """To be called after each optimizer step.

        Args:
            error: The validation error, after the last step of an epoch and only then.
        """
        with self._dampening():
            if not isinstance(self._scheduler, ReduceLROnPlateau):
                self._scheduler.step()
            elif error is not None:
                self._scheduler.step(error)

    def state_dict(self) -> StateDict:
        """Of scheduler and warm-up; the current rate is part of the optimizer's state."""
        warmup = None if self._warmup is None else self._warmup.state_dict()
        return {"scheduler": self._scheduler.state_dict(), "warmup": warmup}

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a state made by `state_dict`, after the optimizer has been given its own.

        A cosine that now ends at another step than the state's goes on along the new one.
        """
        scheduler = self._scheduler
        period = scheduler.T_max if isinstance(scheduler, CosineAnnealingLR) else None
        scheduler.load_state_dict(state["scheduler"])
        if self._warmup is not None:
            self._warmup.load_state_dict(state["warmup"])
        if isinstance(scheduler, CosineAnnealingLR) and period != scheduler.T_max:
            self._stretch(scheduler, period)

    def _stretch(self, scheduler: CosineAnnealingLR, period: int | None) -> None:
        """Move to where a cosine of another period is by now. Torch's own step would go on from the old one's rate."""
        assert period is not None
        scheduler.T_max = period
        done = min(scheduler.last_epoch / period, 1.0)
        factor = self.rate / self.undampened if self.undampened else 1.0
        for group, highest in zip(self._optimizer.param_groups, scheduler.base_lrs, strict=True):
            undampened = self._min_lr + (highest - self._min_lr) * 0.5 * (1.0 + math.cos(math.pi * done))
            group["lr"] = undampened * factor
            if self._warmup is not None:
                self._warmup.lrs = [undampened for _ in self._warmup.lrs]

    @contextmanager
    def _dampening(self) -> Iterator[None]:
        if self._warmup is None:
            yield
        else:
            with self._warmup.dampening():
                yield


class ExponentialWarmup(pytorch_warmup.ExponentialWarmup):
    """1 - exp(-2t/τ): comparable with a linear warm-up of the same τ, where the library has 1 - exp(-t/τ)."""

    def warmup_factor(self, step: int, warmup_period: int) -> float:
        """The factor of the optimizer step t = step + 1."""
        return 1.0 - math.exp(-2.0 * (step + 1) / warmup_period)


def _scheduler(config: FitConfig, optimizer: Optimizer, steps_per_epoch: int, total: int) -> LRScheduler:
    kwargs = dict(config.lr_scheduler_kwargs)
    for key in ("patience", "cooldown", "T_mult"):
        if key in kwargs:
            kwargs[key] = int(kwargs[key])
    if config.lr_scheduler == "reduce_on_plateau":
        # No floor at `min_lr`, nor steps too small to count: training could never end below it.
        return ReduceLROnPlateau(optimizer, **({"eps": 0.0} | kwargs))
    if config.lr_scheduler == "cosine_annealing":
        t_max = _steps(kwargs["T_max"], steps_per_epoch) if "T_max" in kwargs else total
        return CosineAnnealingLR(optimizer, T_max=t_max, eta_min=config.min_lr)
    kwargs["T_0"] = _steps(kwargs["T_0"], steps_per_epoch)
    return CosineAnnealingWarmRestarts(optimizer, eta_min=config.min_lr, **kwargs)


def _warmup(config: FitConfig, optimizer: Optimizer, steps_per_epoch: int) -> Any:
    """One of pytorch-warmup's objects, which have no types; None for no warm-up."""
    name, period = config.warmup_scheduler, config.warmup_epochs * steps_per_epoch
    if name == "untuned_linear":
        return pytorch_warmup.UntunedLinearWarmup(optimizer)
    if name == "untuned_exponential":
        periods = [int(2.0 / (1.0 - group["betas"][1])) for group in optimizer.param_groups]
        return ExponentialWarmup(optimizer, periods)
    if name == "radam":
        return pytorch_warmup.RAdamWarmup(optimizer)
    if name is None or period == 0:
        return None
    return (pytorch_warmup.LinearWarmup if name == "linear" else ExponentialWarmup)(optimizer, period)


def _steps(epochs: float, steps_per_epoch: int) -> int:
    return max(1, round(epochs * steps_per_epoch))
