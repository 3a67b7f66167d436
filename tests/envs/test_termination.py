"""Each reason for the end of an episode, brought about for real."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from relaxrl.envs import EnvConfig, Reason, RelaxationEnv
from relaxrl.graph import max_force

from .conftest import AseEmt, cluster, crystal, rattled


def begin(atoms, config=None, potential=None, kind="start"):
    env = RelaxationEnv(
        [crystal(atoms, "crystal", kind)], potential or AseEmt(), config or EnvConfig(), np.random.default_rng(0)
    )
    env.reset()
    return env


def descend(env, rate=0.05, steps=100):
    for _ in range(steps):
        result = env.step(rate * env.graph.forces)
        if result.done:
            return result
    raise AssertionError("the episode did not end")


def test_converged_terminates_with_the_bonus():
    env = begin(rattled(bulk("Cu", cubic=True)))
    result = descend(env)
    assert result.reason == ["converged"]
    assert (result.terminated.tolist(), result.truncated.tolist()) == ([True], [False])
    assert float(max_force(result.graph)) <= env.config.fmax
    assert float(result.graph.energy) < float(env.start.energy)
    assert float(result.terms["done"]) == 10.0


def test_a_start_that_is_converged_is_over_after_the_first_step_that_leaves_it_so():
    env = begin(bulk("Cu", cubic=True, a=3.59))
    result = env.step(0.05 * env.graph.forces)
    assert result.reason == ["converged"]
    env = begin(bulk("Cu", cubic=True, a=3.59))
    result = env.step(torch.tensor([[0.3, 0.0, 0.0]] + [[0.0, 0.0, 0.0]] * 3))
    assert result.reason == [""]  # it was pushed out of its minimum


def test_the_step_limit_truncates():
    env = begin(rattled(bulk("Cu", cubic=True)), EnvConfig(max_steps=3))
    reasons = [env.step(1e-4 * env.graph.forces).reason[0] for _ in range(3)]
    assert reasons == ["", "", "step_limit"]
    assert env.steps.tolist() == [3]


def test_convergence_in_the_last_step_counts_as_such():
    env = begin(rattled(bulk("Cu", cubic=True)))
    descend(env)
    steps = int(env.steps)
    limited = begin(rattled(bulk("Cu", cubic=True)), EnvConfig(max_steps=steps))
    assert descend(limited).reason == ["converged"]


def test_steps_wholly_taken_back_for_too_long_in_a_row_truncate():
    # Two atoms at contact that are told to approach.
    atoms = Atoms("Cu2", positions=[(0, 0, 0), (2.0, 0, 0)])
    config = EnvConfig(r_min=2.0, r_min_unit="angstrom", stuck_limit=2)
    potential = AseEmt()
    env = begin(atoms, config, potential)
    approach = torch.tensor([[0.1, 0, 0], [-0.1, 0, 0]])
    results = [env.step(approach) for _ in range(3)]
    assert [result.reason[0] for result in results] == ["", "", "stuck"]
    assert results[-1].truncated.tolist() == [True]
    assert [float(result.a_back) for result in results] == [1.0, 1.0, 1.0]
    assert potential.structures == 1  # nothing moved: the start's forces still hold
    env.reset()
    for k in range(6):  # a legal step in between starts the count again
        result = env.step(approach if k % 2 else -0.01 * approach)
    assert result.reason == [""]


def test_a_step_barely_left_over_is_not_stuck():
    atoms = Atoms("Cu2", positions=[(0, 0, 0), (2.2, 0, 0)])
    env = begin(atoms, EnvConfig(r_min=2.0, r_min_unit="angstrom", stuck_limit=0))
    result = env.step(torch.tensor([[0.5, 0, 0], [-0.5, 0, 0]]))
    assert float(result.a_back) == pytest.approx(0.8, abs=1e-9)
    assert result.reason == [""]


@pytest.mark.parametrize("how", ["raises", "nan forces", "infinite energy"])
def test_a_calculator_that_fails_in_mid_episode_truncates_and_the_step_is_taken_back(how):
    def fail(energy, forces, call):
        if call < 2:
            return energy, forces
        if how == "raises":
            raise ArithmeticError("self-consistency not reached")
        if how == "nan forces":
            return energy, forces.index_fill(0, torch.tensor([1]), torch.nan)
        return float("inf"), forces

    env = begin(rattled(bulk("Cu", cubic=True)), potential=AseEmt(fail))
    before = env.step(0.01 * env.graph.forces).graph
    result = env.step(0.01 * env.graph.forces)
    assert result.reason == ["calculator_failed"]
    assert result.truncated.tolist() == [True]
    assert torch.equal(result.graph.positions, before.positions)
    assert torch.equal(result.graph.forces, before.forces)
    assert torch.equal(result.graph.energy, before.energy)
    assert not result.applied.any()
    assert float(result.a_back) == 1.0
    assert float(result.terms["correction"]) == -1.0
    assert float(result.terms["delta"]) == 0.0
    assert torch.isfinite(result.reward).all()
    assert torch.isfinite(result.atom_reward).all()
    assert result.evaluations.tolist() == [3]  # a failed call costs as much as any


def test_the_failure_of_one_structure_leaves_the_others_of_the_batch_alone():
    def fail(energy, forces, _call):
        return (energy, forces * torch.nan) if len(forces) == 8 and _call else (energy, forces)

    small, large = rattled(bulk("Cu", cubic=True)), rattled(bulk("Au", cubic=True).repeat((2, 1, 1)))
    crystals = [crystal(small, "small", "start"), crystal(large, "large", "start"), crystal(small, "again", "start")]
    env = RelaxationEnv(crystals, AseEmt(fail), EnvConfig(), np.random.default_rng(0), n_envs=3)
    start = env.reset([0, 1, 2])
    result = env.step(0.01 * start.forces)
    assert result.reason == ["", "calculator_failed", ""]
    first, failed, last = result.graph.unbatch()
    assert torch.equal(failed.positions, start.positions[4:12])
    for part in (first, last):
        alone = begin(small)
        expected = alone.step(0.01 * alone.graph.forces).graph
        assert torch.equal(part.positions, expected.positions)
        assert torch.equal(part.forces, expected.forces)


def test_forces_beyond_the_limit_explode():
    atoms = Atoms("Cu2", positions=[(0, 0, 0), (2.4, 0, 0)])
    env = begin(atoms, EnvConfig(explosion_fmax=5.0))
    result = env.step(torch.tensor([[0.4, 0, 0], [-0.4, 0, 0]]))
    assert result.reason == ["exploded"]
    assert result.truncated.tolist() == [True]
    assert float(max_force(result.graph)) > 5.0


def test_energy_beyond_the_limit_explodes():
    env = begin(rattled(bulk("Cu", cubic=True)), EnvConfig(explosion_energy=0.5))
    step = torch.tensor([[0.5, 0, 0], [-0.5, 0, 0], [0.5, 0, 0], [-0.5, 0, 0]])
    reasons = [env.step(step).reason[0] for _ in range(3)]
    assert "exploded" in reasons
    assert float((env.graph.energy - env.start.energy) / 4) > 0.5


def test_drifting_away_explodes():
    env = begin(rattled(bulk("Cu", cubic=True)), EnvConfig(explosion_displacement=1.0))
    step = torch.tensor([0.4, 0.0, 0.0]).expand(4, 3)
    assert [env.step(step).reason[0] for _ in range(3)] == ["", "", "exploded"]


def test_vanishing_forces_at_a_higher_energy_are_no_success():
    # The published reward hack: pull the atoms apart until nothing is felt any more.
    atoms = rattled(cluster(2.4, 2), 0.02)
    env = begin(atoms, EnvConfig(fmax=0.3, neighbor_cutoff=20.0, bond_stretch=10.0, explosion_displacement=50.0))
    pull = torch.tensor([[-0.5, 0, 0], [0.5, 0, 0]])
    for _ in range(10):
        result = env.step(pull)
        if result.done:
            break
    assert float(max_force(result.graph)) <= 0.3
    assert result.reason == ["energy_above_start"]
    assert (result.terminated.tolist(), result.truncated.tolist()) == ([False], [True])
    assert float(result.terms["done"]) == 0.0


def test_no_atom_of_a_cluster_can_be_evaporated():
    env = begin(rattled(cluster(2.5, 4), 0.02), EnvConfig(neighbor_cutoff=4.0, bond_stretch=2.0))
    pull = torch.zeros(4, 3, dtype=torch.float64)
    pull[3, 0] = 0.5
    for _ in range(15):
        result = env.step(pull)
        if result.done:
            break
    assert result.reason == ["stuck"]
    gap = torch.linalg.vector_norm(result.graph.positions[3] - result.graph.positions[2])
    assert float(gap) <= 4.0


def test_reasons_are_strings():
    assert Reason.STEP_LIMIT == "step_limit"
    assert [str(reason) for reason in Reason][:2] == ["", "converged"]
