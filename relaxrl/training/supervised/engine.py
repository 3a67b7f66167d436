"""What moves parameters: optimizer, clipped gradients, learning rate, and the moving average."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from relaxrl.errors import RelaxRLError
from relaxrl.training.supervised.config import FitConfig
from relaxrl.training.supervised.optimizer import build_optimizer
from relaxrl.training.supervised.parameters import exported, fill, select_trained
from relaxrl.training.supervised.rates import LearningRate
from relaxrl.typing import StateDict


class Engine:
    """Updates a model by losses, whoever computes them; `update`, then `next_rate`, for every batch.

    Args:
        config: Optimizer, rates, warm-up, clipping, average, and which parameters are trained.
        model: On its device; trained in place.
        steps_per_epoch: Optimizer steps; keys in epochs are converted by it.
        total_steps: Optimizer steps of the run, at whose end a cosine without `T_max` ends; `max_epochs` if None.

    Attributes:
        step: Updates so far.

    Raises:
        ConfigError: `finetune_modules` fits no parameter.
    """

    def __init__(
        self, config: FitConfig, model: nn.Module, steps_per_epoch: int, total_steps: int | None = None
    ) -> None:
        self.config = config
        self.model = model
        self.step = 0
        self.average = None if config.ema_decay is None else averaged(model, config.ema_decay, config.ema_warmup)
        self._trained = select_trained(model, config.finetune_modules)
        self.optimizer = build_optimizer(config.optimizer, self._trained, config.max_lr, config.optimizer_kwargs)
        self.rate = LearningRate(config, self.optimizer, steps_per_epoch, total_steps)

    @property
    def exported(self) -> nn.Module:
        """The model that is validated and exported: the averaged one, unless there is no average."""
        return self.model if self.average is None else self.average.module

    def update(self, loss: Tensor) -> float:
        """Move the parameters down a loss, a scalar with gradient; the gradient's norm before it was clipped.

        Raises:
            RelaxRLError: The loss is not finite.
        """
        if not math.isfinite(float(loss.detach())):
            raise RelaxRLError(
                f"step {self.step + 1}: the loss is not finite; training has diverged: lower `max_lr` or set "
                "`grad_clip`, and resume from the last checkpoint"
            )
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's signature lacks types
        clip = self.config.grad_clip
        if clip is not None:
            norm = torch.nn.utils.clip_grad_norm_(self._trained, clip)
        else:
            norm = torch.nn.utils.get_total_norm([each.grad for each in self._trained if each.grad is not None])
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.step += 1
        return float(norm)

    def next_rate(self, error: float | None = None) -> None:
        """Set the learning rate of the next update; `error` is the validation's, after an epoch and only then."""
        self.rate.step(error)

    def state_dict(self) -> StateDict:
        """Model, average, optimizer, rate, and the number of updates."""
        return {
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rate": self.rate.state_dict(),
            "step": self.step,
        }

    def load_state_dict(self, state: StateDict, source: str) -> None:
        """Continue from a state made by `state_dict`.

        Args:
            state: May hold more.
            source: What errors call it.

        Raises:
            CheckpointError: It is of another architecture.
        """
        fill(self.model, state["model"], source)
        if self.average is not None:
            fill(self.average.module, exported(state), source)
            self.average.n_averaged.copy_(state["average"]["n_averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rate.load_state_dict(state["rate"])
        self.step = state["step"]


def averaged(model: nn.Module, decay: float, warmup: bool) -> AveragedModel:
    """The moving average of a model's parameters; with a warm-up its memory is shorter while there is little in it."""
    if not warmup:
        blend = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch's lacks types
        return AveragedModel(model, multi_avg_fn=blend)

    def shorter(average: Tensor, new: Tensor, count: Tensor | int) -> Tensor:
        weight = 1.0 - min(decay, (1.0 + float(count)) / (10.0 + float(count)))
        return average.lerp(new, weight)

    return AveragedModel(model, avg_fn=shorter)
