"""A verifier: several steps are proposed for a structure, and the one of the lowest learned energy is made."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from relaxrl.graph import AtomGraph, scatter_mean
from relaxrl.nn.action_energy import ActionEnergy
from relaxrl.nn.action_energy_config import VerifiedActorConfig
from relaxrl.nn.actor import Actor, limited
from relaxrl.nn.assembly import Padding
from relaxrl.nn.candidates import pick, variations
from relaxrl.nn.embedding import unit_vectors
from relaxrl.nn.heads import Decisions
from relaxrl.nn.hessian import HessianActor
from relaxrl.nn.inputs import NetworkInputs
from relaxrl.nn.trunk import TrunkOutput
from relaxrl.typing import FloatArray


class VerifiedActor(nn.Module):
    """An actor, variations of its step, and the energy over actions that chooses among them.

    The first candidate is always the actor's own step, unmodified; then scaled ones, perturbed ones, and the
    quasi-Newton step. `enabled` switches the choice off and on again: off, it is the actor itself, bit for bit.

    Perturbations have random but fixed factors on the directions of each atom's force and step, so that candidates
    turn with the crystal and don't depend on what else is in the batch; they do depend on the order of the atoms.

    Args:
        config: Kinds of candidates; sizes of actor and energy.
        base: Proposes the steps; made by `config.actor`.
        energy: Judges them; made by `config.energy` for that actor's trunk.

    Raises:
        ValueError: The quasi-Newton step is asked for of an actor that emits no Hessian.
    """

    def __init__(self, config: VerifiedActorConfig, base: Actor, energy: ActionEnergy) -> None:
        super().__init__()
        emits_hessian = isinstance(base, HessianActor)
        if config.verifier.secant and not emits_hessian:
            raise ValueError("`verifier.secant` needs a Hessian to correct: `actor.kind: hessian`, or leave it out")
        self.config = config
        self.base = base
        self.model = energy
        self.enabled = config.verifier.enabled
        self.secant = emits_hessian if config.verifier.secant is None else config.verifier.secant
        self.cutoff, self.max_neighbors = base.cutoff, base.max_neighbors

    def forward(self, graph: AtomGraph) -> Tensor:
        """The chosen displacements (n_atoms, 3), Å, in the dtype of the graph's positions."""
        if not self.enabled:
            displacement: Tensor = self.base(graph)
            return displacement
        inputs, output, step = self.base.proposal(graph)
        candidates = self._candidates(inputs, output, step)
        chosen = self.choose(self._energies(inputs, output, candidates))
        return pick(candidates, chosen, inputs.graph_index).to(graph.positions)

    def candidates(self, graph: AtomGraph) -> Tensor:
        """All candidates, (n_candidates, n_atoms, 3), Å; the first one is the actor's own step."""
        return self._candidates(*self.base.proposal(graph)).to(graph.positions)

    def energies(self, graph: AtomGraph, candidates: Tensor) -> Tensor:
        """The energy of each candidate, (n_candidates, n_graphs)."""
        inputs, output, _ = self.base.proposal(graph)
        return self._energies(inputs, output, candidates)

    def choose(self, energies: Tensor) -> Tensor:
        """Which candidate is best for each structure, (n_graphs,), from energies (n_candidates, n_graphs).

        Another one than the actor's own step only where its energy is lower by more than the margin.
        """
        best = energies.argmin(dim=0)
        gain = energies[0] - energies.gather(0, best.unsqueeze(0)).squeeze(0)
        return torch.where(gain > self.config.verifier.margin, best, torch.zeros_like(best))

    def hessian(self, graph: AtomGraph) -> FloatArray | sparse.csr_array | None:
        """The Hessian of the actor, for those who want to correct it; None where it emits none."""
        return self.base.hessian(graph) if isinstance(self.base, HessianActor) else None

    def hessian_with_strain(self, graph: AtomGraph) -> FloatArray | None:
        """What the actor itself predicts, see `HessianActor.hessian_with_strain`; None if it predicts none."""
        return self.base.hessian_with_strain(graph) if isinstance(self.base, HessianActor) else None

    def decisions(self, graph: AtomGraph) -> Decisions:
        """Gate and trust radius of the actor itself."""
        return self.base.decisions(graph)

    def gate(self, graph: AtomGraph) -> Tensor:
        """The gate of the actor itself, (n_graphs,)."""
        return self.base.gate(graph)

    @torch.no_grad()
    def _energies(self, inputs: NetworkInputs, output: TrunkOutput, candidates: Tensor) -> Tensor:
        energies: Tensor = self.model(inputs, output, candidates.to(inputs.forces))
        return energies

    def _candidates(self, inputs: NetworkInputs, output: TrunkOutput, step: Tensor) -> Tensor:
        own = self.base.decide(step, output, inputs)
        varied = variations(self.base, self.config.verifier.gates, self.secant, step, inputs, output)
        return torch.stack([own, *self._perturbed(step, inputs), *varied])

    def _perturbed(self, step: Tensor, inputs: NetworkInputs) -> list[Tensor]:
        wanted = self.config.verifier
        if not wanted.perturbed:
            return []
        index, n_graphs = inputs.graph_index, inputs.n_graphs
        generator = np.random.default_rng(wanted.seed)
        places = Padding(index, n_graphs)
        # NumPy's numbers for the first atoms don't depend on how many follow, so that structures are independent.
        drawn = generator.spawn(wanted.perturbed)
        axes = torch.stack([unit_vectors(inputs.forces.to(step)), unit_vectors(step)], dim=1)
        size = scatter_mean(step.square().mean(-1), index, n_graphs).sqrt()[index].unsqueeze(-1)
        steps = []
        for stream in drawn:
            factors = torch.from_numpy(stream.standard_normal((places.n_max, 2))).to(step)[places.local]
            noise = (factors.unsqueeze(-1) * axes).sum(1)
            noise = noise - scatter_mean(noise, index, n_graphs)[index]
            steps.append(limited(step + wanted.perturbation * size * noise, self.base.max_step))
        return steps
