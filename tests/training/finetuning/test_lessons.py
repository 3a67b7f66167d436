"""What relaxations teach: on a parabola exactly the way to its minimum, wherever the relaxation stopped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms

from relaxrl.agents import load_agent
from relaxrl.losses.cloning import RELATIVE_FLOOR
from relaxrl.optimize import Campaign, Conditions, RelaxCell, Relaxed
from relaxrl.potentials import parse_calculator
from relaxrl.strain import vector_from_tensor
from relaxrl.structures.frames import Frame
from relaxrl.training.finetuning.batches import PER_RELAXATION, RelaxationBatches
from relaxrl.training.finetuning.examples import example, frames_of, losses, relative_error, secant
from relaxrl.training.finetuning.terms import loss_terms, mean_loss

EXACT = 1e-10


def copper(seed: int = 0, constraint: FixAtoms | None = None, strain: float = 0.0) -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell * (1 + strain), scale_atoms=True)
    atoms.set_constraint(constraint)
    atoms.rattle(0.1, seed=seed)
    return atoms


def relaxed(atoms: Atoms, cell: RelaxCell | None = None, fmax: float = 0.01) -> Relaxed:
    conditions = Conditions("metals", parse_calculator("emt"), fmax=fmax, cell=cell, record=True)
    return next(Campaign([("one", atoms)], conditions).run())


def test_the_path_is_what_was_evaluated() -> None:
    done = relaxed(copper())
    assert len(done.path) == done.force_evaluations
    np.testing.assert_array_equal(done.path[0].positions, copper().positions)
    np.testing.assert_array_equal(done.path[-1].positions, done.atoms.positions)
    np.testing.assert_array_equal(done.path[-1].forces, done.atoms.get_forces())
    assert not relaxed_without_record().path


def relaxed_without_record() -> Relaxed:
    return next(Campaign([("one", copper())], Conditions("metals", parse_calculator("emt"))).run())


def test_frames_end_where_the_relaxation_does_and_their_forces_vanish_there() -> None:
    done = relaxed(copper(), fmax=0.05)
    frames = frames_of(done, "emt", 0.05, "copper")
    end = done.path[-1]
    assert len(frames) >= 2
    for frame, point in zip(frames, done.path, strict=False):
        np.testing.assert_allclose(frame.minimum.positions, end.positions)
        np.testing.assert_allclose(frame.forces, point.forces - end.forces)
        assert (frame.parent, frame.calculator, frame.crystal) == ("copper", "emt", "one")


def test_a_relaxation_that_stopped_early_teaches_the_same_parabola() -> None:
    """Newton's step with the true Hessian has no error at any of its points, though forces are left at its end."""
    generator = np.random.default_rng(0)
    root = generator.normal(size=(12, 12))
    hessian = root @ root.T + np.eye(12)
    done = relaxed(copper())
    places = [generator.normal(size=12) * size for size in (0.1, 0.05, 0.02)]
    path = tuple(
        replace(point, positions=place.reshape(-1, 3), forces=-(hessian @ place).reshape(-1, 3))
        for point, place in zip(done.path, places, strict=False)
    )
    for frame in frames_of(replace(done, path=path), "emt", 0.01):
        step = np.linalg.solve(hessian, frame.forces.ravel()).reshape(-1, 3)
        np.testing.assert_allclose(step, frame.minimum.positions - frame.atoms.positions, atol=EXACT)


def test_fixed_atoms_pull_at_nothing_that_is_learned() -> None:
    """Differences of forces belong to differences of positions, those on fixed atoms included."""
    done = relaxed(copper(constraint=FixAtoms([0])))
    frames = frames_of(done, "emt", 0.01)
    assert frames
    first = frames[0]
    np.testing.assert_array_equal(first.minimum.positions[0], first.atoms.positions[0])
    # Newton's third law: without the forces on the fixed atom the others would not add up to zero.
    np.testing.assert_allclose(first.forces.sum(axis=0), 0, atol=1e-9)


