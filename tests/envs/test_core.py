from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixedPlane

from relaxrl import potentials
from relaxrl.envs import Action, EnvConfig, RelaxationEnv, RewardConfig
from relaxrl.errors import CalculatorError, StructureError
from relaxrl.graph import AtomGraph, max_force
from relaxrl.io import atoms_from_graph
from relaxrl.potentials import parse_calculator
from relaxrl.structures import Crystal, StructureSet

from .conftest import AseEmt, cluster, crystal, rattled

FLOAT64 = 1e-12


def make(crystals, potential=None, config=None, seed=0, n_envs=1):
    return RelaxationEnv(
        crystals, potential or AseEmt(), config or EnvConfig(), np.random.default_rng(seed), n_envs=n_envs
    )


def same(a: AtomGraph, b: AtomGraph) -> bool:
    return vars(a).keys() == vars(b).keys() and all(
        (x is None and y is None) or torch.equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True)
    )


def test_energy_and_forces_are_those_of_ase_at_the_positions_reached(starts):
    env = make(starts, n_envs=4)
    graph = env.reset([3, 0, 1, 2])
    for _ in range(3):
        for atoms, part in zip(atoms_from_graph(graph), graph.unbatch(), strict=True):
            atoms.calc = EMT()
            assert float(part.energy) == pytest.approx(atoms.get_potential_energy(), abs=FLOAT64)
            np.testing.assert_allclose(part.forces.numpy(), atoms.get_forces(), atol=FLOAT64)
        graph = env.step(0.02 * graph.forces).graph


def test_starts_are_taken_as_they_are_and_minima_are_displaced(minima, starts):
    env = make([minima[0], starts[0]], n_envs=2)
    minimum, start = env.reset([0, 1]).unbatch()
    np.testing.assert_array_equal(start.positions.numpy(), starts[0].atoms.positions)
    moved = minimum.positions.numpy() - minima[0].atoms.positions
    assert 0.02 < moved.std() < 0.5
    assert bool(max_force(minimum) > 0.05)


def test_rattle_sets_the_size_of_the_displacement(minima):
    def size(rattle):
        env = make(minima[:1], config=EnvConfig(rattle=rattle), n_envs=20)
        graph = env.reset([0] * 20)
        return float((graph.positions - torch.from_numpy(minima[0].atoms.positions).repeat(20, 1)).std())

    assert size(0.05) == pytest.approx(0.05, rel=0.2)
    assert size((0.1, 0.1)) == pytest.approx(0.1, rel=0.2)


def test_history_begins_with_no_step_and_the_forces_of_the_start_and_then_follows(starts):
    env = make(starts[:1], config=EnvConfig(max_step=0.05))
    first = env.reset()
    assert not first.previous_displacement.any()
    torch.testing.assert_close(first.previous_forces, first.forces, rtol=0, atol=0)
    result = env.step(torch.full_like(first.positions, 1.0) * torch.tensor([[1.0], [-1.0], [0.1], [0.0]]))
    second = result.graph
    torch.testing.assert_close(second.previous_displacement, result.applied, rtol=0, atol=0)
    torch.testing.assert_close(second.previous_forces, first.forces, rtol=0, atol=0)
    torch.testing.assert_close(second.positions, first.positions + result.applied, rtol=0, atol=0)


def test_displacements_are_limited_radially(starts):
    env = make(starts[:1], config=EnvConfig(max_step=0.1))
    graph = env.reset()
    asked = torch.tensor([[3.0, 4.0, 0.0], [0.03, 0.04, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, -0.1]], dtype=torch.float64)
    proposed = env.step(asked).proposed
    expected = torch.tensor([[0.06, 0.08, 0.0], [0.03, 0.04, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, -0.1]]).double()
    torch.testing.assert_close(proposed, expected, rtol=0, atol=1e-8)
    assert graph.positions.shape == proposed.shape


