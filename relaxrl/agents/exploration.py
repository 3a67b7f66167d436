"""Exploration noise that respects equivariance, and the radial limit of a displacement.

All noise is relative: it scales with the displacement that it perturbs. Noise of a fixed size (0.05 Å, say) would
drown the last steps before convergence, which are a hundred times smaller.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from relaxrl.agents.schedules import Schedule
from relaxrl.config import configclass
from relaxrl.graph import AtomGraph

_TINY = 1e-12
"""Å; lengths below this have no direction."""


@configclass
class ExplorationConfig:
    """Which noise, and how much of it."""

    kind: Literal["equivariant", "isotropic", "gaussian", "none"] = "equivariant"
    """`equivariant`: each atom's displacement is turned by a random angle and scaled by random factors. `isotropic`: a
    random vector of relative size is added. `gaussian`: noise of fixed size per component, the usual choice elsewhere,
    for comparison. `none`: no noise on the action."""
    scale: Schedule = Schedule(kind="exponential", start=1.0, end=0.2, steps=20_000)
    """Multiplies all the sizes below, against environment steps."""
    angle: float = 0.3
    """Radians; standard deviation of the angle by which an atom's displacement is turned (`equivariant`)."""
    structure_factor: float = 0.3
    """Standard deviation of the logarithm of the factor common to all atoms of a structure (`equivariant`): explores
    the step length, to which a relaxation is most sensitive."""
    atom_factor: float = 0.2
    """Standard deviation of the logarithm of each atom's own factor (`equivariant`)."""
    relative: float = 0.3
    """Root-mean-square length of the added vector in units of the atom's own displacement (`isotropic`)."""
    absolute: float = 0.02
    """Å per component (`gaussian`)."""
    random_candidates: float = 0.2
    """Share of the structures for which a candidate is drawn at random, where a critic ranks candidates."""
    state: float = 0.0
    """Also perturb what the actor sees: positions by random vectors of this size in units of the structure's
    root-mean-square displacement, forces by the same relative amount. Costs a second call of the actor; 0 is off."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("angle", "structure_factor", "atom_factor", "relative", "absolute", "random_candidates", "state"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}")
        if self.scale.bounds[0] < 0.0:
            raise ValueError(f"`scale` must not become negative, got {self.scale.bounds[0]}")


def explore(
    actor: Callable[[AtomGraph], Tensor],
    graph: AtomGraph,
    config: ExplorationConfig,
    max_step: float,
    generator: torch.Generator,
    t: int = 0,
) -> Tensor:
    """The actor's displacement with exploration noise, radially limited.

    Args:
        actor: Displacements (n_atoms, 3), Å, of a batch of structures.
        graph: The structures.
        config: Kind and size of the noise.
        max_step: Å; no atom is asked to move farther.
        generator: Source of randomness, on the CPU.
        t: Environment steps so far.

    Returns:
        (n_atoms, 3), Å.
    """
    scale = config.scale.at(t)
    displacement = limit_radially(actor(graph), max_step)
    if config.state * scale > 0.0:
        displacement = actor(perturb_state(graph, displacement, config.state * scale, generator))
    return limit_radially(perturb_action(displacement, graph.graph_index, config, scale, generator), max_step)


def perturb_action(
    displacement: Tensor, graph_index: Tensor, config: ExplorationConfig, scale: float, generator: torch.Generator
) -> Tensor:
    """A displacement with the configured noise of `scale` times its configured size.

    Args:
        displacement: (n_atoms, 3), Å.
        graph_index: (n_atoms,), int64.
        config: Kind and size.
        scale: Factor on the sizes.
        generator: Source of randomness, on the CPU.
    """
    n_atoms = len(displacement)
    n_graphs = int(graph_index.max()) + 1 if n_atoms else 0

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=displacement.dtype).to(displacement.device)

    if config.kind == "none" or scale == 0.0:
        return displacement
    if config.kind == "gaussian":
        return displacement + scale * config.absolute * normal(n_atoms, 3)
    if config.kind == "isotropic":
        return add_relative(displacement, normal(n_atoms, 3), scale * config.relative)
    turned = turn(displacement, normal(n_atoms, 3), scale * config.angle * normal(n_atoms))
    logarithm = scale * (config.structure_factor * normal(n_graphs)[graph_index] + config.atom_factor * normal(n_atoms))
    factors: Tensor = torch.exp(logarithm).unsqueeze(-1)
    return turned * factors


def turn(displacement: Tensor, direction: Tensor, angle: Tensor) -> Tensor:
    """Turn each vector by an angle towards a direction, keeping its length.

    Equivariant: turning `displacement` and `direction` together turns the result.

    Args:
        displacement: (n, 3).
        direction: (n, 3); only its part perpendicular to the vector matters. Where there is none the vector stays.
        angle: (n,), radians.

    Returns:
        (n, 3).
    """
    length = torch.linalg.vector_norm(displacement, dim=-1, keepdim=True)
    along = displacement / length.clamp(min=_TINY)
    across = direction - (direction * along).sum(-1, keepdim=True) * along
    width = torch.linalg.vector_norm(across, dim=-1, keepdim=True)
    turned = length * (torch.cos(angle).unsqueeze(-1) * along + torch.sin(angle).unsqueeze(-1) * across / width)
    return torch.where((length > _TINY) & (width > _TINY), turned, displacement)


def add_relative(displacement: Tensor, noise: Tensor, relative: float, clip: float | None = None) -> Tensor:
    """Add to each vector a random one of relative size.

    Equivariant: turning `displacement` and `noise` together turns the result.

    Args:
        displacement: (n, 3).
        noise: (n, 3); standard normal components.
        relative: Root-mean-square length of the added vector in units of the vector's own length.
        clip: The longest added vector in those units; None leaves it.

    Returns:
        (n, 3).
    """
    added = noise * (relative / 3**0.5)
    if clip is not None:
        added = limit_radially(added, clip)
    length: Tensor = torch.linalg.vector_norm(displacement, dim=-1, keepdim=True)
    return displacement + added * length


def perturb_state(graph: AtomGraph, displacement: Tensor, relative: float, generator: torch.Generator) -> AtomGraph:
    """The structures as seen through noise that is small where the steps are small.

    Args:
        graph: The structures.
        displacement: (n_atoms, 3), Å; the unperturbed action, which sets the size of the noise.
        relative: Size of the noise in units of the structure's root-mean-square displacement, and of each force.
        generator: Source of randomness, on the CPU.

    Returns:
        A copy with perturbed positions and forces, without edges.
    """

    def normal() -> Tensor:
        drawn = torch.randn(graph.n_atoms, 3, generator=generator, dtype=graph.positions.dtype)
        return drawn.to(graph.positions.device)

    square = displacement.square().sum(-1).to(graph.positions)
    sums = square.new_zeros(graph.n_graphs).index_add(0, graph.graph_index, square)
    size = (sums / graph.atoms_per_graph).sqrt()[graph.graph_index].unsqueeze(-1)
    positions = graph.positions + (relative / 3**0.5) * size * normal()
    forces = graph.forces if graph.forces is None else add_relative(graph.forces, normal(), relative)
    return graph.without_edges().replace(positions=positions, forces=forces)


def limit_radially(displacement: Tensor, max_length: float) -> Tensor:
    """Shorten vectors that are longer than `max_length`, keeping their direction (a clip per component would not).

    Args:
        displacement: (n, 3).
        max_length: In the same unit.
    """
    length = torch.linalg.vector_norm(displacement, dim=-1, keepdim=True)
    return torch.where(length > max_length, displacement * (max_length / length.clamp(min=_TINY)), displacement)
