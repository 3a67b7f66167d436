"""Wrong actions made from right ones, for contrastive losses."""

from __future__ import annotations

import torch
from torch import Tensor

from relaxrl.graph import scatter_mean


def noisy_actions(
    expert: Tensor, sigma: float, graph_index: Tensor, n_graphs: int, generator: torch.Generator, relative: bool = True
) -> Tensor:
    """The right action with Gaussian noise, without drift: a rigid translation would give the noise away.

    Args:
        expert: (n_atoms, 3), Å.
        sigma: Standard deviation of each component's noise.
        graph_index: (n_atoms,), int64.
        n_graphs: Number of structures.
        generator: Source of randomness, on the CPU.
        relative: Whether `sigma` is in units of each structure's root mean square component of `expert`, so that it
            means the same for long and short steps; otherwise it is in Å.

    Returns:
        (n_atoms, 3), Å.
    """
    noise = torch.randn(expert.shape, generator=generator, dtype=torch.float64).to(expert)
    noise = noise - scatter_mean(noise, graph_index, n_graphs)[graph_index]
    if relative:
        size = scatter_mean(expert.square().mean(-1), graph_index, n_graphs).sqrt()
        noise = noise * size[graph_index].unsqueeze(-1)
    return expert + sigma * noise


def swap_partners(sizes: Tensor, limit: int | None = None) -> tuple[Tensor, Tensor]:
    """Whose action each structure is given, cyclically among the structures with as many atoms.

    Args:
        sizes: (n_graphs,), int64; atoms of each structure.
        limit: At most this many partners each; None takes all.

    Returns:
        partners: (n_swaps, n_graphs), int64; row k holds the k-th next structure of the same size, the structure
            itself where there are fewer.
        there: (n_swaps, n_graphs), bool; False where there are fewer.
    """
    n = len(sizes)
    groups: dict[int, list[int]] = {}
    for k, size in enumerate(sizes.tolist()):
        groups.setdefault(size, []).append(k)
    most = max((len(group) for group in groups.values()), default=1) - 1
    n_swaps = most if limit is None else min(most, limit)
    partners = torch.arange(n).repeat(n_swaps, 1)
    there = torch.zeros(n_swaps, n, dtype=torch.bool)
    for group in groups.values():
        for place, k in enumerate(group):
            for step in range(min(n_swaps, len(group) - 1)):
                partners[step, k] = group[(place + step + 1) % len(group)]
                there[step, k] = True
    return partners.to(sizes.device), there.to(sizes.device)


def actions_of(partners: Tensor, actions: Tensor, ptr: Tensor, graph_index: Tensor) -> Tensor:
    """The actions (n_atoms, 3) of other structures with as many atoms, laid on each structure's own atoms in order.

    Args:
        partners: (n_graphs,), int64; whose action each structure gets.
        actions: (n_atoms, 3).
        ptr: (n_graphs + 1,), int64; first atom of each structure.
        graph_index: (n_atoms,), int64.
    """
    local = torch.arange(len(actions), device=actions.device) - ptr[graph_index]
    return actions[ptr[partners[graph_index]] + local]
