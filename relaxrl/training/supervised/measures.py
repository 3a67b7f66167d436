"""Errors of predictions: per element in the loss, and as means over all elements of an epoch."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from relaxrl.errors import ConfigError, RelaxRLError

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mae": partial(F.l1_loss, reduction="none"),
    "mse": partial(F.mse_loss, reduction="none"),
    "smoothl1": partial(F.smooth_l1_loss, reduction="none", beta=1.0),
}
"""Loss of each element; `smoothl1` is x²/2 below 1 and |x| - 1/2 above."""


class TargetErrors:
    """Sums over the elements of one target, so that batches of any size add up to means over all elements.

    Attributes:
        count: Elements so far: values, not structures.
    """

    def __init__(self) -> None:
        self.count = 0
        self._loss = self._absolute = self._squared = 0.0

    def add(self, prediction: Tensor, target: Tensor, losses: Tensor) -> None:
        """Take one batch into account; three tensors of one shape."""
        difference = (prediction.detach() - target.detach()).double()
        self.count += difference.numel()
        self._loss += float(losses.detach().double().sum())
        self._absolute += float(difference.abs().sum())
        self._squared += float(difference.square().sum())

    @property
    def loss(self) -> float:
        """Mean of the loss function."""
        return self._loss / max(self.count, 1)

    @property
    def mae(self) -> float:
        """Mean absolute error, in the target's unit."""
        return self._absolute / max(self.count, 1)

    @property
    def rmse(self) -> float:
        """Root of the mean squared error, in the target's unit."""
        return math.sqrt(self._squared / max(self.count, 1))


class EpochErrors:
    """All targets over an epoch, or the part of it that is done.

    Args:
        lossfn: One of `LOSSES`.
        weights: Of each target in the loss; empty for 1 each.
    """

    def __init__(self, lossfn: str, weights: Mapping[str, float]) -> None:
        self.targets: dict[str, TargetErrors] = {}
        self._elementwise = LOSSES[lossfn]
        self._weights = dict(weights)

    def add(self, terms: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
        """Take a batch into account, and return its loss, a scalar with gradient.

        Args:
            terms: By target, prediction and label of one shape.

        Raises:
            ValueError: Shapes differ.
        """
        parts = []
        for name, (prediction, label) in terms.items():
            if prediction.shape != label.shape:
                raise ValueError(
                    f"target `{name}`: prediction and label must have one shape, got {tuple(prediction.shape)} and "
                    f"{tuple(label.shape)}"
                )
            target = label.to(prediction)
            losses = self._elementwise(prediction, target)
            self.targets.setdefault(name, TargetErrors()).add(prediction, target, losses)
            parts.append(self._weight(name) * losses.sum() / max(losses.numel(), 1))
        return torch.stack(parts).sum()

    @property
    def loss(self) -> float:
        """The weighted sum of the targets' losses, each of them a mean over its elements of the epoch."""
        return sum(self._weight(name) * errors.loss for name, errors in self.targets.items())

    def metrics(self, prefix: str) -> dict[str, float]:
        """`PREFIX/loss`, and of each target `PREFIX/TARGET_mae` and `PREFIX/TARGET_rmse`."""
        values = {f"{prefix}/loss": self.loss}
        for name, errors in self.targets.items():
            values |= {f"{prefix}/{name}_mae": errors.mae, f"{prefix}/{name}_rmse": errors.rmse}
        return values

    def require_finite(self, where: str) -> None:
        """`RelaxRLError` if the loss is not finite."""
        if not math.isfinite(self.loss):
            bad = [name for name, errors in self.targets.items() if not math.isfinite(errors.loss)]
            raise RelaxRLError(
                f"{where}: the loss is not finite ({', '.join(bad) or 'the weighted sum'}); training has diverged: "
                "lower `max_lr` or set `grad_clip`, and resume from the last checkpoint"
            )

    def _weight(self, name: str) -> float:
        return self._weights.get(name, 1.0)


def check_targets(targets: Collection[str], named: Mapping[str, object], key: str, all_of_them: bool) -> None:
    """Refuse names in the configuration that are no targets.

    Args:
        targets: Names of those that the model is trained on.
        named: By name, those that the configuration has something to say about.
        key: Where it says so.
        all_of_them: Whether it must name them all if it names any.

    Raises:
        ConfigError: Names the key.
    """
    known = ", ".join(targets)
    for name in named:
        if name not in targets:
            near = difflib.get_close_matches(name, targets, n=1)
            hint = f"did you mean `{key}.{near[0]}`?" if near else f"the targets are {known}"
            raise ConfigError(f"unknown target `{key}.{name}`; {hint}")
    missing = [name for name in targets if name not in named]
    if all_of_them and named and missing:
        raise ConfigError(f"`{key}` has no `{missing[0]}`; give every target ({known}) a weight, 0 to leave it out")
