"""What is minimised: errors of the way on relaxations, and on replay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from relaxrl.nn import HessianActor
from relaxrl.structures.frames import Frame
from relaxrl.training.finetuning.batches import MixedBatch, RelaxationBatches
from relaxrl.training.finetuning.examples import losses


def loss_terms(module: nn.Module, batch: MixedBatch) -> Mapping[str, tuple[Tensor, Tensor]]:
    """Losses and what they should be, zero, by target, for a `SupervisedTrainer` with `lossfn: mae`.

    `displacement` and `strain` are those of the relaxations, `replay` both together of earlier training. There is no
    `strain` where no cell moves, and no `replay` where there is none.
    """
    assert isinstance(module, HessianActor)
    examples = [*batch.new, *batch.replay]
    displacement, strain = losses(module, examples)
    n = len(batch.new)
    terms = {"displacement": displacement[:n]}
    moving = torch.tensor([one.moves for one in batch.new], device=strain.device)
    if bool(moving.any()):
        terms["strain"] = strain[:n][moving]
    if batch.replay:
        terms["replay"] = (displacement + strain)[n:]
    return {name: (values, torch.zeros_like(values)) for name, values in terms.items()}


def total(module: nn.Module, batch: MixedBatch) -> Tensor:
    """The loss of a batch, a scalar with gradient."""
    return torch.stack([values.mean() for values, _ in loss_terms(module, batch).values()]).sum()


@torch.no_grad()
def mean_loss(actor: HessianActor, relaxations: Sequence[Sequence[Frame]]) -> float:
    """The loss of an actor's step on relaxations, without replay, the mean of its parts.

    Parts are displacements and, where cells move, strains. Thus `relative_error` of it is the error of one of them.
    """
    batches = RelaxationBatches(relaxations, batch_size=32)
    sums, counts = 0.0, 0
    for batch in batches.epoch(None):
        displacement, strain = losses(actor, batch.new)
        sums += float((displacement + strain).sum())
        counts += len(batch.new) + sum(one.moves for one in batch.new)
    return sums / max(counts, 1)
