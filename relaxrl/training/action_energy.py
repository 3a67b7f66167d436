"""Training an energy over actions by contrast, beside the actor that it judges.

The right action of a displaced crystal is the way to its minimum. Wrong ones are made from it, taken from other
structures of the batch, and read off the actor's earlier layers: those are near to right, so that there is something
to be learned from them. Structures of different size can't swap actions, as an action has one vector per atom: they are
swapped among structures with as many atoms, each of which may be a copy of the same crystal displaced otherwise; all
other wrong actions belong to their structure alone and stand in columns of their own.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from relaxrl.losses import (
    ContrastiveLoss,
    actions_of,
    gradient_alignment,
    middle_candidate,
    noisy_actions,
    saturation,
    swap_info_nce,
    swap_partners,
)
from relaxrl.nn import ActionEnergy, Actor, NetworkInputs, TrunkConfig, TrunkOutput, build_action_energy
from relaxrl.nn.candidates import pick
from relaxrl.seeding import Generators
from relaxrl.training.action_energy_config import ActionEnergyTrainingConfig
from relaxrl.training.progressive import Pace, progressive_pace
from relaxrl.training.supervised.engine import averaged
from relaxrl.typing import StateDict

BETWEEN = slice(1, -1)
"""Layers of message passing but the last: the first entry of a trunk's layers is its input."""
Columns = list[tuple[Tensor, Tensor]]
"""Actions (n_atoms, 3) and which structures have one, (n_graphs,)."""


