"""A critic that chooses: several steps are proposed for a structure, and the one of the highest value is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from scipy import sparse
from torch import Tensor, nn

from relaxrl.graph import AtomGraph, scatter_sum
from relaxrl.neighbors import with_edges
from relaxrl.nn.actor import Actor, limited
from relaxrl.nn.config import RankedActorConfig
from relaxrl.nn.critic import TwinCritic
from relaxrl.nn.heads import Decisions
from relaxrl.nn.hessian import HessianActor
from relaxrl.nn.inputs import NetworkInputs
from relaxrl.nn.trunk import TrunkOutput
from relaxrl.typing import FloatArray

LEAST_CURVATURE = 0.05
"""A secant pair is used if the cosine between step and change of the gradient is at least this."""


class RankedActor(nn.Module):
    """An actor, variations of its step, and the critic that chooses among them.

    The first candidate is always the actor's own step, so that a critic which does not know better need not harm: see
    `CandidatesConfig.margin`. Every candidate is equivariant and every value invariant, and so is what is chosen.

    Args:
        config: Kinds of candidates; sizes of actor and critic.
        base: Proposes the steps; made by `config.actor`.
        critic: Values them; made by `config.critic`. Of its twins the smaller value counts.

    Raises:
        ValueError: Candidates are asked for that this actor can't propose.
    """

    def __init__(self, config: RankedActorConfig, base: Actor, critic: TwinCritic) -> None:
        super().__init__()
        if config.candidates.secant and not isinstance(base, HessianActor):
            raise ValueError(
                "`candidates.secant` needs a Hessian to correct: `actor.kind: hessian`, or set it to false"
            )
        self.config = config
        self.base = base
        self.critic = critic
        # One set of edges serves both: networks ignore what is beyond their cutoff.
        self.cutoff = max(base.cutoff, config.critic.trunk.cutoff)
        self.max_neighbors = base.max_neighbors

    def forward(self, graph: AtomGraph) -> Tensor:
        """The chosen displacements (n_atoms, 3), Å, in the dtype of the graph's positions."""
        graph = self._with_edges(graph)
        candidates = self.candidates(graph)
        return self.pick(candidates, self.choose(self.values(graph, candidates)), graph.graph_index)

    def candidates(self, graph: AtomGraph) -> Tensor:
        """All candidates, (n_candidates, n_atoms, 3), Å; the first one is the actor's own step."""
        inputs, output, step = self.base.proposal(graph)
        own = self.base.decide(step, output, inputs)
        wanted = self.config.candidates
        varied = variations(self.base, wanted.gates, wanted.secant, step, inputs, output)
        return torch.stack([own, *varied]).to(graph.positions)

    @torch.no_grad()
    def values(self, graph: AtomGraph, candidates: Tensor) -> Tensor:
        """The smaller of the twins' values of each candidate, (n_candidates, n_graphs)."""
        n = len(candidates)
        q1, q2 = self.critic(repeated(self._with_edges(graph), n), candidates.flatten(0, 1))
        return torch.minimum(q1, q2).view(n, graph.n_graphs)

    def choose(self, values: Tensor) -> Tensor:
        """Which candidate is best for each structure, (n_graphs,), from values (n_candidates, n_graphs).

        Another one than the actor's own step only where its value is larger by more than the margin.
        """
        best = values.argmax(dim=0)
        gain = values.gather(0, best.unsqueeze(0)).squeeze(0) - values[0]
        return torch.where(gain > self.config.candidates.margin, best, torch.zeros_like(best))

    @staticmethod
    def pick(candidates: Tensor, chosen: Tensor, graph_index: Tensor) -> Tensor:
        """The displacements (n_atoms, 3) of the candidates chosen (n_graphs,)."""
        return pick(candidates, chosen, graph_index)

    @torch.no_grad()
    def hessian(self, graph: AtomGraph) -> FloatArray | sparse.csr_array | None:
        """What the actor itself predicts, see `HessianActor.hessian`; None if it predicts none."""
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

    def _with_edges(self, graph: AtomGraph) -> AtomGraph:
        if graph.edge_index is not None or self.config.critic.trunk.max_neighbors != self.max_neighbors:
            return graph
        return with_edges(graph, self.cutoff, self.max_neighbors)


def variations(
    base: Actor, gates: Sequence[float], secant: bool, step: Tensor, inputs: NetworkInputs, output: TrunkOutput
) -> list[Tensor]:
    """The scaled steps and, last, the quasi-Newton step where it is wanted, (n_atoms, 3) each, Å, limited."""
    steps = [gate * step for gate in gates]
    if secant:
        steps.append(secant_step(base, step, inputs, output))
    return [limited(varied, base.max_step) for varied in steps]


def pick(candidates: Tensor, chosen: Tensor, graph_index: Tensor) -> Tensor:
    """The displacements (n_atoms, 3) of the candidates (n_candidates, n_atoms, 3) that were chosen, (n_graphs,)."""
    atoms = torch.arange(candidates.shape[1], device=candidates.device)
    return candidates[chosen.to(candidates.device)[graph_index], atoms]


def secant_step(base: Actor, step: Tensor, inputs: NetworkInputs, output: TrunkOutput) -> Tensor:
    r"""The quasi-Newton step: the predicted Hessian, corrected by what the last step has shown (BFGS).

    $$ d = (1 - \rho s y^T) H^{-1} (1 - \rho y s^T) F + \rho s s^T F, \qquad \rho = 1 / s^T y $$

    with the last displacement s and the change y of the gradient along it. Where there is no last step, or the
    curvature along it was not clearly positive, the step stays as it was.
    """
    index, n_graphs = inputs.graph_index, inputs.n_graphs
    forces = inputs.forces.to(step)
    last, change = inputs.previous_displacement.to(step), -inputs.force_change.to(step)

    def dot(left: Tensor, right: Tensor) -> Tensor:
        return scatter_sum((left * right).sum(-1), index, n_graphs)

    curvature = dot(last, change)
    usable = curvature > LEAST_CURVATURE * (dot(last, last) * dot(change, change)).sqrt()
    inverse = torch.where(usable, 1.0 / torch.where(usable, curvature, 1.0), 0.0)
    along = inverse * dot(last, forces)
    rest = forces - along[index].unsqueeze(-1) * change
    solved = base.raw_displacement(dataclasses.replace(inputs, forces=rest), output).to(step)
    corrected = solved + (along - inverse * dot(change, solved))[index].unsqueeze(-1) * last
    return torch.where(usable[index].unsqueeze(-1), corrected, step)


def repeated(graph: AtomGraph, n: int) -> AtomGraph:
    """A batch of n copies of a batch, one after the other, edges included."""
    copies = AtomGraph.batch([graph] * n)
    if graph.edge_index is None or graph.edge_shift is None:
        return copies
    offsets = torch.arange(n, device=graph.edge_index.device) * graph.n_atoms
    index = (graph.edge_index.unsqueeze(1) + offsets[None, :, None]).flatten(1)
    return copies.replace(edge_index=index, edge_shift=graph.edge_shift.repeat(n, 1))
