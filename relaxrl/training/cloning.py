"""Cloning the way to the minimum: an actor learns the displacement that ends the relaxation, from known minima.

No reward and no critic: crystals are displaced from their minima, and the actor's relative error is followed down, over
the step that it takes from there and the steps after it. For an actor that emits a Hessian the gradient flows through
the solve. On top of it the actor can be trained on-policy, on the energy that its own steps leave.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from relaxrl.agents import Agent
from relaxrl.errors import CalculatorError
from relaxrl.io import graph_from_atoms
from relaxrl.losses import cloning_loss, remaining_energy_loss, strain_loss
from relaxrl.nn import (
    Actor,
    HessianActor,
    NetworkInputs,
    TrunkOutput,
    VerifiedActor,
    VerifiedActorConfig,
    build_actor,
)
from relaxrl.potentials import Potential
from relaxrl.training.action_energy import ActionEnergyTrainer
from relaxrl.training.cloning_config import CloningConfig
from relaxrl.training.folder import RunFolder
from relaxrl.training.gradient import SETTLED, GradientTrainer, Validation
from relaxrl.training.lesson import Lesson
from relaxrl.training.progress import TrainingProgress
from relaxrl.training.recorded import RecordedFrames
from relaxrl.training.straining import are_minima_of_cell, as_tensor, displaced, log_uniform, strained
from relaxrl.training.supervised.measures import TargetErrors
from relaxrl.training.way import Way, moved, way_to
from relaxrl.typing import BoolArray, StateDict


class Cloner(GradientTrainer[CloningConfig]):
    """See the module, and `GradientTrainer`."""

    method = "cloning"

    def __init__(self, config: CloningConfig, folder: RunFolder, progress: TrainingProgress | None = None) -> None:
        super().__init__(config, folder, progress)
        self.action_energy = None if config.action_energy is None else self._build_energy()
        self._energies = self._lowest_energies() if config.energy_weight else None
        self._relaxed_cells = are_minima_of_cell(self.minima, self.potentials) if config.cell else None
        self.recorded: RecordedFrames | None = None
        if config.frames is not None:
            self.recorded = RecordedFrames(config.frames, config.cell > 0, SETTLED * config.fmax)
        self._held_cells = self._hold_cells()

    def build(self) -> Actor:
        """The actor."""
        return build_actor(self.config.actor, self.generators.torch("actor"))

    def agent(self, module: torch.nn.Module, metadata: dict[str, Any]) -> Agent:
        """The agent of an actor, with the energy over its actions where one is trained."""
        assert isinstance(module, Actor)
        if self.recorded is not None:
            elements = sorted({*metadata["elements"], *self.recorded.elements})
            metadata = metadata | {"elements": elements, "frames": self.config.frames}
        config, energy = self.config.action_energy, self.action_energy
        if config is None or energy is None:
            return Agent(module, self.config.actor.max_step, metadata)
        sizes = VerifiedActorConfig(actor=self.config.actor, energy=config.model, verifier=config.verifier)
        return Agent(VerifiedActor(sizes, module, energy.exported), self.config.actor.max_step, metadata)

    def choose(self, generator: np.random.Generator) -> list[int]:
        """Several of each crystal, where they are to swap actions."""
        copies = 1 if self.config.action_energy is None else self.config.action_energy.copies
        drawn = self.pick((self.config.batch_size - self.config.recorded) // copies, generator)
        chosen: list[int] = np.repeat(drawn, copies).tolist()
        return chosen

    def lesson(self) -> tuple[list[int], Lesson]:
        """A batch of displaced crystals with forces, and which of `minima` they are."""
        if self._relaxed_cells is None:
            chosen, graph = self.draw()
            strains = None
        else:
            generator = self.generators.numpy("draw")
            chosen = self.choose(generator)
            moving = self._relaxed_cells[chosen] & (generator.random(len(chosen)) < self.config.cell)
            graph = graph_from_atoms(self._displaced([self.minima[k] for k in chosen], moving, generator))
            strains = as_tensor(moving, self.config.run.device)
        graph = graph.to(self.config.run.device)
        minima = graph_from_atoms([self.minima[k] for k in chosen]).to(self.config.run.device)
        everything = torch.ones(graph.n_graphs, dtype=torch.bool, device=graph.positions.device)
        return chosen, self._evaluated(Lesson(graph, minima, strains, everything), chosen)

    def update(self) -> dict[str, float]:
        """One update of the actor and, after the same backward pass, of the energy over its actions."""
        metrics = super().update()
        if self.action_energy is not None:
            metrics |= self.action_energy.step(self.config.trainer.max_lr)
        return metrics

    def loss(self) -> tuple[Tensor, dict[str, float]]:
        """Relative error of the way to the minimum, and the energy left, over the actor's own steps."""
        config = self.config
        chosen, lesson = self.lesson()
        energy_weight = config.energy_weight if self.schedule >= config.energy_from else 0.0
        steps = config.unroll if self.schedule >= config.unroll_from else 1
        displacement_losses, strain_losses, energy_losses, contrasts, figures = [], [], [], [], []
        previous: Tensor | None = None
        first_strain = math.nan
        for step in range(steps):
            seen = lesson
            if step == 0 and self.recorded is not None:
                recorded = self.recorded.draw(config.recorded, self.generators.numpy("frames"))
                seen = lesson.joined(recorded.to(config.run.device))
            usable = seen.on_the_way(SETTLED * config.fmax)
            target = seen.way
            assert isinstance(self.module, Actor)
            action, known = _act(self.module, seen)
            if self.action_energy is not None and known is not None:
                contrast, logged = self.action_energy.loss(self.module, *known, target.displacement, usable, previous)
                contrasts.append(contrast)
                figures.append(logged)
                previous = action.displacement.detach()
            index = seen.graph.graph_index
            losses = cloning_loss(action.displacement, target.displacement, index, usable, "relative")
            displacement_losses.append(_mean(losses, usable))
            if seen.strains is not None and config.cell:
                strained_ones = usable & seen.strains
                losses = strain_loss(action.strain, _reachable(self.module, target.strain), strained_ones)
                strain_losses.append(_mean(losses, usable))
                if step == 0 and bool(strained_ones.any()):
                    first_strain = float(_mean(losses.detach(), strained_ones))
            if step + 1 == steps and not energy_weight:
                break
            # Recorded frames end here: what comes after them was not recorded.
            n_atoms, n_graphs = lesson.graph.n_atoms, lesson.graph.n_graphs
            usable = usable[:n_graphs]
            own = Way(action.displacement[:n_atoms], action.strain[:n_graphs])
            after = moved(lesson.graph, Way(own.displacement.detach(), own.strain.detach()), lesson.strains)
            before, lesson = lesson, self._evaluated(replace(lesson, graph=after, usable=usable), chosen)
            if energy_weight:
                energy_losses.append(self._energy_loss(own.displacement, before, lesson, chosen))
        total = torch.stack(displacement_losses).mean()
        metrics = {"train/cloning_loss": float(displacement_losses[0].detach())}
        if steps > 1:
            metrics["train/cloning_loss_last"] = float(displacement_losses[-1].detach())
        if strain_losses:
            total = total + config.strain_weight * torch.stack(strain_losses).mean()
        if not math.isnan(first_strain):
            metrics["train/strain_loss"] = first_strain
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
        """Relative error of the way to the minimum, and the errors of displacement (Å) and strain themselves."""
        if self.held_out is None:
            return Validation()
        graph = self.held_out.graph.to(self.config.run.device)
        minima = graph_from_atoms(self.held_out.minima).to(self.config.run.device)
        everything = torch.ones(graph.n_graphs, dtype=torch.bool, device=graph.positions.device)
        action, target = module(graph).to(graph.positions), way_to(graph, minima).displacement
        loss = float(cloning_loss(action, target, graph.graph_index, everything, "relative").mean())
        errors = {"displacement": TargetErrors()}
        errors["displacement"].add(action, target, torch.zeros_like(target))
        held, weight = self._held_cells, self.config.cell
        if held is not None:
            assert isinstance(module, Actor)
            usable = held.on_the_way(SETTLED * self.config.fmax)
            step, way = _act(module, held)[0], held.way
            index = held.graph.graph_index
            with_cell = cloning_loss(step.displacement, way.displacement, index, usable, "relative")
            with_cell = with_cell + self.config.strain_weight * strain_loss(
                step.strain, _reachable(module, way.strain), usable
            )
            loss = (1 - weight) * loss + weight * float(_mean(with_cell, usable))
            errors["strain"] = TargetErrors()
            errors["strain"].add(step.strain[usable], way.strain[usable], torch.zeros_like(way.strain[usable]))
        return Validation(loss, errors)

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

    def _evaluated(self, lesson: Lesson, chosen: Sequence[int]) -> Lesson:
        """With finite forces and energy of these training crystals, and stress where a cell moves."""
        return _evaluated(lesson, self.potentials.of([self.minima[k] for k in chosen]))

    def _displaced(
        self, minima: Sequence[Atoms], moving: BoolArray | Sequence[bool], generator: np.random.Generator
    ) -> list[Atoms]:
        """Copies displaced at random and, where the cell moves, strained."""
        sizes = log_uniform(self.config.rattle, len(minima), generator)
        strains = log_uniform(self.config.strain, len(minima), generator)
        copies = [
            strained(atoms, strain, generator) if moves else atoms
            for atoms, moves, strain in zip(minima, moving, strains, strict=True)
        ]
        return [displaced(copy, size, generator) for copy, size in zip(copies, sizes, strict=True)]

    def _hold_cells(self) -> Lesson | None:
        """Strained minima of the development starts; None where cells are not trained."""
        if not self.config.cell or self.held_out is None:
            return None
        found = self.held_out.minima
        relaxed = are_minima_of_cell(found, self.potentials)
        minima = [atoms for atoms, fine in zip(found, relaxed, strict=True) if fine]
        if not minima:
            return None
        moving = [True] * len(minima)
        # A stream of its own: the starts at fixed cells stay those of runs without strain.
        generator = np.random.default_rng([self.config.evaluation.seed, 1])
        graph = graph_from_atoms(self._displaced(minima, moving, generator))
        everything = torch.ones(len(minima), dtype=torch.bool)
        lesson = Lesson(graph, graph_from_atoms(minima), everything, everything)
        return _evaluated(lesson, self.potentials.of(minima)).to(self.config.run.device)

    def _lowest_energies(self) -> Tensor:
        potential = self.potentials.of(self.minima)
        return potential.evaluate(graph_from_atoms(self.minima).to(self.config.run.device)).energy

    def _energy_loss(self, action: Tensor, before: Lesson, after: Lesson, chosen: Sequence[int]) -> Tensor:
        """The energy that displacements leave above the minima, of crystals whose cells are held."""
        assert self._energies is not None
        both = after.usable if before.strains is None else after.usable & ~before.strains
        forces, higher, lower = after.graph.forces, before.graph.energy, after.graph.energy
        assert forces is not None
        assert higher is not None
        assert lower is not None
        index, lowest = before.graph.graph_index, self._energies[chosen]
        return _mean(remaining_energy_loss(action, forces, lower, higher, lowest, index, both), both)