def test_positions_are_never_wrapped(starts):
    env = make(starts[:1], config=EnvConfig(explosion_displacement=100.0))
    graph = env.reset()
    for _ in range(10):  # all atoms together: out of the cell at one side
        result = env.step(torch.tensor([0.4, 0.0, 0.0]).expand(4, 3).double())
        assert not result.a_back.any()
    torch.testing.assert_close(result.graph.positions, graph.positions + torch.tensor([4.0, 0.0, 0.0]).double())
    torch.testing.assert_close(result.graph.forces, graph.forces, rtol=0, atol=1e-10)


def test_a_batch_does_what_its_structures_do_alone(starts):
    batch = make(starts, n_envs=4, config=EnvConfig(features=("step", "fmax", "fmax_first")))
    graph = batch.reset([0, 1, 2, 3])
    singles = [make([each], config=batch.config) for each in starts]
    parts = [env.reset() for env in singles]
    generator = torch.Generator().manual_seed(0)
    for _ in range(6):
        action = 0.05 * graph.forces + 0.1 * torch.randn(graph.positions.shape, generator=generator).double()
        result = batch.step(action)
        alone = [
            env.step(each) for env, each in zip(singles, action.split([len(c.atoms) for c in starts]), strict=True)
        ]
        graph, parts = result.graph, [each.graph for each in alone]
        assert same(graph, AtomGraph.batch(parts))
        assert torch.equal(result.reward, torch.cat([each.reward for each in alone]))
        assert torch.equal(result.atom_reward, torch.cat([each.atom_reward for each in alone]))
        assert torch.equal(result.a_back, torch.cat([each.a_back for each in alone]))
        assert torch.equal(result.evaluations, torch.cat([each.evaluations for each in alone]))
        assert result.reason == [each.reason[0] for each in alone]


def test_one_call_of_the_potential_per_step_however_many_structures(starts):
    potential = AseEmt()
    env = make(starts, potential, n_envs=4)
    graph = env.reset([0, 1, 2, 3])
    assert (potential.calls, potential.structures) == (1, 4)
    result = env.step(0.02 * graph.forces)
    assert (potential.calls, potential.structures) == (2, 8)
    assert result.evaluations.tolist() == [2, 2, 2, 2]


def test_a_step_that_goes_nowhere_costs_no_evaluation(starts):
    potential = AseEmt()
    env = make(starts[:2], potential, n_envs=2)
    graph = env.reset([0, 1])
    move = 0.02 * graph.forces * (graph.graph_index == 1)[:, None]
    result = env.step(move)
    assert result.evaluations.tolist() == [1, 2]
    assert potential.structures == 3


def test_seeds_reproduce_and_differ(minima):
    def run(seed):
        env = make(minima, seed=seed, n_envs=3)
        env.reset()
        for _ in range(4):
            env.step(0.1 * env.graph.forces)
            env.reset_finished()
        return env.graph, env.indices

    (a, i), (b, j), (c, _) = run(1), run(1), run(2)
    assert same(a, b)
    assert torch.equal(i, j)
    assert a.positions.shape != c.positions.shape or not torch.equal(a.positions, c.positions)


@pytest.mark.parametrize("potential", [AseEmt, parse_calculator("emt").potential])
def test_resumed_runs_continue_bit_for_bit(minima, potential):
    config = EnvConfig(features=("step", "fmax_ratio"), max_steps=4)

    def go(env, n):
        seen = []
        for _ in range(n):
            result = env.step(0.05 * env.graph.forces)
            seen.append((result.reward, result.graph.positions, result.reason, result.evaluations))
            env.reset_finished()
        return seen

    whole = make(minima, potential(), config=config, n_envs=3)
    whole.weights = [1.0, 2.0, 0.0]
    whole.reset()
    go(whole, 3)
    state = whole.state_dict()
    expected = go(whole, 6)  # beyond the step limit: draws new episodes
    resumed = make(minima, potential(), config=config, n_envs=3, seed=99)
    resumed.load_state_dict(state)
    got = go(resumed, 6)
    for (r1, p1, why1, e1), (r2, p2, why2, e2) in zip(expected, got, strict=True):
        assert torch.equal(r1, r2)
        assert torch.equal(p1, p2)
        assert why1 == why2
        assert torch.equal(e1, e2)
    assert same(whole.graph, resumed.graph)
    np.testing.assert_array_equal(whole.weights, resumed.weights)


