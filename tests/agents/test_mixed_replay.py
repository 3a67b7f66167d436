"""Shares of agent and expert are exact, and the stores are never pooled."""

import numpy as np
import pytest

from relaxrl.agents import MixedReplay, ReplayBuffer, Schedule


@pytest.fixture
def mixed(make_transition):
    def make(share: Schedule | None = None, agent: int = 5, expert: int = 3) -> MixedReplay:
        replay = MixedReplay(ReplayBuffer(10), ReplayBuffer(10), share)
        if agent:
            replay.add(make_transition([1] * agent, first=0), is_expert=False)
        if expert:
            replay.add(make_transition([1] * expert, first=100), is_expert=True)
        return replay

    return make


def counts(replay: MixedReplay, batch_size: int, batches: int, t: int = 0) -> list[int]:
    generator = np.random.default_rng(0)
    samples = [replay.sample(batch_size, generator, t) for _ in range(batches)]
    found = []
    for sample in samples:
        n_agent = 0 if sample.agent is None else len(sample.agent)
        n_expert = 0 if sample.expert is None else len(sample.expert)
        assert n_agent + n_expert == batch_size
        if sample.agent is not None:
            assert (sample.agent.transition.reward < 100).all()
        if sample.expert is not None:
            assert (sample.expert.transition.reward >= 100).all()
        found.append(n_expert)
    return found


def test_default_share_is_a_quarter_of_every_batch(mixed):
    assert counts(mixed(), 64, 20) == [16] * 20


def test_shares_that_are_not_whole_are_exact_over_time(mixed):
    found = counts(mixed(Schedule(start=0.25)), 10, 40)
    assert set(found) == {2, 3}
    for n in range(1, 41):
        assert abs(sum(found[:n]) - 2.5 * n) < 1
    assert sum(counts(mixed(Schedule(start=0.1)), 3, 1000)) == 300


def test_share_follows_its_schedule(mixed):
    replay = mixed(Schedule(kind="linear", start=0.5, end=0.0, steps=100))
    assert counts(replay, 8, 1, t=0) == [4]
    assert counts(replay, 8, 1, t=50) == [2]
    assert counts(replay, 8, 5, t=100) == [0] * 5


def test_an_empty_store_leaves_batches_to_the_other_and_nothing_owed(mixed):
    replay = mixed(expert=0)
    assert counts(replay, 10, 7) == [0] * 7
    assert counts(mixed(agent=0), 10, 2) == [10, 10]
    with pytest.raises(ValueError, match="empty"):
        counts(mixed(agent=0, expert=0), 10, 1)


def test_bounds_of_the_share(mixed):
    assert counts(mixed(Schedule(start=0.0)), 8, 3) == [0] * 3
    assert counts(mixed(Schedule(start=1.0)), 8, 3) == [8] * 3
    with pytest.raises(ValueError, match="share"):
        mixed(Schedule(start=1.2))
    buffer = ReplayBuffer(3)
    with pytest.raises(ValueError, match="two buffers"):
        MixedReplay(buffer, buffer)


def test_state_resumes_with_the_carried_remainder(mixed):
    replay = mixed(Schedule(start=0.25))
    counts(replay, 10, 1)
    resumed = mixed(Schedule(start=0.25), agent=0, expert=0)
    resumed.load_state_dict(replay.state_dict())
    assert counts(resumed, 10, 3) == counts(replay, 10, 3) == [3, 2, 3]
