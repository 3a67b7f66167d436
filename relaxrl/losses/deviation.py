"""Action deviation: how far the actor's proposal is from what the environment let happen."""

from __future__ import annotations

from torch import Tensor

from relaxrl.graph import scatter_mean


def deviation_penalty(predicted: Tensor, applied: Tensor, graph_index: Tensor, n_graphs: int) -> Tensor:
    """Mean over atoms of |A_pred - A_actual|² of each structure.

    Its gradient draws the actor towards moves that are not taken back.

    Args:
        predicted: (n_atoms, 3), Å; the actor's displacement, with gradient.
        applied: (n_atoms, 3), Å; the displacement after the environment's correction, for the same state.
        graph_index: (n_atoms,), int64.
        n_graphs: Number of structures.

    Returns:
        (n_graphs,), Å².

    Raises:
        ValueError: Shapes differ.
    """
    if predicted.shape != applied.shape:
        raise ValueError(
            f"`predicted` and `applied` must have the same shape, got {tuple(predicted.shape)} and "
            f"{tuple(applied.shape)}"
        )
    square = (predicted - applied.detach().to(predicted.dtype)).square().sum(-1)
    return scatter_mean(square, graph_index, n_graphs)
