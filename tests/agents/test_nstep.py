"""Returns over several steps by hand."""

import torch

from relaxrl.agents import NStepAssembler, Transition


def step(make_transition, k: int, terminated: bool = False) -> Transition:
    """The k-th step of a fixed episode in two slots, with rewards 10^k and 2 * 10^k."""
    transition = make_transition([2, 3], seed=7, terminated=terminated)
    reward = 10.0**k * torch.tensor([1.0, 2.0], dtype=torch.float64)
    marked = transition.next_graph.replace(energy=torch.full((2,), float(k), dtype=torch.float64))
    return Transition.of_step(
        transition.graph.replace(energy=torch.full((2,), float(k - 1), dtype=torch.float64)),
        transition.proposed,
        transition.applied,
        reward,
        reward[transition.graph.graph_index],
        marked,
        transition.terminated,
    )


def test_one_step_passes_through(make_transition):
    transition = step(make_transition, 0)
    assert NStepAssembler(1, 0.9).add(transition, [0, 1], torch.tensor([False, False])) is transition


def test_two_steps_are_joined_and_shorter_ones_end_the_episode(make_transition):
    assembler = NStepAssembler(2, 0.5)
    running, ended = torch.tensor([False, False]), torch.tensor([True, True])
    assert assembler.add(step(make_transition, 0), [0, 1], running) is None
    joined = assembler.add(step(make_transition, 1), [0, 1], running)
    assert joined.reward.tolist() == [1.0 + 0.5 * 10.0, 2.0 + 0.5 * 20.0]
    assert joined.atom_reward.tolist() == [6.0, 6.0, 12.0, 12.0, 12.0]
    assert joined.steps.tolist() == [2, 2]
    assert joined.graph.energy.tolist() == [-1.0, -1.0]
    assert joined.next_graph.energy.tolist() == [1.0, 1.0]
    last = assembler.add(step(make_transition, 2, terminated=True), [0, 1], ended)
    assert last.steps.tolist() == [2, 1, 2, 1]
    assert last.reward.tolist() == [10.0 + 0.5 * 100.0, 100.0, 20.0 + 0.5 * 200.0, 200.0]
    assert last.terminated.all()
    assert assembler.add(step(make_transition, 0), [0, 1], running) is None  # nothing carried over


def test_state_resumes(make_transition):
    running = torch.tensor([False, False])
    assembler, resumed = NStepAssembler(2, 0.5), NStepAssembler(2, 0.5)
    assembler.add(step(make_transition, 0), [0, 1], running)
    resumed.load_state_dict(assembler.state_dict())
    a, b = (one.add(step(make_transition, 1), [0, 1], running) for one in (assembler, resumed))
    assert torch.equal(a.reward, b.reward)
    assert torch.equal(a.graph.positions, b.graph.positions)