class ActionEnergyTrainer:
    """The energy, its optimizer and its schedule. `loss` is added to the actor's; `step` follows each backward pass.

    Args:
        config: What to do.
        context: The trunk of the actor.
        generators: Streams `action_energy` and `action_energy_noise` are used.
        device: Of the networks.
        ema_decay: Of the averaged parameters that are saved; None saves the last ones.
        ema_warmup: Whether the average's memory is shorter while there is little in it.
    """

    def __init__(
        self,
        config: ActionEnergyTrainingConfig,
        context: TrunkConfig,
        generators: Generators,
        device: torch.device,
        ema_decay: float | None = None,
        ema_warmup: bool = True,
    ) -> None:
        self.config = config
        self.model = build_action_energy(config.model, context, generators.torch("action_energy")).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.average = None if ema_decay is None else averaged(self.model, ema_decay, ema_warmup)
        self.noise = generators.torch("action_energy_noise")
        self.updates = 0
        self._finite = True

    @property
    def pace(self) -> Pace:
        """Factor on the rate, and limit of the gradient, of the next update."""
        config = self.config
        return progressive_pace(self.updates, config.ramp) if config.progressive else Pace(1.0, config.grad_clip)

    @property
    def exported(self) -> ActionEnergy:
        """The model to be used: of averaged parameters where there is an average."""
        model = self.model if self.average is None else self.average.module
        assert isinstance(model, ActionEnergy)
        return model

    def loss(
        self,
        actor: Actor,
        inputs: NetworkInputs,
        output: TrunkOutput,
        expert: Tensor,
        usable: Tensor,
        previous: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, float]]:
        """The contrastive loss of a batch, and the figures of the log.

        Args:
            actor: Whose layers are read out.
            inputs: The structures.
            output: What the actor's trunk makes of them, with gradient; `weight` scales what flows back into it.
            expert: (n_atoms, 3), Å; the right actions.
            usable: (n_graphs,), bool; structures that count.
            previous: (n_atoms, 3), Å; the steps that led here, if there were any.

        Returns:
            A scalar, 0 with gradient 0 where it would not be finite, and figures by name.
        """
        config = self.config
        expert, usable = expert.detach().to(inputs.forces), usable.to(inputs.forces.device)
        context = attenuated(output, config.weight)
        partners, there = self._swaps(inputs)
        ptr = _ptr(inputs)
        swapped = [actions_of(row, expert, ptr, inputs.graph_index) for row in partners]
        own = self.negatives(actor, inputs, output, expert, previous)
        raw = self.model.raw(inputs, context, torch.stack([expert, *swapped, *(action for action, _ in own)]))
        contrast = self._contrast(self.model.energy(raw), partners, there, [present for _, present in own], usable)
        loss = contrast.loss
        figures = {
            "loss": float(contrast.loss.detach()),
            "gap": contrast.gap,
            "positive": float(contrast.positive.detach()),
            "negative": float(contrast.negative.detach()),
            "temperature": contrast.temperature,
            "saturation": float(saturation(raw)),
        }
        if config.alignment:
            aligned = self._alignment(inputs, context, expert, usable)
            loss = loss + config.alignment * aligned
            figures["alignment"] = float(aligned.detach())
        if not bool(torch.isfinite(loss)):
            self._finite = False
            return 0.0 * torch.stack([parameter.sum() for parameter in self.model.parameters()]).sum(), {}
        return loss, {f"action_energy/{name}": value for name, value in figures.items()}

    def step(self, learning_rate: float) -> dict[str, float]:
        """One update after a backward pass, unless something was not finite; gradients are cleared.

        Args:
            learning_rate: The configured one.

        Returns:
            Norm of the gradient before its limit, rate, and whether anything was not finite.
        """
        pace = self.pace
        rate = learning_rate * self.config.rate * pace.rate
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), pace.clip)
        finite = self._finite and bool(torch.isfinite(norm))
        if finite:
            self.optimizer.step()
            if self.average is not None:
                self.average.update_parameters(self.model)
        self.optimizer.zero_grad()
        self.updates += 1
        self._finite = True
        figures = {"lr": rate, "grad_clip": pace.clip, "not_finite": float(not finite)}
        if finite:
            figures["grad_norm"] = float(norm)
        return {f"action_energy/{name}": value for name, value in figures.items()}

    @torch.no_grad()
    def negatives(
        self, actor: Actor, inputs: NetworkInputs, output: TrunkOutput, expert: Tensor, previous: Tensor | None
    ) -> Columns:
        """The wrong actions that belong to each structure alone, in the order of the configuration."""
        config, index, n_graphs = self.config, inputs.graph_index, inputs.n_graphs
        all_graphs = torch.ones(n_graphs, dtype=torch.bool, device=index.device)
        columns: Columns = []
        for kind in config.negatives:
            if kind == "layers":
                columns.append((self.middle_layer(actor, inputs, output), all_graphs))
            elif kind == "noise":
                relative = config.noise_unit == "action"
                columns += [
                    (noisy_actions(expert, sigma, index, n_graphs, self.noise, relative), all_graphs)
                    for sigma in config.noise
                ]
            elif kind == "scaled":
                columns += [(factor * expert, all_graphs) for factor in config.scales]
            elif kind == "flipped":
                columns.append((-expert, all_graphs))
            elif kind == "previous" and previous is not None:
                columns.append((previous.detach().to(expert), all_graphs))
        return columns

    @torch.no_grad()
    def middle_layer(self, actor: Actor, inputs: NetworkInputs, output: TrunkOutput) -> Tensor:
        """The action read off after that layer, of all but the last, whose energy is the middle one, (n_atoms, 3)."""
        read = actor.read_outs(inputs, output, BETWEEN).to(inputs.forces)
        energies = self.model(inputs, output, read)
        return pick(read, middle_candidate(energies), inputs.graph_index)

    def state_dict(self) -> StateDict:
        """All that a resumed run needs; generators are the run's."""
        return {
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a state made by `state_dict`."""
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates = state["updates"]

    def _swaps(self, inputs: NetworkInputs) -> tuple[Tensor, Tensor]:
        sizes = torch.bincount(inputs.graph_index, minlength=inputs.n_graphs)
        if "swap" not in self.config.negatives:
            return swap_partners(sizes, limit=0)
        return swap_partners(sizes, self.config.swaps)

    def _contrast(
        self, energies: Tensor, partners: Tensor, there: Tensor, present: list[Tensor], usable: Tensor
    ) -> ContrastiveLoss:
        """From energies (1 + n_swaps + n_own, n_graphs) of right, swapped and own wrong actions."""
        n, n_swaps = energies.shape[1], len(partners)
        rows = torch.arange(n, device=energies.device)
        index = torch.cat([rows.unsqueeze(0), partners]).transpose(0, 1)
        # Rows without so many partners name themselves: written first, the right action's energy is written over them.
        order = torch.arange(n_swaps, -1, -1, device=energies.device)
        square = energies.new_zeros(n, n)
        mask = torch.zeros(n, n, dtype=torch.bool, device=energies.device)
        for k in order.tolist():
            square = square.scatter(1, index[:, k : k + 1], energies[k].unsqueeze(1))
            if k:
                mask[rows[there[k - 1]], partners[k - 1][there[k - 1]]] = True
        own = energies[1 + n_swaps :].transpose(0, 1)
        own_mask = torch.stack(present, dim=1) if present else None
        return swap_info_nce(
            square,
            self.config.temperature,
            mask=mask,
            negatives=own if present else None,
            negatives_mask=own_mask,
            rows=usable,
        )

    def _alignment(self, inputs: NetworkInputs, context: TrunkOutput, expert: Tensor, usable: Tensor) -> Tensor:
        index, n_graphs = inputs.graph_index, inputs.n_graphs
        relative = self.config.noise_unit == "action"
        noisy = noisy_actions(expert, self.config.noise[-1], index, n_graphs, self.noise, relative).requires_grad_()
        energies = self.model(inputs, context, noisy.unsqueeze(0))
        (slope,) = torch.autograd.grad(energies.sum(), noisy, create_graph=True)
        each = gradient_alignment(slope, expert - noisy, index, n_graphs)
        return torch.where(usable, each, torch.zeros_like(each)).sum() / usable.sum().clamp(min=1)


def attenuated(output: TrunkOutput, weight: float) -> TrunkOutput:
    """What a trunk knows, with the gradient that flows back into it multiplied by a weight; 0 lets none through."""

    def through(value: Tensor) -> Tensor:
        kept = value.detach()
        return kept if weight == 0 else kept + weight * (value - kept)

    edges = dataclasses.replace(output.edges, basis=through(output.edges.basis))
    return dataclasses.replace(output, node_features=through(output.node_features), edges=edges)


def _ptr(inputs: NetworkInputs) -> Tensor:
    """First atom of each structure, and the number of atoms, (n_graphs + 1,)."""
    sizes = torch.bincount(inputs.graph_index, minlength=inputs.n_graphs)
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
