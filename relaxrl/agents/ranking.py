"""Deep Q-learning over a few candidates per structure (Mnih et al., doi:10.1038/nature14236), with TD3's critics.

Where it deviates from TD3 (`TD3` has the rest):

1. There is no actor to train: the policy is the candidate of the highest value. So the critic needs no gradient with
   respect to the action, and candidates may differ in anything.
2. The target's maximum is taken over the next structure's candidates, each valued by the smaller of the target twins
   (van Hasselt et al., arXiv:1509.06461; Fujimoto et al., arXiv:1802.09477), without smoothing noise.
3. Exploration draws a candidate at random for a share of the structures.
"""

from __future__ import annotations

import torch
from torch import Tensor

from relaxrl.agents.exploration import limit_radially
from relaxrl.agents.td3 import TD3, TD3Config
from relaxrl.agents.transition import Transition
from relaxrl.graph import AtomGraph
from relaxrl.losses import td3_target
from relaxrl.nn import RankedActor


class CandidateRanking(TD3):
    """Learns the critic of a `RankedActor`, and acts by it.

    Args:
        actor: Its critic is trained; what proposes is not.
        config: Settings; those of the actor's loss mean nothing here.

    Raises:
        ValueError: A critic per atom is asked for: choices are made for structures.
    """

    def __init__(self, actor: RankedActor, config: TD3Config | None = None) -> None:
        super().__init__(actor, actor.critic, config)
        if self.config.per_atom:
            raise ValueError("`td3.per_atom` must be false where candidates are ranked: one choice per structure")
        self.ranked = actor

    @torch.no_grad()
    def act_randomly(self, graph: AtomGraph, share: float, generator: torch.Generator) -> Tensor:
        """The policy's displacements (n_atoms, 3), Å, but those of a random candidate in a share of the structures.

        Args:
            graph: The structures.
            share: Probability, per structure.
            generator: Source of randomness, on the CPU.
        """
        candidates = self.ranked.candidates(graph)
        best = self.ranked.choose(self.ranked.values(graph, candidates)).cpu()
        drawn = torch.randint(len(candidates), best.shape, generator=generator)
        chosen = torch.where(torch.rand(best.shape, generator=generator) < share, drawn, best)
        return limit_radially(self.ranked.pick(candidates, chosen, graph.graph_index), self.config.max_step)

    @torch.no_grad()
    def _target(self, batch: Transition, generator: torch.Generator) -> Tensor:
        """Bellman targets (n_graphs,) with the largest of the candidates' values."""
        del generator  # nothing is smoothed
        config, graph = self.config, batch.next_graph
        candidates = self.ranked.candidates(graph)
        target = self.target_actor
        assert isinstance(target, RankedActor), "a copy of the actor given"
        value = target.values(graph, limit_radially(candidates, config.max_step)).amax(dim=0)
        discount = config.gamma ** batch.steps.to(value.dtype)
        bellman = td3_target(batch.reward, batch.terminated, value, value, discount)
        return bellman if config.target_clip is None else bellman.clamp(*config.target_clip)

    def _update_actor(self, batch: Transition, is_expert: Tensor, t: int, cloning_only: bool) -> dict[str, float]:
        """Nothing: the policy follows the critic."""
        del batch, is_expert, t, cloning_only
        return {}
