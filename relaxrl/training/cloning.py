"""Cloning the way to the minimum: an actor learns the displacement that ends the relaxation, from known minima.

No reward and no critic: crystals are displaced from their minima, and the actor's relative error is followed down, over
the step that it takes from there and the steps after it. For an actor that emits a Hessian the gradient flows through
the solve. On top of it the actor can be trained on-policy, on the energy that its own steps leave.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from relaxrl.agents import Agent
from relaxrl.graph import AtomGraph, max_force, scatter_mean
from relaxrl.io import graph_from_atoms
from relaxrl.losses import cloning_loss, remaining_energy_loss
from relaxrl.nn import Actor, VerifiedActor, VerifiedActorConfig, build_actor
from relaxrl.potentials import Potential
from relaxrl.training.action_energy import ActionEnergyTrainer
from relaxrl.training.cloning_config import CloningConfig
from relaxrl.training.folder import RunFolder
from relaxrl.training.gradient import SETTLED, GradientTrainer, Validation
from relaxrl.training.progress import TrainingProgress
from relaxrl.training.supervised.measures import TargetErrors
from relaxrl.typing import StateDict


class Cloner(GradientTrainer[CloningConfig]):
    """See the module, and `GradientTrainer`."""

    method = "cloning"

    def __init__(self, config: CloningConfig, folder: RunFolder, progress: TrainingProgress | None = None) -> None:
        super().__init__(config, folder, progress)
        self.action_energy = None if config.action_energy is None else self._build_energy()
        potential = self.potentials.of(self.minima)
        self._energies = potential.evaluate(graph_from_atoms(self.minima).to(config.run.device)).energy

    def build(self) -> Actor:
        """The actor."""
        return build_actor(self.config.actor, self.generators.torch("actor"))

    def agent(self, module: torch.nn.Module, metadata: dict[str, Any]) -> Agent:
        """The agent of an actor, with the energy over its actions where one is trained."""
        assert isinstance(module, Actor)
        config, energy = self.config.action_energy, self.action_energy
        if config is None or energy is None:
            return Agent(module, self.config.actor.max_step, metadata)
        sizes = VerifiedActorConfig(actor=self.config.actor, energy=config.model, verifier=config.verifier)
        return Agent(VerifiedActor(sizes, module, energy.exported), self.config.actor.max_step, metadata)

    def choose(self, generator: np.random.Generator) -> list[int]:
        """Several of each crystal, where they are to swap actions."""
        copies = 1 if self.config.action_energy is None else self.config.action_energy.copies
        drawn = generator.integers(len(self.minima), size=self.config.batch_size // copies)
        chosen: list[int] = np.repeat(drawn, copies).tolist()
        return chosen

    def update(self) -> dict[str, float]:
        """One update of the actor and, after the same backward pass, of the energy over its actions."""
        metrics = super().update()
        if self.action_energy is not None:
            metrics |= self.action_energy.step(self.config.trainer.max_lr)
        return metrics

    def loss(self) -> tuple[Tensor, dict[str, float]]:
        """Relative error of the way to the minimum, and the energy left, over the actor's own steps."""
        config = self.config
        chosen, graph = self.draw()
        graph = graph.to(config.run.device)
        minima = graph_from_atoms([self.minima[k] for k in chosen]).positions.to(graph.positions)
        lowest = self._energies[chosen]
        energy_weight = config.energy_weight if self.schedule >= config.energy_from else 0.0
        steps = config.unroll if self.schedule >= config.unroll_from else 1
        displacement_losses, energy_losses, contrasts, figures = [], [], [], []
        previous: Tensor | None = None
        potential = self.potentials.of([self.minima[k] for k in chosen])
        graph, failed = _evaluated(graph, potential)
        usable = ~failed
        for step in range(steps):
            usable = usable & (max_force(graph) > SETTLED * config.fmax)
            target = _without_drift(minima - graph.positions, graph)
            assert isinstance(self.module, Actor)
            inputs, output, proposed = self.module.proposal(graph)
            action = self.module.decide(proposed, output, inputs).to(graph.positions)
            if self.action_energy is not None:
                contrast, logged = self.action_energy.loss(self.module, inputs, output, target, usable, previous)
                contrasts.append(contrast)
                figures.append(logged)
                previous = action.detach()
            losses = cloning_loss(action, target, graph.graph_index, usable, "relative")
            displacement_losses.append(_mean(losses, usable))
            if step + 1 == steps and not energy_weight:
                break
            after, failed = _evaluated(graph.replace(positions=graph.positions + action.detach()), potential)
            assert after.forces is not None
            assert after.energy is not None
            assert graph.energy is not None
            if energy_weight:
                both = usable & ~failed
                losses = remaining_energy_loss(
                    action, after.forces, after.energy, graph.energy, lowest, graph.graph_index, both
                )
                energy_losses.append(_mean(losses, both))
            graph, usable = after, usable & ~failed
        total = torch.stack(displacement_losses).mean()
        metrics = {"train/cloning_loss": float(displacement_losses[0].detach())}
        if steps > 1:
            metrics["train/cloning_loss_last"] = float(displacement_losses[-1].detach())
        if energy_losses:
            energy = torch.stack(energy_losses).mean()
            total = total + energy_weight * energy
            metrics["train/energy_loss"] = float(energy.detach())
        if contrasts:
            total = total + torch.stack(contrasts).mean()
            names = dict.fromkeys(name for one in figures for name in one)
            metrics |= {name: float(np.mean([one[name] for one in figures if name in one])) for name in names}
        return total, metrics

    @torch.no_grad()
    def validation(self, module: torch.nn.Module) -> Validation:
        """Relative error of the way to the minimum, and the displacement's own (Å)."""
        if self.held_out is None:
            return Validation()
        graph = self.held_out.graph.to(self.config.run.device)
        action = module(graph).to(graph.positions)
        target = _without_drift(self.held_out.ends.to(graph.positions) - graph.positions, graph)
        everything = torch.ones(graph.n_graphs, dtype=torch.bool, device=graph.positions.device)
        losses = cloning_loss(action, target, graph.graph_index, everything, "relative")
        errors = TargetErrors()
        errors.add(action, target, torch.zeros_like(target))
        return Validation(float(losses.mean()), {"displacement": errors})

    def state_dict(self) -> StateDict:
        """As of `GradientTrainer`, with the energy over actions."""
        energy = self.action_energy
        return super().state_dict() | ({} if energy is None else {"action_energy": energy.state_dict()})

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a state made by `state_dict`."""
        super().load_state_dict(state)
        if self.action_energy is not None:
            self.action_energy.load_state_dict(state["action_energy"])

    def _build_energy(self) -> ActionEnergyTrainer:
        config, trainer = self.config.action_energy, self.config.trainer
        assert config is not None
        if config.freeze_actor:
            self.module.requires_grad_(False)
        device = next(self.module.parameters()).device
        return ActionEnergyTrainer(
            config, self.config.actor.trunk, self.generators, device, trainer.ema_decay, trainer.ema_warmup
        )


def _evaluated(graph: AtomGraph, potential: Potential) -> tuple[AtomGraph, Tensor]:
    """The graph with finite forces and energy, and which structures have none of their own, (n_graphs,)."""
    evaluated = potential.evaluate(graph)
    forces, energy = torch.nan_to_num(evaluated.forces), torch.nan_to_num(evaluated.energy)
    return graph.replace(forces=forces, energy=energy), evaluated.failed


def _mean(losses: Tensor, usable: Tensor) -> Tensor:
    """Over the usable structures; zero where there are none."""
    return losses.sum() / usable.sum().clamp(min=1)


def _without_drift(displacement: Tensor, graph: AtomGraph) -> Tensor:
    """Less the mean over each structure: a rigid translation is no relaxation, and no force asks for it."""
    return displacement - scatter_mean(displacement, graph.graph_index, graph.n_graphs)[graph.graph_index]
