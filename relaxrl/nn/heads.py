"""What a policy decides about a whole step: how much of it to make, and how far to trust it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from relaxrl.graph import scatter_max, scatter_mean
from relaxrl.nn.config import PolicyHeadsConfig
from relaxrl.nn.fusion import checked_features
from relaxrl.nn.inputs import NetworkInputs

MAX_LOG_RADIUS = 2.0
"""|log| of the trust radius over the longest step: a factor of 7.4 either way."""
STEP_INVARIANTS = 3
"""How many numbers `step_invariants` gives."""
_TINY = 1e-12
_FARTHEST = 1e20
"""Fourth power of a step in units of the longest one, beyond which nothing changes but the risk of overflow."""


@dataclass(frozen=True)
class Decisions:
    """What is decided for each structure.

    Attributes:
        gate: (n_graphs,), between 0 and 2; the factor on the proposed step.
        trust_radius: (n_graphs,), Å; no atom moves farther, and the step keeps its direction.
    """

    gate: Tensor
    trust_radius: Tensor


class PolicyHeads(nn.Module):
    r"""Gate and trust radius of each structure from invariants; without any effect before training.

    $$ g = 2 \sigma(x), \qquad r = r_{max} \exp(2 \tanh(y / 2)) $$

    x and y, both 0 before training, come from the trunk's scalars (their mean and their largest value over the atoms),
    from what the proposed step says of itself, and from the environment features, which enter here and nowhere before.

    Args:
        config: Sizes.
        n_scalars: Scalars per atom that the trunk gives.
        env_input_dim: Number of environment features; 0 means that none are read.
        max_step: Å, the trust radius before training.
    """

    def __init__(self, config: PolicyHeadsConfig, n_scalars: int, env_input_dim: int, max_step: float) -> None:
        super().__init__()
        self.config = config
        self.env_input_dim = env_input_dim
        self.max_step = max_step
        self.norm = nn.LayerNorm(2 * n_scalars)
        self.hidden = nn.Linear(2 * n_scalars + STEP_INVARIANTS + env_input_dim, config.channels)
        self.last = nn.Linear(config.channels, 2)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, scalars: Tensor, step: Tensor, inputs: NetworkInputs) -> Decisions:
        """Decisions in the parameters' dtype.

        Args:
            scalars: (n_atoms, n_scalars), of the trunk.
            step: (n_atoms, 3), Å; the proposed step.
            inputs: The structures.

        Raises:
            ValueError: Environment features are missing.
        """
        if self.config.detach:
            scalars, step = scalars.detach(), step.detach()
        index, n_graphs = inputs.graph_index, inputs.n_graphs
        largest = torch.stack([scatter_max(column, index, n_graphs) for column in scalars.unbind(1)], dim=1)
        pooled = self.norm(torch.cat([scatter_mean(scalars, index, n_graphs), largest], dim=1))
        known = [pooled, step_invariants(step, inputs).to(pooled)]
        if self.env_input_dim:
            known.append(checked_features(inputs.features, self.env_input_dim))
        logits: Tensor = self.last(nn.functional.silu(self.hidden(torch.cat(known, dim=1))))
        radius = self.max_step * torch.exp(MAX_LOG_RADIUS * torch.tanh(logits[:, 1] / MAX_LOG_RADIUS))
        return Decisions(2.0 * torch.sigmoid(logits[:, 0]), radius)


def step_invariants(step: Tensor, inputs: NetworkInputs) -> Tensor:
    """How long a step is, what it should gain, and how far it turns away from the forces, (n_graphs, 3).

    log10 of the longest displacement (Å), log10 of the work of the forces along the step per atom (eV), and the cosine
    between step and forces. Zero steps and forces count as 1e-6 of their unit.

    Args:
        step: (n_atoms, 3), Å.
        inputs: The structures with forces.
    """
    index, n_graphs = inputs.graph_index, inputs.n_graphs
    forces = inputs.forces.to(step)
    squared, work = step.square().sum(-1), (step * forces).sum(-1)
    longest = scatter_max(squared, index, n_graphs)
    gain = scatter_mean(work, index, n_graphs)
    sizes = scatter_mean(squared, index, n_graphs) * scatter_mean(forces.square().sum(-1), index, n_graphs)
    cosine = gain / sizes.clamp(min=_TINY**2).sqrt()
    return torch.stack(
        [0.5 * torch.log10(longest.clamp(min=1e-12)), torch.log10(gain.abs().clamp(min=1e-6)), cosine], 1
    )


def within_trust_radius(
    step: Tensor, limited: Tensor, radius: Tensor, max_step: float, graph_index: Tensor, n_graphs: int
) -> Tensor:
    r"""A limited step scaled, structure by structure, so that its longest displacement stays within the trust radius.

    $$ d \left( \frac{1 + (L / r_{max})^4}{1 + (L / r)^4} \right)^{1/4} $$

    with L the longest displacement before any limit: exactly 1 where the trust radius r is `max_step`, and
    differentiable in r also where the step is shorter, so that a radius can be learned.

    Args:
        step: (n_atoms, 3), Å; before any limit.
        limited: (n_atoms, 3), Å; the same with no displacement longer than `max_step`.
        radius: (n_graphs,), Å. One larger than `max_step` lengthens long steps towards that limit again.
        max_step: Å.
        graph_index: (n_atoms,), int64.
        n_graphs: Structures in the batch.

    Returns:
        (n_atoms, 3), Å.
    """
    longest = scatter_max(step.square().sum(-1), graph_index, n_graphs) / max_step**2
    fourth = longest.square().clamp(max=_FARTHEST)
    factor = ((1.0 + fourth) / (1.0 + fourth * (max_step / radius) ** 4)).pow(0.25)
    reached = scatter_max(limited.square().sum(-1), graph_index, n_graphs).clamp(min=_TINY**2).sqrt()
    factor = torch.where(radius > max_step, torch.minimum(factor, max_step / reached), factor)
    return limited * factor[graph_index].unsqueeze(-1)
