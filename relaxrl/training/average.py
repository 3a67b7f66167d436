"""Moving averages of parameters."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def averaged(module: nn.Module, decay: float | None) -> AveragedModel | None:
    """The moving average of a module's parameters, with a memory that is shorter while there is little to remember.

    Args:
        module: Its parameters as they are begin the average.
        decay: The memory is 1 / (1 - decay) updates; None for no average.
    """
    if decay is None:
        return None

    def blend(average: Tensor, new: Tensor, count: Tensor | int) -> Tensor:
        weight = 1.0 - min(decay, (1.0 + float(count)) / (10.0 + float(count)))
        return average.lerp(new, weight)

    return AveragedModel(module, avg_fn=blend)