def _act(module: Actor, lesson: Lesson) -> tuple[Way, tuple[NetworkInputs, TrunkOutput] | None]:
    """The actor's step, and at fixed cells what it reads and makes of it."""
    graph = lesson.graph
    if lesson.strains is None or not bool(lesson.strains.any()):
        inputs, output, proposed = module.proposal(graph)
        displacement = module.decide(proposed, output, inputs).to(graph.positions)
        return Way(displacement, displacement.new_zeros(graph.n_graphs, 6)), (inputs, output)
    assert isinstance(module, HessianActor)  # the configuration sees to it
    return Way(*module.displacement_and_strain(graph, lesson.strains)), None


def _reachable(module: Actor, strain: Tensor) -> Tensor:
    """As much of a strain as one step of the actor may make."""
    assert isinstance(module, HessianActor)
    return module.limited_strain(strain)


def _evaluated(lesson: Lesson, potential: Potential) -> Lesson:
    """With finite forces, energy and, where a cell moves, stress; those that have none of their own are not usable."""
    graph, stress = lesson.graph, None
    if lesson.strains is None:
        evaluated = potential.evaluate(graph)
    else:
        evaluated = potential.evaluate(graph, stress=True)
        stress = evaluated.stress
        if stress is None and bool(lesson.strains.any()):
            raise CalculatorError("`cell` above 0 needs a calculator that gives stress; use one that does, or `cell=0`")
        stress = torch.zeros_like(graph.cell) if stress is None else torch.nan_to_num(stress)
    forces, energy = torch.nan_to_num(evaluated.forces), torch.nan_to_num(evaluated.energy)
    graph = graph.replace(forces=forces, energy=energy, stress=stress)
    return replace(lesson, graph=graph, usable=lesson.usable & ~evaluated.failed)


def _mean(losses: Tensor, usable: Tensor) -> Tensor:
    """Over the usable structures; zero where there are none."""
    return losses.sum() / usable.sum().clamp(min=1)
