"""How much of the energy above the minimum a step leaves, with the exact gradient that the forces after it give."""

from __future__ import annotations

import torch
from torch import Tensor

from relaxrl.graph import scatter_sum

RELATIVE_FLOOR = 1e-4
"""Share of the energy at which the logarithm saturates: a hundredth of the displacement, beyond which the next step
begins at forces that hardly matter any more."""
NEGLIGIBLE_ENERGY = 1e-10
"""eV; energies above the minimum below this are rounding noise, to which none is compared."""


def remaining_energy_loss(
    displacement: Tensor,
    forces_after: Tensor,
    energy_after: Tensor,
    energy_before: Tensor,
    energy_minimum: Tensor,
    graph_index: Tensor,
    usable: Tensor,
    floor: float = RELATIVE_FLOOR,
) -> Tensor:
    r"""$\log(\max(E_1 - E_{min}, 0) / (E_0 - E_{min}) + \epsilon)$ of each structure, exactly zero where not usable.

    The energy after the step E_1 needs no differentiable potential: its derivative by the displacement is minus the
    force after the step, which every calculator gives. A step that ends below the known minimum has no gradient.

    Args:
        displacement: (n_atoms, 3), Å; the actor's, with gradient.
        forces_after: (n_atoms, 3), eV/Å, at the positions that the displacement leads to.
        energy_after: (n_graphs,), eV, there.
        energy_before: (n_graphs,), eV, where the step began.
        energy_minimum: (n_graphs,), eV.
        graph_index: (n_atoms,), int64.
        usable: (n_graphs,), bool. Others may hold any numbers.
        floor: ε.

    Returns:
        (n_graphs,).

    Raises:
        ValueError: `displacement` and `forces_after` differ in shape.
    """
    if displacement.shape != forces_after.shape:
        raise ValueError(
            f"`displacement` and `forces_after` must have the same shape, got {tuple(displacement.shape)} and "
            f"{tuple(forces_after.shape)}"
        )
    n_graphs = len(usable)
    chosen = usable[graph_index].unsqueeze(-1)
    forces = torch.where(chosen, forces_after.detach(), torch.zeros_like(forces_after)).to(displacement)
    # Zero in value, and with the gradient of the energy after the step.
    change = -scatter_sum((forces * (displacement - displacement.detach())).sum(-1), graph_index, n_graphs)
    blank = torch.zeros_like(energy_after)
    begin = torch.where(usable, energy_before - energy_minimum, blank).clamp(min=NEGLIGIBLE_ENERGY)
    end = torch.where(usable, energy_after - energy_minimum, blank) + change
    loss = torch.log(end.clamp(min=0.0) / begin + floor)
    return torch.where(usable, loss, torch.zeros_like(loss))