def test_a_state_of_other_crystals_is_refused(minima):
    env = make(minima)
    env.reset()
    with pytest.raises(ValueError, match="3 crystals and 1 slots, this environment 2 and 1"):
        make(minima[:2]).load_state_dict(env.state_dict())


def test_weights_decide_what_is_drawn(minima):
    env = make(minima, n_envs=40)
    env.weights = [0.0, 1.0, 3.0]
    env.reset()
    counts = torch.bincount(env.indices, minlength=3).tolist()
    assert counts[0] == 0
    assert counts[1] < counts[2]
    np.testing.assert_allclose(env.weights, [0.0, 0.25, 0.75])
    for wrong in ([1.0, 1.0], [0.0, 0.0, 0.0], [1.0, -1.0, 1.0], [1.0, np.nan, 1.0]):
        with pytest.raises(ValueError, match="weights"):
            env.weights = wrong
    assert make(StructureSet(minima, [0.0, 0.0, 1.0])).weights.tolist() == [0.0, 0.0, 1.0]


def test_only_finished_slots_are_replaced_and_they_rest_until_then(minima, starts):
    env = make([starts[0], minima[1]], n_envs=2, config=EnvConfig(max_steps=50))
    env.reset([0, 1])
    while not env.finished.any():
        result = env.step(0.08 * env.graph.forces * (env.graph.graph_index == 0)[:, None])
    assert result.terminated.tolist() == [True, False]
    assert result.reward[0] > 5
    rested = env.step(torch.full_like(env.graph.positions, 0.1) * torch.randn(8, 1).double())
    assert torch.equal(rested.graph.positions[:4], result.graph.positions[:4])
    assert torch.equal(rested.graph.previous_displacement[:4], result.graph.previous_displacement[:4])
    assert rested.reward[0] == 0
    assert not rested.atom_reward[:4].any()
    assert rested.evaluations[0] == result.evaluations[0]
    assert rested.terminated[0]
    steps = env.steps
    env.weights = [0.0, 1.0]
    fresh = env.reset_finished()
    assert env.indices.tolist() == [1, 1]
    assert torch.equal(fresh.positions[4:], rested.graph.positions[4:])
    assert env.steps.tolist() == [0, int(steps[1])]
    assert env.evaluations.tolist() == [1, int(rested.evaluations[1])]
    assert env.reset_finished() is env.graph  # nothing to replace


def test_features_are_those_of_the_current_state(starts):
    env = make(starts[:1], config=EnvConfig(features=("step", "fmax", "fmax_first", "fmax_previous")))
    first = env.reset()
    second = env.step(0.02 * first.forces).graph
    before, after = max_force(first).log10(), max_force(second).log10()
    torch.testing.assert_close(first.features[0], torch.stack([0 * before, before, before, before])[:, 0])
    expected = torch.stack([torch.tensor([2.0]).log10().double(), after, before, before])[:, 0]
    torch.testing.assert_close(second.features[0], expected)


def test_reward_is_the_sum_of_its_terms_and_matches_the_forces(starts):
    env = make(starts[:2], n_envs=2, config=EnvConfig(reward=RewardConfig(w_energy=2.0, w_step=0.1)))
    before = env.reset([0, 1])
    result = env.step(0.02 * before.forces)
    torch.testing.assert_close(result.reward, sum(result.terms.values()))
    f0, f1 = max_force(before), max_force(result.graph)
    torch.testing.assert_close(result.terms["delta"], f0 - f1)
    torch.testing.assert_close(result.terms["log"], -0.1 * f1.log10())
    sizes = torch.tensor([4, 8])
    torch.testing.assert_close(result.terms["energy"], 2.0 * (before.energy - result.graph.energy) / sizes)
    torch.testing.assert_close(result.terms["step"], torch.tensor([-0.1, -0.1]).double())


