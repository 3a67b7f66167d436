"""The ring of transitions: what goes in comes out, the oldest go first, resume is exact."""

import numpy as np
import pytest
import torch

from relaxrl.agents import ReplayBuffer, Transition, default_capacity


def assert_equal(a: Transition, b: Transition) -> None:
    for left, right in zip(a.flatten(), b.flatten(), strict=True):
        assert left.keys() == right.keys()
        for name in left:
            assert torch.equal(left[name], right[name]), name
    assert torch.equal(a.graph.graph_index, b.graph.graph_index)


def test_select_and_cat_are_inverse(make_transition):
    transition = make_transition([3, 1, 5])
    parts = [transition.select([k]) for k in range(3)]
    assert [part.graph.n_atoms for part in parts] == [3, 1, 5]
    assert_equal(Transition.cat(parts), transition)
    swapped = transition.select([2, 0, 2])
    assert_equal(swapped, Transition.cat([parts[2], parts[0], parts[2]]))


def test_transition_refuses_wrong_shapes(make_transition, make_graph):
    transition = make_transition([3, 1])
    with pytest.raises(ValueError, match="`reward` must have shape"):
        Transition.of_step(
            transition.graph,
            transition.proposed,
            transition.applied,
            torch.zeros(3),
            transition.atom_reward,
            transition.next_graph,
            transition.terminated,
        )
    with pytest.raises(ValueError, match="same structures"):
        transition.replace_graphs(transition.graph, make_graph([1, 3]))


def test_buffer_returns_what_was_stored(make_transition):
    buffer = ReplayBuffer(10)
    first, second = make_transition([4, 2, 7], seed=1), make_transition([1, 30], seed=2, first=3)
    places = [buffer.add(first), buffer.add(second)]
    assert len(buffer) == 5
    assert_equal(buffer.get(places[0]), first)
    assert_equal(buffer.get(places[1]), second)
    assert_equal(buffer.get(np.array([4, 0])), Transition.cat([second.select([1]), first.select([0])]))


def test_ring_overwrites_the_oldest_whatever_their_sizes(make_transition):
    """Random sizes over many rounds: the buffer always equals a list of the last `capacity` transitions."""
    generator = np.random.default_rng(0)
    buffer, expected, first = ReplayBuffer(7), [], 0
    for seed in range(60):
        sizes = generator.integers(1, 12, size=generator.integers(1, 5)).tolist()
        batch = make_transition(sizes, seed=seed, first=first)
        first += len(sizes)
        places = buffer.add(batch)
        assert_equal(buffer.get(places), batch)
        expected = (expected + [batch.select([k]) for k in range(len(sizes))])[-7:]
        stored = buffer.get(np.arange(len(buffer)))
        order = stored.reward.argsort()
        assert_equal(stored.select(order), Transition.cat(expected))


def test_batch_larger_than_the_buffer_leaves_its_last_transitions(make_transition):
    buffer = ReplayBuffer(3)
    batch = make_transition([2, 3, 4, 5, 6])
    buffer.add(batch)
    assert_equal(buffer.get(np.arange(3)), batch.select([2, 3, 4]))


def test_sampling_is_uniform_and_repeatable(make_transition):
    buffer = ReplayBuffer(4)
    buffer.add(make_transition([1, 2, 3, 4]))
    sample = buffer.sample(4000, np.random.default_rng(0))
    counts = np.bincount(sample.indices, minlength=4)
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000 * 0.75)  # five standard deviations
    assert np.array_equal(sample.weights, np.ones(4000))
    assert torch.equal(sample.transition.reward, torch.from_numpy(sample.indices).double())
    again = buffer.sample(4000, np.random.default_rng(0))
    assert np.array_equal(again.indices, sample.indices)


def test_state_resumes_exactly(make_transition):
    buffer = ReplayBuffer(5)
    for seed in range(3):
        buffer.add(make_transition([3, 5, 2], seed=seed, first=3 * seed))
    resumed = ReplayBuffer(5)
    resumed.load_state_dict(buffer.state_dict())
    for one in (buffer, resumed):
        one.add(make_transition([9, 9], seed=9, first=9))
    assert_equal(buffer.get(np.arange(5)), resumed.get(np.arange(5)))
    with pytest.raises(ValueError, match="capacity 6, got 5"):
        ReplayBuffer(6).load_state_dict(buffer.state_dict())


def test_buffer_refuses_nonsense(make_transition):
    with pytest.raises(ValueError, match="capacity"):
        ReplayBuffer(0)
    buffer = ReplayBuffer(5)
    with pytest.raises(ValueError, match="empty"):
        buffer.sample(1, np.random.default_rng(0))
    transition = make_transition([2])
    buffer.add(transition)
    other = transition.replace_graphs(transition.graph.replace(energy=None), transition.next_graph)
    with pytest.raises(ValueError, match=r"graph\.energy"):
        buffer.add(other)


def test_capacity_follows_the_size_of_the_structures():
    assert 1_000 <= default_capacity(4) <= 5_000
    capacities = [default_capacity(n) for n in (1, 4, 10, 32, 64, 1000)]
    assert capacities == sorted(capacities)
    assert capacities[-1] == 50_000
    with pytest.raises(ValueError, match="n_atoms"):
        default_capacity(0)
