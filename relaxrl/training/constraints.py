"""Training by constraints: an actor's step is judged by the energy and the forces that it leaves.

Crystals are displaced from their minima. The data term draws the actor's displacement to an expert's; the constraint
terms ask that the structure it leads to be nearer to a minimum than the one that BFGS reaches: less energy above the
minimum (the scalar constraint) and smaller forces on the atoms (the vector constraint). Their gradient flows through a
potential that is differentiable twice and, for an actor that emits a Hessian, through the solve. At each evaluation the
curriculum measures on the development set how many orders of magnitude are missing, and sets the weights by it.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from relaxrl.agents import Agent
from relaxrl.errors import CalculatorError, ConfigError
from relaxrl.graph import AtomGraph, max_force
from relaxrl.io import graph_from_atoms
from relaxrl.losses import (
    ConstraintLoss,
    ConstraintWeights,
    cloning_loss,
    constraint_loss,
    curriculum_state,
    point_constraint_loss,
    scheduled_weights,
    total_loss,
)
from relaxrl.nn import Actor, build_actor
from relaxrl.potentials import TorchPotential, calculator_names
from relaxrl.training.constraints_config import ConstraintsConfig
from relaxrl.training.constraints_plots import Judged, plot_validations
from relaxrl.training.folder import RunFolder
from relaxrl.training.gradient import SETTLED, GradientTrainer, Validation
from relaxrl.training.progress import TrainingProgress
from relaxrl.training.supervised.measures import TargetErrors
from relaxrl.training.violations import JudgedStep, after_step, evaluate, judged_step, show, violations
from relaxrl.typing import StateDict


class ConstraintTrainer(GradientTrainer[ConstraintsConfig]):
    """See the module, and `GradientTrainer`.

    Raises:
        ConfigError: The potential is not written in torch, or a training crystal is not known to be a minimum.
    """

    method = "constraints"

    def __init__(self, config: ConstraintsConfig, folder: RunFolder, progress: TrainingProgress | None = None) -> None:
        super().__init__(config, folder, progress)
        self.differentiable = _differentiable(self.potential, config.calculator)
        self.weights = config.loss.weights
        self.validations: list[Judged] = []
        self._lowest = self._energies(self.minima)

    def build(self) -> Actor:
        """The actor."""
        return build_actor(self.config.actor, self.generators.torch("actor"))

    def agent(self, module: torch.nn.Module, metadata: dict[str, Any]) -> Agent:
        """The agent of an actor."""
        assert isinstance(module, Actor)
        return Agent(module, self.config.actor.max_step, metadata)

    def loss(self) -> tuple[Tensor, dict[str, float]]:
        """Data and constraint terms, under the weights of the last evaluation, over the actor's own steps."""
        config = self.config
        chosen, graph = self.draw()
        graph, fine = evaluate(self.potential, graph.to(config.run.device))
        if not bool(fine.any()):
            raise CalculatorError(f"{config.calculator}: no start of the batch could be evaluated; lower `rattle`")
        # Those that can't be evaluated even before a step leave the batch: they would spoil every gradient.
        kept = torch.nonzero(fine).flatten()
        graph, chosen = graph.select(kept), [chosen[k] for k in kept.tolist()]
        minima, lowest = [self.minima[k].positions for k in chosen], self._lowest[chosen]
        usable = torch.ones(len(chosen), dtype=torch.bool, device=graph.positions.device)
        losses: list[ConstraintLoss] = []
        for _ in range(config.unroll if self.schedule >= config.unroll_from else 1):
            usable = usable & (max_force(graph) > SETTLED * config.fmax)
            action = self.module(graph)
            after, fine = after_step(self.differentiable, graph, action)
            shown = show(config, self.potential, graph, minima, lowest)
            usable = usable & fine & shown.usable
            step = judged_step(
                graph, action, violations(after, lowest), shown, lowest, in_units_of_start=config.scale == "start"
            )
            losses.append(self._loss_of(step, graph, usable, self.weights))
            assert after.energy is not None
            assert after.forces is not None
            graph = graph.replace(
                positions=after.positions.detach(), energy=after.energy.detach(), forces=after.forces.detach()
            )
        total = torch.stack([loss.total for loss in losses]).mean()
        metrics = {f"train/{name}_loss": value for name, value in losses[0].metrics().items() if name != "total"}
        return total, {"train/loss": float(total.detach())} | metrics

    def validation(self, module: torch.nn.Module) -> Validation:
        """The loss under the configuration's own weights, and what the step leaves, in the units of the loss."""
        if self.held_out is None:
            return Validation()
        graph = self.held_out.graph.to(self.config.run.device)
        with torch.no_grad():
            action = module(graph).to(graph.positions)
        step, usable = self._judge(graph, action)
        if not bool(usable.any()):
            return Validation()
        loss = self._loss_of(step, graph, usable, self.config.loss.weights).total
        points = step.select(usable[graph.graph_index])
        targets = {name: TargetErrors() for name in self.config.targets}
        nothing = torch.zeros_like(points.vector_pred)
        targets["displacement"].add(points.output_pred, points.output_true, nothing)
        targets["energy"].add(points.scalar_pred, nothing[:, 0], nothing[:, 0])
        targets["forces"].add(points.vector_pred, nothing, nothing)
        return Validation(float(loss.detach()), targets)

    def validate(self) -> dict[str, float]:
        """How far the agent's step from the development starts is from the aims; sets the weights, draws pictures."""
        config = self.config
        if self.held_out is None:
            return {}
        graph = self.held_out.graph.to(config.run.device)
        action = self.current_agent().act(graph).requires_grad_()
        step, usable = self._judge(graph, action)
        if not bool(usable.any()):
            return {}
        rows = usable[graph.graph_index]
        points, eps = step.select(rows), config.loss.eps
        # ε counts here as in the loss: below it there is nothing left to be improved.
        state = curriculum_state(
            config.loss.curriculum,
            scalar_pred=points.scalar_pred.abs() + eps,
            scalar_true=points.scalar_true.abs() + eps,
            vector_pred=points.vector_pred.norm(dim=-1, keepdim=True) + eps,
            vector_true=points.vector_true.norm(dim=-1, keepdim=True) + eps,
        )
        self.weights = scheduled_weights(config.loss, state.progress)
        batch = graph.graph_index[rows]
        loss = constraint_loss(config.loss, **vars(points), batch=batch).metrics()
        of_target = constraint_loss(config.loss, **vars(_of_target(points)), batch=batch).metrics()
        self.validations.append(Judged(self.t_total, state, loss, of_target))
        self._draw(graph, action, step, points, usable)
        measured = asdict(state) | {f"{name}_loss": loss[name] for name in ("data", "relative", "absolute")}
        measured |= {f"{name}_weight": value for name, value in asdict(self.weights).items()}
        return {f"constraints/{name}": value for name, value in measured.items()}

    def state_dict(self) -> StateDict:
        """As of `GradientTrainer`, with what the evaluations have measured: the weights follow from the last one."""
        return super().state_dict() | {"validations": [asdict(validation) for validation in self.validations]}

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a state made by `state_dict`."""
        super().load_state_dict(state)
        self.validations = [Judged.from_dict(values) for values in state["validations"]]
        if self.validations:
            self.weights = scheduled_weights(self.config.loss, self.validations[-1].state.progress)

    def _judge(self, graph: AtomGraph, action: Tensor) -> tuple[JudgedStep, Tensor]:
        """A step from the held-out starts in the terms of the losses, and which of them are usable, (n_graphs,)."""
        assert self.held_out is not None
        config, lowest = self.config, self.held_out.lowest.to(graph.positions)
        after, fine = after_step(self.differentiable, graph, action)
        minima = [atoms.positions for atoms in self.held_out.minima]
        shown = show(config, self.potential, graph, minima, lowest)
        step = judged_step(
            graph, action, violations(after, lowest), shown, lowest, in_units_of_start=config.scale == "start"
        )
        return step, fine & shown.usable

    def _loss_of(
        self, step: JudgedStep, graph: AtomGraph, usable: Tensor, weights: ConstraintWeights
    ) -> ConstraintLoss:
        """All terms of one step of the usable structures."""
        config = self.config.loss
        mask = usable[graph.graph_index]
        loss = constraint_loss(config, **vars(step), weights=weights, mask=mask, batch=graph.graph_index)
        if self.config.data == "mse":
            return loss
        errors = cloning_loss(step.output_pred, step.output_true, graph.graph_index, usable, "relative")
        data = errors.sum() / usable.sum().clamp(min=1)
        total = total_loss(
            data,
            loss.relative,
            loss.absolute,
            weights=weights,
            physics_weight=config.physics_weight,
            mode=config.mode,
        )
        return ConstraintLoss(total, data, loss.relative, loss.absolute)

    def _draw(self, graph: AtomGraph, action: Tensor, step: JudgedStep, points: JudgedStep, usable: Tensor) -> None:
        """The pictures of an evaluation; the constraint loss in space is that of the largest structure."""
        fields = {name: getattr(step, name) for name in ("scalar_pred", "scalar_true", "vector_pred", "vector_true")}
        shown = int(torch.where(usable, graph.atoms_per_graph, 0).argmax())
        rows = graph.graph_index == shown
        of_atom = point_constraint_loss(self.config.loss, **{name: value[rows] for name, value in fields.items()})
        (slope,) = torch.autograd.grad(of_atom.sum(), action)
        space = (graph.positions[rows], of_atom.detach(), slope[rows])
        plot_validations(self.config.loss, self.validations, points, space, self.folder.plots)

    def _energies(self, minima: list[Any]) -> Tensor:
        return self.potential.evaluate(graph_from_atoms(minima)).energy.to(self.config.run.device)


def _differentiable(potential: object, calculator: str) -> TorchPotential:
    if isinstance(potential, TorchPotential):
        return potential
    raise ConfigError(
        f"method: `constraints` needs forces that can be differentiated, from a potential written in torch "
        f"({', '.join(calculator_names(torch_only=True))}), got calculator `{calculator}`; use `method=cloning` with "
        "any other"
    )


def _of_target(step: JudgedStep) -> JudgedStep:
    """The target judged as if it were a prediction."""
    return JudgedStep(
        step.output_true, step.output_true, step.scalar_true, step.scalar_true, step.vector_true, step.vector_true
    )