def test_fixed_atoms_stay_and_feel_nothing():
    atoms = rattled(bulk("Cu", cubic=True))
    atoms.set_constraint(FixAtoms([0, 2]))
    env = make([crystal(atoms, "slab", "start"), crystal(rattled(bulk("Au", cubic=True)), "gold", "start")], n_envs=2)
    graph = env.reset([0, 1])
    atoms.calc = EMT()
    np.testing.assert_allclose(graph.forces[:4].numpy(), atoms.get_forces(), atol=FLOAT64)
    result = env.step(torch.full_like(graph.positions, 0.01))
    assert not result.applied[[0, 2]].any()
    assert result.applied[[1, 3, 4, 5, 6, 7]].all()
    assert not result.graph.forces[[0, 2]].any()
    assert result.graph.forces[[1, 3, 4, 5, 6, 7]].any(dim=-1).all()


def test_other_constraints_are_refused_with_the_name_of_the_crystal():
    atoms = bulk("Cu", cubic=True)
    atoms.set_constraint(FixedPlane(0, (0, 0, 1)))
    with pytest.raises(StructureError, match=r"plane#0.*FixedPlane"):
        make([crystal(atoms, "plane")])


def test_an_overlapping_start_is_refused_with_its_name():
    atoms = bulk("Cu", cubic=True)
    atoms.positions[1] = atoms.positions[0] + [0.2, 0.0, 0.0]
    with pytest.raises(StructureError, match=r"crystal bad#0: atoms are closer than r_min = 0\.6 of the sum"):
        make([crystal(atoms, "bad", "start")]).reset()
    atoms.positions[1] = atoms.positions[0] + [atoms.cell[0, 0] - 0.2, 0.0, 0.0]  # through the boundary
    with pytest.raises(StructureError, match="bad#0"):
        make([crystal(atoms, "bad", "start")]).reset()


def test_a_rattle_without_a_sound_start_is_refused_after_some_attempts(minima):
    config = EnvConfig(r_min=2.56, r_min_unit="angstrom", rattle=0.05)  # copper's bond is 2.55 Å
    with pytest.raises(StructureError, match=r"copper#0.*r_min = 2\.56 Å"):
        make(minima[:1], config=config).reset()


def test_a_start_beyond_the_explosion_limit_is_refused(starts):
    with pytest.raises(StructureError, match=r"copper#0: F_max = .* beyond explosion_fmax"):
        make(starts[:1], config=EnvConfig(explosion_fmax=0.1)).reset()


def test_a_failure_at_the_start_is_tried_again_for_minima_only(minima, starts):
    def fails_once(energy, forces, call):
        if call == 0:
            raise ArithmeticError("no convergence of the density")
        return energy, forces

    potential = AseEmt(fails_once)
    graph = make(minima[:1], potential).reset()
    assert torch.isfinite(graph.forces).all()
    assert potential.calls == 2
    with pytest.raises(CalculatorError, match=r"copper#0: .*no convergence of the density"):
        make(starts[:1], AseEmt(fails_once)).reset()


def test_a_failure_that_stays_names_the_crystal(minima):
    def always(energy, forces, _call):
        return energy, forces * float("nan")

    potential = AseEmt(always)
    with pytest.raises(CalculatorError, match="gold#0"):
        make(minima[1:2], potential, config=EnvConfig(reset_attempts=3)).reset()
    assert potential.calls == 3


def test_a_failed_reset_leaves_the_running_episodes_alone(starts):
    bad = cluster()
    bad.positions[1] = bad.positions[0] + 0.1
    env = make([starts[0], crystal(bad, "bad", "start")], config=EnvConfig(max_steps=1))
    env.reset([0])
    ended = env.step(0.01 * env.graph.forces).graph
    env.weights = [0.0, 1.0]
    with pytest.raises(StructureError, match="bad#0"):
        env.reset_finished()
    assert same(env.graph, ended)


def test_a_single_atom_and_a_structure_without_cell_can_be_stepped():
    env = make([crystal(bulk("Cu"), "primitive"), crystal(cluster(), "chain")], n_envs=2)
    graph = env.reset([0, 1])  # a single atom has no forces however it is displaced
    assert max_force(graph)[0] < 1e-8
    result = env.step(torch.full_like(graph.positions, 0.05))
    assert result.reason[0] == "converged"
    assert torch.isfinite(result.reward).all()


