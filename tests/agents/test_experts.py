"""The BFGS expert is ASE's BFGS; the teleporting one finds the nearest image of the minimum."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.optimize import BFGS

from relaxrl.agents import BFGSExpert, ExpertConfig, Schedule, TeleportExpert, build_expert, draw_expert_episodes
from relaxrl.graph import AtomGraph
from relaxrl.io import graph_from_atoms

ROUND_OFF = 1e-10
"""Å; EMT's forces and two dozen Hessian updates."""


def rattled(seed: int, repeats: tuple[int, int, int] = (1, 1, 1)) -> Atoms:
    atoms = bulk("Cu", cubic=True).repeat(repeats)
    atoms.numbers[0] = 79
    atoms.rattle(0.15, seed=seed)
    atoms.calc = EMT()
    return atoms


def observed(structures: list[Atoms]) -> AtomGraph:
    forces = torch.from_numpy(np.concatenate([atoms.get_forces() for atoms in structures]))
    return graph_from_atoms(structures).replace(forces=forces)


@pytest.mark.parametrize("alpha", [70.0, 15.0])
def test_bfgs_expert_is_ases_bfgs_step_by_step(alpha):
    """Two structures in slots 3 and 1, against two optimizers of ASE: same positions after every step."""
    mine = [rattled(0), rattled(1, (2, 1, 1))]
    theirs = [atoms.copy() for atoms in mine]
    for atoms in theirs:
        atoms.calc = EMT()
    optimizers = [BFGS(atoms, logfile=None, alpha=alpha) for atoms in theirs]
    expert = BFGSExpert(alpha=alpha)
    slots = [3, 1]
    longest = 0.0
    for _ in range(25):
        steps = expert.propose(observed(mine), slots).numpy()
        for atoms, step in zip(mine, np.split(steps, [len(mine[0])]), strict=True):
            longest = max(longest, np.linalg.norm(step, axis=1).max())
            atoms.positions += step
        for optimizer in optimizers:
            optimizer.step()
        for left, right in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(left.positions, right.positions, atol=ROUND_OFF)
    assert longest <= 0.2 + ROUND_OFF
    assert all(np.linalg.norm(atoms.get_forces(), axis=1).max() < 0.05 for atoms in mine)


def test_step_cap_scales_the_whole_structure():
    atoms = rattled(2)
    graph = observed([atoms])
    step = BFGSExpert(alpha=1.0, max_step=0.2).propose(graph, [0])
    assert torch.linalg.vector_norm(step, dim=-1).max().item() == pytest.approx(0.2)
    torch.testing.assert_close(step / step.norm(), graph.forces / graph.forces.norm())


def test_reset_forgets_and_a_missing_reset_is_noticed():
    expert, small, large = BFGSExpert(), observed([rattled(0)]), observed([rattled(1, (2, 1, 1))])
    first = expert.propose(small, [0])
    moved = small.replace(positions=small.positions + first, forces=0.5 * small.forces)
    learned = expert.propose(moved, [0])
    expert.reset([0])
    fresh = expert.propose(moved, [0])
    torch.testing.assert_close(fresh, moved.forces / 70.0)
    assert not torch.allclose(learned, fresh)
    with pytest.raises(ValueError, match="reset"):
        expert.propose(large, [0])


def test_a_rigid_shift_between_two_calls_tells_nothing():
    expert, graph = BFGSExpert(), observed([rattled(0)])
    before = expert.propose(graph, [0])
    torch.testing.assert_close(expert.propose(graph.replace(positions=graph.positions + 0.3), [0]), before)


def test_bfgs_state_resumes_exactly():
    graph = observed([rattled(0)])
    expert = BFGSExpert()
    expert.propose(graph, [2])
    resumed = BFGSExpert()
    resumed.load_state_dict(expert.state_dict())
    moved = graph.replace(positions=graph.positions + 0.01, forces=0.7 * graph.forces)
    assert torch.equal(expert.propose(moved, [2]), resumed.propose(moved, [2]))


def test_experts_refuse_what_they_cannot_use():
    graph = observed([rattled(0)])
    with pytest.raises(ValueError, match="forces"):
        BFGSExpert().propose(graph.replace(forces=None), [0])
    with pytest.raises(ValueError, match="finite"):
        BFGSExpert().propose(graph.replace(forces=graph.forces * float("nan")), [0])
    with pytest.raises(ValueError, match="slots"):
        BFGSExpert().propose(graph, [0, 1])
    with pytest.raises(ValueError, match="no minimum is known"):
        TeleportExpert().propose(graph, [0])


def test_teleport_takes_the_nearest_image_and_no_rigid_shift():
    atoms = rattled(0)
    minimum = atoms.positions.copy()
    shift = np.array([[0.1, 0, 0], [-0.1, 0, 0], [0, 0.2, 0], [0, -0.2, 0]])
    displaced = atoms.copy()
    displaced.positions += shift + np.array([0.3, 0.0, 0.1])
    displaced.positions[1] += displaced.cell.array[0] - displaced.cell.array[2]  # another image of the same atom
    expert = TeleportExpert()
    expert.reset([5], [minimum])
    jump = expert.propose(graph_from_atoms(displaced), [5])
    np.testing.assert_allclose(jump.numpy(), -shift, atol=1e-12)
    resumed = TeleportExpert()
    resumed.load_state_dict(expert.state_dict())
    assert torch.equal(resumed.propose(graph_from_atoms(displaced), [5]), jump)


def test_teleport_in_a_molecule_goes_exactly_to_the_minimum():
    molecule = Atoms("CO", [[0, 0, 0], [0, 0, 1.2]])
    expert = TeleportExpert()
    expert.reset([0], [molecule.positions + 0.5])
    torch.testing.assert_close(expert.propose(graph_from_atoms(molecule), [0]), torch.full((2, 3), 0.5).double())


def test_experts_by_name():
    assert isinstance(build_expert(ExpertConfig()), BFGSExpert)
    assert isinstance(build_expert(ExpertConfig(name="teleport")), TeleportExpert)
    assert build_expert(ExpertConfig(alpha=20.0, max_step=0.1)).max_step == 0.1
    with pytest.raises(ValueError, match="probability"):
        ExpertConfig(probability=Schedule(start=1.5))


def test_injection_falls_as_training_goes_on():
    config = ExpertConfig(probability=Schedule(kind="linear", start=0.8, end=0.1, steps=1000))
    generator = np.random.default_rng(0)
    early = draw_expert_episodes(config, 20_000, generator, t=0).mean()
    late = draw_expert_episodes(config, 20_000, generator, t=5000).mean()
    assert early == pytest.approx(0.8, abs=0.02)
    assert late == pytest.approx(0.1, abs=0.02)
