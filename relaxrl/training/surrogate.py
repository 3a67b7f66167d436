r"""Training an energy model to plan in.

A policy that plans relaxes in the model, corrected by a constant so that its forces at x are the true ones, F. It ends
in the true minimum x* if the corrected force vanishes there:

$$ r = F_\theta(x^*) - F_\theta(x) + F = 0 $$

To first order it ends $|H^*|^{-1} r$ away from it, where H* is the Hessian at the minimum. So two evaluations of the
model and a product with a matrix that never changes tell the error of a whole inner relaxation: nothing is relaxed in
training. Both, r and the error of the displacement, are followed down relative to the forces and to the way to the
minimum, for displacements over two orders of magnitude: the small ones ask for the right curvature, the large ones for
the right surface.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from relaxrl.agents import Agent, limit_radially
from relaxrl.graph import AtomGraph, max_force, scatter_mean, scatter_sum
from relaxrl.io import graph_from_atoms
from relaxrl.nn import EnergyModel, build_energy_model, build_planning_actor
from relaxrl.nn.newton import floored_factor
from relaxrl.potentials import TorchPotential
from relaxrl.training.folder import RunFolder
from relaxrl.training.gradient import SETTLED, GradientTrainer, Validation
from relaxrl.training.progress import TrainingProgress
from relaxrl.training.supervised.measures import TargetErrors
from relaxrl.training.surrogate_config import SurrogateConfig

LONGEST_ERROR = 0.5
"""Å; the next step of the policy begins at most this far from the minimum."""
SOFTEST = 0.01
"""eV/Å²; softer modes of the minima count as if they were this stiff. The shipped minima have none."""


class SurrogateTrainer(GradientTrainer[SurrogateConfig]):
    """See the module, and `GradientTrainer`."""

    method = "surrogate"

    def __init__(self, config: SurrogateConfig, folder: RunFolder, progress: TrainingProgress | None = None) -> None:
        super().__init__(config, folder, progress)
        self._factors: dict[int, Tensor] = {}
        # Both remember the edges of as many structures as they have seen at once; most crystals are displaced so
        # little that those of the minima hold.
        minima = graph_from_atoms(self.minima)
        self.potential.evaluate(minima)
        if isinstance(self.module, EnergyModel):
            with torch.no_grad():
                self.module.forces(minima)

    def build(self) -> nn.Module:
        """The energy model."""
        return build_energy_model(self.config.planning.energy, self.generators.torch("energy"))

    def agent(self, module: nn.Module, metadata: dict[str, Any]) -> Agent:
        """The agent that plans in an energy model, in float64: forces are to be relaxed below float32's rounding."""
        actor = build_planning_actor(self.config.planning).double()
        actor.energy.load_state_dict(module.state_dict())
        return Agent(actor.eval().requires_grad_(False), self.config.planning.max_step, metadata)

    def loss(self) -> tuple[Tensor, dict[str, float]]:
        """Logarithms of the relative errors of forces and displacement, over the policy's own steps."""
        config = self.config
        chosen, graph = self.draw()
        minima = graph_from_atoms([self.minima[k] for k in chosen])
        at_minimum = self._forces(self.module, minima)
        usable = torch.ones(graph.n_graphs, dtype=torch.bool)
        losses, ratios = [], []
        for _ in range(config.unroll if self.schedule >= config.unroll_from else 1):
            evaluated = self.potential.evaluate(graph)
            forces = torch.nan_to_num(evaluated.forces)
            usable = usable & ~evaluated.failed
            usable = usable & (max_force(graph.replace(forces=forces)) > SETTLED * config.fmax)
            residual = at_minimum - self._forces(self.module, graph) + forces
            error = self._displacement_error(chosen, residual, minima)
            by_force, by_way, each = self._relative(graph, minima, forces, residual, error)
            count = usable.sum().clamp(min=1)
            losses.append(torch.where(usable, each, 0.0).sum() / count)
            ratios.append(
                (0.5 * torch.where(usable, torch.stack([by_force, by_way]).detach().log(), 0.0)).sum(1) / count
            )
            graph = graph.replace(positions=minima.positions + limit_radially(error.detach(), LONGEST_ERROR))
        metrics = {
            "train/surrogate_loss": float(losses[0].detach()),
            "train/force_error": float(ratios[0][0].exp()),
            "train/displacement_error": float(ratios[0][1].exp()),
            "train/displacement_error_last": float(ratios[-1][1].exp()),
        }
        return torch.stack(losses).mean(), metrics

    def validation(self, module: nn.Module) -> Validation:
        """The loss, and its parts: errors of the corrected forces (eV/Å) and of the displacement (Å)."""
        held = self.held_out
        if held is None:
            return Validation()
        assert held.graph.forces is not None
        minima = graph_from_atoms(held.minima)
        residual = (self._forces(module, minima) - self._forces(module, held.graph)).detach() + held.graph.forces
        known = range(len(self.minima), len(self.minima) + len(held.minima))
        error = self._displacement_error(list(known), residual, minima)
        _, _, losses = self._relative(held.graph, minima, held.graph.forces, residual, error)
        targets = {"displacement": TargetErrors(), "forces": TargetErrors()}
        for name, wrong in (("displacement", error), ("forces", residual)):
            targets[name].add(wrong, torch.zeros_like(wrong), torch.zeros_like(wrong))
        return Validation(float(losses.mean()), targets)

    def _relative(
        self, graph: AtomGraph, minima: AtomGraph, forces: Tensor, residual: Tensor, error: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Squares of the relative errors of forces and displacement, and the loss; each (n_graphs,).

        Args:
            graph: Before the step.
            minima: Where it should end.
            forces: (n_atoms, 3), eV/Å; the true ones.
            residual: (n_atoms, 3), eV/Å; the corrected model's at the minima.
            error: (n_atoms, 3), Å; of where the step ends.
        """

        def squared(vectors: Tensor) -> Tensor:
            return scatter_sum(vectors.square().sum(-1), minima.graph_index, minima.n_graphs)

        way = _without_drift(minima.positions - graph.positions, graph)
        tiny = torch.finfo(torch.float64).tiny
        by_force = squared(residual) / squared(forces).clamp(min=tiny)
        by_way = squared(error) / squared(way).clamp(min=tiny)
        logs = [torch.log(ratio + self.config.accuracy**2) for ratio in (by_force, by_way)]
        weight = self.config.force_weight
        return by_force, by_way, weight * logs[0] + (1.0 - weight) * logs[1]

    def _forces(self, model: nn.Module, graph: AtomGraph) -> Tensor:
        """A model's forces (n_atoms, 3), float64 on the CPU, with gradients."""
        moved = graph.to(self.config.run.device)
        if isinstance(model, EnergyModel):
            return model.forces(moved).to(graph.positions)
        assert isinstance(model, TorchPotential)
        return model.energies_and_forces(moved)[1].to(graph.positions)

    def _displacement_error(self, chosen: list[int], residual: Tensor, minima: AtomGraph) -> Tensor:
        """|H*|⁻¹ r, (n_atoms, 3), Å."""
        parts = torch.split(residual, minima.atoms_per_graph.tolist())
        solved = [
            torch.cholesky_solve(part.reshape(-1, 1), self._factor(k)).view(-1, 3)
            for k, part in zip(chosen, parts, strict=True)
        ]
        return torch.cat(solved)

    def _factor(self, k: int) -> Tensor:
        """Cholesky factor of |H*| of a minimum, (3n, 3n); the model's own where the calculator gives no Hessian.

        Args:
            k: Number of the training crystal, or, after these, of the held-out one.
        """
        known = self._factors.get(k)
        if known is not None:
            return known
        held = [] if self.held_out is None else self.held_out.minima
        graph = graph_from_atoms([*self.minima, *held][k])
        exact = isinstance(self.potential, TorchPotential)
        source = self.potential if isinstance(self.potential, TorchPotential) else self.module
        assert isinstance(source, TorchPotential)
        hessian = source.hessian(graph)[0].double().detach()
        present = torch.ones((1, graph.n_atoms), dtype=torch.bool)
        factor = floored_factor(hessian.unsqueeze(0), present, SOFTEST)[0]
        if exact:
            self._factors[k] = factor
        return factor


def _without_drift(displacement: Tensor, graph: AtomGraph) -> Tensor:
    """Less the mean over each structure: a rigid translation is no relaxation, and no force asks for it."""
    return displacement - scatter_mean(displacement, graph.graph_index, graph.n_graphs)[graph.graph_index]
