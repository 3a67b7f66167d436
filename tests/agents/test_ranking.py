"""Deep Q-learning over candidates, against numbers computed by hand, and that it learns what there is to learn."""

import numpy as np
import pytest
import torch

from relaxrl.agents import CandidateRanking, Sample, TD3Config, Transition
from relaxrl.graph import scatter_sum
from relaxrl.nn import (
    CandidatesConfig,
    CriticConfig,
    HessianActorConfig,
    RankedActorConfig,
    TrunkConfig,
    build_ranked_actor,
)
from relaxrl.nn.candidates import repeated

SIZE = {"layers": 2, "channels": 4, "message_channels": 4, "cutoff": 4.0}


@pytest.fixture
def ranked():
    config = RankedActorConfig(
        actor=HessianActorConfig(trunk=TrunkConfig(**SIZE, forces=False, history=False)),
        critic=CriticConfig(trunk=TrunkConfig(**SIZE)),
        candidates=CandidatesConfig(gates=(0.5, 1.5), secant=False),
    )
    actor = build_ranked_actor(config, torch.Generator().manual_seed(0)).double()
    actor.base.requires_grad_(False)
    return actor


class Lengths(torch.nn.Module):
    """Values of the total length of a structure's displacements; the twins disagree about the sign."""

    def __init__(self, first: float, second: float) -> None:
        super().__init__()
        self.slopes = torch.nn.Parameter(torch.tensor([first, second]).double())

    def forward(self, graph, displacement):
        length = scatter_sum(displacement.norm(dim=-1), graph.graph_index, graph.n_graphs)
        return self.slopes[0] * length, self.slopes[1] * length


def test_the_target_takes_the_best_candidate_of_the_smaller_twin(ranked, make_transition):
    ranked.critic = Lengths(2.0, 3.0)
    learner = CandidateRanking(ranked, TD3Config(gamma=0.5))
    batch = make_transition([4, 5], first=1)
    candidates = ranked.candidates(batch.next_graph)
    longest = [scatter_sum(one.norm(dim=-1), batch.graph.graph_index, 2) for one in candidates]
    expected = batch.reward + 0.5 * 2.0 * torch.stack(longest).amax(0)
    torch.testing.assert_close(learner._target(batch, torch.Generator()), expected)
    over = make_transition([4, 5], first=1, terminated=True)
    torch.testing.assert_close(learner._target(over, torch.Generator()), over.reward)
    # Where every value is negative, the shortest candidate is the best, and the more pessimistic twin counts.
    learner.target_actor.critic = Lengths(-1.0, -4.0)
    expected = batch.reward - 0.5 * 4.0 * torch.stack(longest).amin(0)
    torch.testing.assert_close(learner._target(batch, torch.Generator()), expected)


def test_exploration_tries_all_candidates_and_nothing_else(ranked, make_graph):
    learner = CandidateRanking(ranked)
    graph = make_graph([2] * 40)
    candidates = ranked.candidates(graph)
    ours = learner.act(graph)
    assert torch.equal(learner.act_randomly(graph, 0.0, torch.Generator().manual_seed(0)), ours)
    tried = learner.act_randomly(graph, 1.0, torch.Generator().manual_seed(0))
    same = (candidates == tried).flatten(2).all(-1)  # per atom
    per_structure = same.view(3, 40, 2).all(-1)
    assert per_structure.any(0).all()
    assert (per_structure.sum(1) > 5).all()


def test_only_the_critic_learns_and_it_learns_which_candidate_pays(ranked, make_graph):
    """The shorter a step, the more it is rewarded: from the longest candidate the choice moves to the shortest."""
    ranked.critic = Lengths(1.0, 2.0)
    learner = CandidateRanking(ranked, TD3Config(gamma=0.0, critic_lr=0.5, policy_delay=1, max_grad_norm=None))
    before = {name: value.clone() for name, value in ranked.base.state_dict().items()}
    noise = torch.Generator().manual_seed(0)
    graph = make_graph([3])
    graph = repeated(graph.replace(forces=1e-3 * graph.forces), 6)
    assert ranked.choose(ranked.values(graph, ranked.candidates(graph))).tolist() == [2] * 6
    for _ in range(20):
        action = learner.act_randomly(graph, 1.0, noise)
        reward = -5.0 * scatter_sum(action.norm(dim=-1), graph.graph_index, 6)
        over = torch.ones(6, dtype=torch.bool)
        step = Transition.of_step(graph, action, action, reward, reward[graph.graph_index], graph, over)
        learner.update(Sample(step, np.arange(6), np.ones(6)), None, noise)
    assert torch.allclose(ranked.critic.slopes, torch.tensor(-5.0).double(), atol=2.0)
    assert ranked.choose(ranked.values(graph, ranked.candidates(graph))).tolist() == [1] * 6
    assert all(torch.equal(value, before[name]) for name, value in ranked.base.state_dict().items())


def test_values_per_atom_are_refused(ranked):
    with pytest.raises(ValueError, match="one choice per structure"):
        CandidateRanking(ranked, TD3Config(per_atom=True))