def test_cells_that_relax_give_strains_that_lead_to_the_end() -> None:
    done = relaxed(copper(strain=0.03), RelaxCell())
    frames = frames_of(done, "emt", 0.01)
    one = example(frames[0])
    assert one.moves
    stretch = np.eye(3) + frames[0].strain
    np.testing.assert_allclose(frames[0].atoms.cell.array @ stretch, frames[0].minimum.cell.array, atol=1e-9)
    np.testing.assert_allclose(one.strain.numpy(), vector_from_tensor(frames[0].strain), atol=EXACT)
    assert one.graph.stress is not None
    assert float(one.strain[:3].sum()) < 0 < float(one.graph.stress[0].diagonal().sum())  # tension: it shrinks


def test_the_loss_is_that_of_the_relative_error() -> None:
    """An actor that goes half the way is wrong by half of it."""
    frames = frames_of(relaxed(copper()), "emt", 0.01)
    actor = load_agent("metals").actor
    one = example(frames[0])
    with torch.no_grad():
        step = actor(one.graph)
        step = step - step.mean(dim=0)
    halfway = replace(one, displacement=2 * step.double())
    of_displacement, of_strain = losses(actor, [halfway])
    assert relative_error(float(of_displacement)) == pytest.approx(np.sqrt(0.5**2 + RELATIVE_FLOOR), rel=1e-4)
    assert float(of_strain) == 0.0


def test_the_error_with_the_cell_is_that_of_displacements_and_strains_alike() -> None:
    frames = frames_of(relaxed(copper(strain=0.03), RelaxCell()), "emt", 0.01)[:1]
    actor = load_agent("metals").actor
    with torch.no_grad():
        of_displacement, of_strain = (relative_error(float(loss)) for loss in losses(actor, [example(frames[0])]))
    together = relative_error(mean_loss(actor, [frames]))
    assert together == pytest.approx(np.sqrt(of_displacement * of_strain), rel=1e-4)
    assert min(of_displacement, of_strain) <= together <= max(of_displacement, of_strain)


def test_an_agent_of_the_calculator_is_better_than_one_of_another_scale() -> None:
    frames = frames_of(relaxed(copper()), "emt", 0.01)
    actor = load_agent("metals").actor
    scaled = [replace(frame, forces=5 * frame.forces) for frame in frames]
    assert mean_loss(actor, [frames]) < mean_loss(actor, [scaled]) - 2


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"converged": False}, "not converged"),
        ({"path": ()}, "not recorded"),
    ],
)
def test_nothing_is_learned_from(change: dict, what: str) -> None:
    assert frames_of(replace(relaxed(copper()), **change), "emt", 0.01) == [], what


def test_points_in_other_basins_and_crashes_teach_nothing() -> None:
    done = relaxed(copper())
    far, steep = done.path[0], done.path[1]
    far = replace(far, positions=far.positions + np.eye(4, 3) * 2.0)
    steep = replace(steep, forces=steep.forces + np.array([[100.0, 0, 0], [-100.0, 0, 0], [0, 0, 0], [0, 0, 0]]))
    kept = frames_of(replace(done, path=(far, steep, *done.path)), "emt", 0.01)
    assert len(kept) == len(frames_of(done, "emt", 0.01))


@pytest.mark.parametrize("cell", [None, RelaxCell()], ids=["fixed cell", "with cell"])
def test_a_secant_is_the_way_from_one_point_to_another(cell: RelaxCell | None) -> None:
    done = relaxed(copper(strain=0.0 if cell is None else 0.02), cell)
    here, there = frames_of(done, "emt", 0.01)[:2]
    found = secant(here, there, 0.01)
    assert found is not None
    np.testing.assert_allclose(found.forces, done.path[0].forces - done.path[1].forces, atol=EXACT)
    np.testing.assert_allclose(found.minimum.cell.lengths(), there.atoms.cell.lengths())
    np.testing.assert_allclose(found.minimum.get_all_distances(), there.atoms.get_all_distances(), atol=EXACT)
    np.testing.assert_array_equal(found.atoms.positions, here.atoms.positions)
    volumes = [frame.atoms.get_volume() for frame in (here, there)]
    stress = here.stress - there.stress * volumes[1] / volumes[0]
    np.testing.assert_allclose(found.stress, stress, atol=EXACT)
    assert example(found).moves is (cell is not None)


