"""Contrastive losses of an energy over actions: right actions are to lie low, wrong ones high."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from relaxrl.graph import scatter_sum

TEMPERATURES = (0.1, 2.0)
"""Lowest and highest temperature."""
GAPS = (0.1, 1.0)
"""Gaps between negative and positive energies; below the first one the temperature is halved, above the second
doubled."""
SATURATED = 6.0
"""|raw| beyond which sigmoid(raw / 2) is within 5 % of its ends and has less than a fifth of its steepest slope."""
_TINY = 1e-12


@dataclass(frozen=True)
class ContrastiveLoss:
    """What the contrastive loss of a batch is made of.

    Attributes:
        loss: (), mean cross entropy, with gradient.
        positive: (), mean energy of the right actions.
        negative: (), mean energy of the wrong ones.
        temperature: τ that was used.
    """

    loss: Tensor
    positive: Tensor
    negative: Tensor
    temperature: float

    @property
    def gap(self) -> float:
        """Mean energy of wrong actions over that of right ones."""
        return float(self.negative.detach() - self.positive.detach())


def adaptive_temperature(gap: float, base: float = 0.5) -> float:
    """τ: half the base where energies hardly differ, twice the base where they differ much, within `TEMPERATURES`.

    Args:
        gap: Mean energy of negatives minus that of positives; its sign does not matter.
        base: τ in between.

    Examples:
        >>> [adaptive_temperature(gap) for gap in (0.05, 0.1, -0.5, 1.0, 1.2)]
        [0.25, 0.5, 0.5, 0.5, 1.0]
    """
    low, high = GAPS
    factor = 0.5 if abs(gap) < low else 2.0 if abs(gap) > high else 1.0
    return min(max(base * factor, TEMPERATURES[0]), TEMPERATURES[1])


def swap_info_nce(
    energies: Tensor,
    base_temperature: float = 0.5,
    *,
    mask: Tensor | None = None,
    negatives: Tensor | None = None,
    negatives_mask: Tensor | None = None,
    rows: Tensor | None = None,
) -> ContrastiveLoss:
    r"""Each structure is to pick its own action among those of the batch, by energy.

    $$ L = -\frac1B \sum_i \log \frac{e^{-E_{ii} / \tau}}{\sum_j e^{-E_{ij} / \tau} + \sum_m e^{-E'_{im} / \tau}} $$

    Args:
        energies: (B, B); E_ij is the energy of structure i's context with structure j's action. Only entries that the
            mask allows are read.
        base_temperature: See `adaptive_temperature`; τ has no gradient.
        mask: (B, B), bool; False where j's action can't be given to i (another number of atoms). The diagonal always
            counts. None allows all.
        negatives: (B, M); energies E' of further wrong actions of each structure.
        negatives_mask: (B, M), bool; which of them there are. None: all.
        rows: (B,), bool; structures that count. The others' actions are no negatives either. None: all.

    Returns:
        Loss, mean positive and negative energy, and τ. Rows without any negative add 0 to the loss; without any row
        everything is 0.

    Raises:
        ValueError: A shape is not as above, or the base temperature is not positive.

    References:
        van den Oord, Li and Vinyals, arXiv:1807.03748.
    """
    n = len(energies)
    if energies.shape != (n, n):
        raise ValueError(f"`energies` must have shape (B, B), got {tuple(energies.shape)}")
    if not base_temperature > 0:
        raise ValueError(f"`base_temperature` must be positive, got {base_temperature}")
    own = torch.eye(n, dtype=torch.bool, device=energies.device)
    allowed = _checked("mask", mask, energies) | own
    counted = torch.ones_like(own[0]) if rows is None else rows.to(energies.device)
    if counted.shape != (n,):
        raise ValueError(f"`rows` must have shape (B={n},), got {tuple(counted.shape)}")
    all_energies, all_allowed = energies, allowed & counted & counted.unsqueeze(1)
    is_own = own
    if negatives is not None:
        if negatives.dim() != 2 or len(negatives) != n:
            raise ValueError(f"`negatives` must have shape (B={n}, M), got {tuple(negatives.shape)}")
        there = _checked("negatives_mask", negatives_mask, negatives) & counted.unsqueeze(1)
        all_energies = torch.cat([energies, negatives], dim=1)
        all_allowed = torch.cat([all_allowed, there], dim=1)
        is_own = torch.cat([own, torch.zeros_like(there)], dim=1)
    # Masked before the arithmetic: what is no action of this structure may be NaN.
    safe = torch.where(all_allowed, all_energies, torch.zeros_like(all_energies))
    positive = _mean(safe, all_allowed & is_own)
    negative = _mean(safe, all_allowed & ~is_own)
    any_negative = bool((all_allowed & ~is_own).any())
    gap = float(negative.detach() - positive.detach()) if any_negative else 0.0
    temperature = adaptive_temperature(gap, base_temperature)
    lowest = torch.finfo(safe.dtype).min
    logits = torch.where(all_allowed, -safe / temperature, torch.full_like(safe, lowest))
    each = torch.logsumexp(logits, dim=1) - logits.diagonal()
    loss = torch.where(counted, each, torch.zeros_like(each)).sum() / counted.sum().clamp(min=1)
    return ContrastiveLoss(loss, positive, negative, temperature)


def middle_candidate(energies: Tensor) -> Tensor:
    """Which candidate's energy is the middle one, neither the easiest nor the hardest, (n_graphs,), int64.

    Args:
        energies: (n_candidates, n_graphs). Of an even number the upper one of the two in the middle is taken.

    Raises:
        ValueError: There are no candidates.
    """
    if energies.dim() != 2 or not len(energies):
        raise ValueError(f"`energies` must have shape (n_candidates >= 1, n_graphs), got {tuple(energies.shape)}")
    return torch.argsort(energies.detach(), dim=0, stable=True)[len(energies) // 2]


def saturation(raw: Tensor) -> Tensor:
    """Share of raw outputs beyond ±6, where the bounded energy has hardly a gradient, (); 0 of none."""
    share = (raw.detach().abs() > SATURATED).to(raw.dtype)
    return share.mean() if share.numel() else share.sum()


def gradient_alignment(gradient: Tensor, towards: Tensor, graph_index: Tensor, n_graphs: int) -> Tensor:
    r"""1 - cos(-∂E/∂a, a* - a) of each structure: downhill in energy is to lead to the right action.

    Args:
        gradient: (n_atoms, 3); ∂E/∂a, with gradient to the parameters.
        towards: (n_atoms, 3); a* - a, from the action to the right one.
        graph_index: (n_atoms,), int64.
        n_graphs: Number of structures.

    Returns:
        (n_graphs,), between 0 and 2; 1 where one of the two vectors vanishes.

    Raises:
        ValueError: Shapes differ.
    """
    if gradient.shape != towards.shape:
        raise ValueError(
            f"`gradient` and `towards` must have the same shape, got {tuple(gradient.shape)} and {tuple(towards.shape)}"
        )
    towards = towards.detach().to(gradient)

    def dot(left: Tensor, right: Tensor) -> Tensor:
        return scatter_sum((left * right).sum(-1), graph_index, n_graphs)

    lengths = (dot(gradient, gradient) * dot(towards, towards)).clamp(min=_TINY**2).sqrt()
    return 1.0 + dot(gradient, towards) / lengths


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Over the chosen entries; 0 of none."""
    return torch.where(chosen, values, torch.zeros_like(values)).sum() / chosen.sum().clamp(min=1)


def _checked(name: str, mask: Tensor | None, like: Tensor) -> Tensor:
    if mask is None:
        return torch.ones_like(like, dtype=torch.bool)
    if mask.shape != like.shape or mask.dtype != torch.bool:
        raise ValueError(
            f"`{name}` must be bool of shape {tuple(like.shape)}, got {mask.dtype} of shape {tuple(mask.shape)}"
        )
    return mask.to(like.device)
