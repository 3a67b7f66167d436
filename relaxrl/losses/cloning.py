"""Behaviour cloning: the distance between the actor's displacement and an expert's."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from relaxrl.graph import scatter_mean

CloningLoss = Literal["mse", "relative"]

RELATIVE_FLOOR = 1e-3
"""Squared relative error at which the logarithm saturates: about 3 % of the expert's step, beyond which an exact
imitation gains nothing."""
NEGLIGIBLE_STEP = 1e-6
"""Å; expert steps (root mean square) below this are rounding noise, to which no error is compared."""
NEGLIGIBLE_STRAIN = 1e-4
"""Strains (norm) below this are what minima are known to: 1e-4 eV/Å³ of stress in a crystal of 160 GPa."""


def cloning_loss(
    predicted: Tensor,
    expert: Tensor,
    graph_index: Tensor,
    is_expert: Tensor,
    kind: CloningLoss = "mse",
) -> Tensor:
    """Cloning loss of each structure, exactly zero on samples that are not the expert's.

    Args:
        predicted: (n_atoms, 3), Å; the actor's displacement, with gradient.
        expert: (n_atoms, 3), Å; the expert's. Ignored, whatever it holds, for other samples.
        graph_index: (n_atoms,), int64.
        is_expert: (n_graphs,), bool; which structures come from the expert's buffer.
        kind: `mse`: mean over atoms of |π - a|², Å². `relative`: log(|π - a|²/|a|² + 1e-3) over the whole structure;
            the square is dominated by structures with large forces, the relative error weighs the last steps as much.

    Returns:
        (n_graphs,).

    Raises:
        ValueError: Shapes differ, or an unknown name.
    """
    if predicted.shape != expert.shape:
        raise ValueError(
            f"`predicted` and `expert` must have the same shape, got {tuple(predicted.shape)} and {tuple(expert.shape)}"
        )
    n_graphs = len(is_expert)
    chosen = is_expert[graph_index].unsqueeze(-1)
    # Masked before the arithmetic: a mask after it would let NaN or infinity of an unused row into the gradient.
    difference = torch.where(chosen, predicted - expert.to(predicted.dtype), torch.zeros_like(predicted))
    square = scatter_mean(difference.square().sum(-1), graph_index, n_graphs)
    if kind == "mse":
        return square
    if kind == "relative":
        size = torch.where(chosen, expert.to(predicted.dtype), torch.zeros_like(predicted)).square().sum(-1)
        scale = scatter_mean(size, graph_index, n_graphs).clamp(min=NEGLIGIBLE_STEP**2)
        loss = torch.log(square / scale + RELATIVE_FLOOR)
        return torch.where(is_expert, loss, torch.zeros_like(loss))
    raise ValueError(f"`kind` must be one of mse, relative, got {kind!r}")


def strain_loss(predicted: Tensor, expert: Tensor, is_expert: Tensor) -> Tensor:
    """Relative error of each structure's strain, log(|ε - ε*|²/|ε*|² + 1e-3), exactly zero where not asked for.

    Args:
        predicted: (n_graphs, 6), in `relaxrl.strain.STRAIN_BASIS`, whose lengths are those of tensors.
        expert: (n_graphs, 6); ignored, whatever it holds, where not asked for.
        is_expert: (n_graphs,), bool.

    Returns:
        (n_graphs,).

    Raises:
        ValueError: Shapes differ.
    """
    if predicted.shape != expert.shape:
        raise ValueError(
            f"`predicted` and `expert` must have the same shape, got {tuple(predicted.shape)} and {tuple(expert.shape)}"
        )
    chosen, zeros = is_expert.unsqueeze(-1), torch.zeros_like(predicted)
    wanted = torch.where(chosen, expert.to(predicted.dtype), zeros)
    square = (torch.where(chosen, predicted, zeros) - wanted).square().sum(-1)
    scale = wanted.square().sum(-1).clamp(min=NEGLIGIBLE_STRAIN**2)
    loss = torch.log(square / scale + RELATIVE_FLOOR)
    return torch.where(is_expert, loss, torch.zeros_like(loss))