def parabola(*places: float) -> list[Frame]:
    """Points on the way to the minimum of one parabola in all coordinates, in Å from it along one direction."""
    end, way = copper(seed=1), np.random.default_rng(0).normal(size=(4, 3))
    way -= way.mean(axis=0)
    frames = []
    for place in places:
        here = end.copy()
        here.positions += place * way
        frames.append(Frame(here, 0.0, -5.0 * place * way, None, end, 0.0, "one", "one", "emt"))
    return frames


def test_a_step_that_is_right_to_the_minimum_is_right_along_every_secant() -> None:
    """By the Hessian of the parabola, whichever two points of it are taken."""
    frames = parabola(0.2, 0.11, -0.06, 0.03)
    for k, here in enumerate(frames):
        for there in frames[k + 1 :]:
            found = secant(here, there, 0.01)
            assert found is not None
            np.testing.assert_allclose(example(found).displacement.numpy(), found.forces / 5.0, atol=EXACT)


@pytest.mark.parametrize(
    ("places", "what"),
    [((0.1, 0.2), "forces grow"), ((0.1, 0.1), "no way"), ((0.1, 0.0999), "too little to be told from noise")],
)
def test_secants_that_teach_nothing(places: tuple[float, float], what: str) -> None:
    here, there = parabola(*places)
    assert secant(here, there, 0.01) is None, what


def test_negative_curvature_along_the_way_is_no_secant() -> None:
    here, there = (replace(frame, forces=-frame.forces) for frame in parabola(0.2, 0.1))
    assert secant(here, there, 0.01) is None


def test_points_are_led_to_later_ones_as_often_as_asked() -> None:
    frames = parabola(0.3, 0.2, 0.1, 0.05)
    ends = {example(frame).displacement.numpy().tobytes() for frame in frames}

    def share(secants: float) -> float:
        batches = RelaxationBatches([frames], batch_size=4, secants=secants)
        generator = torch.Generator().manual_seed(0)
        drawn = [one for _ in range(100) for batch in batches.epoch(generator) for one in batch.new]
        return float(np.mean([one.displacement.numpy().tobytes() not in ends for one in drawn]))

    assert share(0.0) == 0.0
    assert share(1.0) == pytest.approx(0.75)  # the last point has none after it
    assert share(0.5) == pytest.approx(0.375, abs=0.06)
    judged = [one for batch in RelaxationBatches([frames], secants=1.0).epoch(None) for one in batch.new]
    assert {one.displacement.numpy().tobytes() for one in judged} == ends


def many(n: int) -> list[Frame]:
    frame = frames_of(relaxed(copper()), "emt", 0.01)[0]
    return [replace(frame, energy=float(k)) for k in range(n)]


def test_a_long_relaxation_counts_no_more_than_a_short_one() -> None:
    batches = RelaxationBatches([many(50), many(3)], batch_size=4)
    drawn = [one for batch in batches.epoch(torch.Generator().manual_seed(0)) for one in batch.new]
    assert len(drawn) == PER_RELAXATION + 3
    assert len(batches) == 3
    again = [one for batch in batches.epoch(torch.Generator().manual_seed(0)) for one in batch.new]
    assert [id(one) for one in drawn] == [id(one) for one in again]


def test_validation_sees_all_of_the_replay_once() -> None:
    batches = RelaxationBatches([many(8)], many(5), batch_size=4)
    replay = [one for batch in batches.epoch(None) for one in batch.replay]
    assert len(replay) == 5
    actor = load_agent("metals").actor
    batch = next(iter(batches.epoch(None)))
    terms = loss_terms(actor, batch)
    assert set(terms) == {"displacement", "replay"}
    assert len(terms["displacement"][0]) == 4