def test_inputs_are_checked(minima):
    with pytest.raises(ValueError, match="crystals"):
        make([])
    with pytest.raises(ValueError, match="n_envs"):
        make(minima, n_envs=0)
    env = make(minima[:1])
    with pytest.raises(RuntimeError, match="reset"):
        env.step(torch.zeros(4, 3))
    for wrong in ([0, 0], [1], [-1]):
        with pytest.raises(ValueError, match="indices"):
            env.reset(wrong)
    graph = env.reset()
    with pytest.raises(ValueError, match=r"shape \(4, 3\).*got \(3, 4\)"):
        env.step(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="finite"):
        env.step(graph.positions * torch.nan)
    with pytest.raises(ValueError, match="`strain` must be None: this environment keeps the cells fixed"):
        env.step(Action(torch.zeros(4, 3), strain=torch.zeros(1, 6)))
    assert isinstance(env.crystals[0], Crystal)


def test_an_action_object_is_as_good_as_a_tensor(starts):
    a, b = make(starts[:1]), make(starts[:1])
    step = 0.01 * a.reset().forces
    b.reset()
    assert same(a.step(step).graph, b.step(Action(step)).graph)


def ragged(n: int) -> list[Crystal]:
    """Displaced crystals of 1 to 8 atoms, mixed elements."""
    rng, found = np.random.default_rng(3), []
    for k in range(n):
        atoms = bulk("Cu", cubic=True).repeat((1 + k % 2, 1, 1)) if k % 5 else bulk("Au").repeat((1, 1, 1 + k % 3))
        atoms.symbols = rng.choice(["Cu", "Au", "Ag", "Al"], len(atoms))
        atoms.set_cell(1.08 * atoms.cell, scale_atoms=True)
        atoms.positions += rng.normal(0.0, 0.1, atoms.positions.shape)
        found.append(crystal(atoms, f"alloy{k}", "start"))
    return found


def test_64_structures_at_once_do_what_each_does_alone_resets_included():
    """Displacements along the forces, with jolts that need correction; ended episodes are replaced."""
    config = EnvConfig(max_steps=7, r_min=0.75, features=("step", "fmax_ratio", "density"))
    crystals = ragged(80)
    together = RelaxationEnv(crystals, potentials.EMT(), config, np.random.default_rng(0), n_envs=64)
    graph = together.reset(list(range(64)))
    alone = [RelaxationEnv(crystals, potentials.EMT(), config, np.random.default_rng(1)) for _ in range(64)]
    for slot, env in enumerate(alone):
        env.reset([slot])
    generator, corrected, replaced, reasons = torch.Generator().manual_seed(0), 0, 0, set()
    for step in range(10):
        jolts = torch.randn(graph.positions.shape, generator=generator, dtype=torch.float64)
        actions = 0.05 * graph.forces + (0.6 if step % 4 == 1 else 0.01) * jolts
        result = together.step(actions)
        singles = [env.step(part) for env, part in zip(alone, actions.split(sizes_of(graph)), strict=True)]
        assert result.reason == [single.reason[0] for single in singles]
        assert together.evaluations.tolist() == [int(env.evaluations) for env in alone]
        for name in ("reward", "a_back", "applied", "atom_reward", "terminated", "truncated"):
            torch.testing.assert_close(
                getattr(result, name), torch.cat([getattr(single, name) for single in singles]), rtol=1e-9, atol=1e-9
            )
        graph = together.reset_finished()
        for slot in torch.nonzero(result.done).flatten().tolist():
            alone[slot].reset([int(together.indices[slot])])
        expected = AtomGraph.batch([env.graph for env in alone])
        for name, value in vars(expected).items():
            if value is not None:
                torch.testing.assert_close(getattr(graph, name), value, rtol=1e-9, atol=1e-9)
        corrected += int((result.a_back > 0).sum())
        replaced += int(result.done.sum())
        reasons |= set(result.reason)
    assert corrected > 20
    assert replaced > 64
    assert {"", "step_limit", "converged"} <= reasons


def sizes_of(graph: AtomGraph) -> list[int]:
    return graph.atoms_per_graph.tolist()
