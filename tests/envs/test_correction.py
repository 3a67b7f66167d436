from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.geometry import get_distances
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from relaxrl.envs import correct
from relaxrl.envs.correction import MARGIN
from relaxrl.graph import AtomGraph
from relaxrl.io import graph_from_atoms

A_BACK = 1e-9
LEGAL = 1e-9  # Å

R_MIN, CUTOFF = 1.5, 3.2


def corrected(atoms: Atoms, displacement, r_min=R_MIN, cutoff=CUTOFF):
    result = correct(graph_from_atoms(atoms), torch.as_tensor(np.asarray(displacement, dtype=float)), r_min, cutoff)
    return result.applied.numpy(), result.a_back.numpy()


def crystals() -> st.SearchStrategy[tuple[Atoms, np.ndarray]]:
    """Small random cells (1 to 5 atoms, some directions periodic) and displacements up to a bond length."""

    @st.composite
    def build(draw):
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        n = draw(st.integers(1, 5))
        pbc = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
        cell = np.diag(rng.uniform(2.6, 5.0, 3)) + rng.uniform(-0.6, 0.6, (3, 3))
        atoms = Atoms("Cu" * n, scaled_positions=rng.uniform(-1.0, 2.0, (n, 3)), cell=cell, pbc=pbc)
        return atoms, rng.normal(0.0, draw(st.sampled_from([0.05, 0.4, 1.5])), (n, 3))

    return build()


def distances(atoms: Atoms, positions: np.ndarray) -> np.ndarray:
    """Distances of all pairs and images near them, (n, n, n_images); an atom's distance to itself is inf.

    By brute force over lattice translations, to have nothing in common with the code under test.
    """
    span = [range(-8, 9) if periodic else range(1) for periodic in atoms.pbc]
    shifts = np.array([(i, j, k) for i in span[0] for j in span[1] for k in span[2]]) @ atoms.cell.array
    vectors = positions[None, :, None] + shifts[None, None] - positions[:, None, None]
    lengths = np.linalg.norm(vectors, axis=-1)
    itself = np.eye(len(positions), dtype=bool)[:, :, None] & (np.linalg.norm(shifts, axis=-1) < 1e-12)
    return np.where(itself, np.inf, lengths)


def legal(atoms: Atoms, displacement: np.ndarray, fraction: float, slack: float) -> bool:
    start, now = (distances(atoms, atoms.positions + f * displacement) for f in (0.0, fraction))
    too_close = (now < np.minimum(R_MIN, start) - slack).any()
    bound = (start <= CUTOFF).any(axis=(1, 2))
    lost = bound & (now > CUTOFF + slack).all(axis=(1, 2))
    return not too_close and not lost.any()


@settings(max_examples=60, deadline=None)
@given(crystals())
def test_the_whole_path_is_legal_and_a_little_more_of_it_is_not(case):
    atoms, displacement = case
    applied, a_back = corrected(atoms, displacement)
    np.testing.assert_allclose(applied, (1.0 - a_back) * displacement, atol=1e-14)
    for fraction in np.linspace(0.0, 1.0, 21):
        assert legal(atoms, applied, fraction, LEGAL)
    if a_back[0] > 0.0:
        further = (1.0 - a_back[0]) + 1e-5
        assert not legal(atoms, displacement, further, 0.0)


@settings(max_examples=30, deadline=None)
@given(crystals(), st.integers(0, 2**32 - 1))
def test_rotation_translation_permutation_inversion_and_choice_of_image_change_nothing(case, seed):
    atoms, displacement = case
    assume(distances(atoms, atoms.positions).min() > R_MIN)  # at contact, rounding decides
    _, expected = corrected(atoms, displacement)
    rng = np.random.default_rng(seed)
    rotation = Rotation.random(rng=rng).as_matrix() * rng.choice([-1.0, 1.0])
    order = rng.permutation(len(atoms))
    moved = atoms[order]
    images = rng.integers(-2, 3, (len(atoms), 3)) * atoms.pbc
    moved.positions = (moved.positions + images @ atoms.cell.array) @ rotation.T + rng.normal(size=3)
    moved.cell = atoms.cell.array @ rotation.T
    applied, a_back = corrected(moved, displacement[order] @ rotation.T)
    np.testing.assert_allclose(a_back, expected, atol=1e-7)
    np.testing.assert_allclose(applied, (1 - expected) * displacement[order] @ rotation.T, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.lists(crystals(), min_size=2, max_size=4))
def test_a_batch_is_corrected_like_its_structures_alone(cases):
    graph = AtomGraph.batch([graph_from_atoms(atoms) for atoms, _ in cases])
    together = correct(graph, torch.from_numpy(np.concatenate([d for _, d in cases])), R_MIN, CUTOFF)
    alone = [corrected(atoms, displacement) for atoms, displacement in cases]
    np.testing.assert_array_equal(together.a_back.numpy(), np.concatenate([a_back for _, a_back in alone]))
    np.testing.assert_array_equal(together.applied.numpy(), np.concatenate([applied for applied, _ in alone]))


def pair(distance: float, cell: float = 20.0, pbc: bool = False) -> Atoms:
    return Atoms("CuAu", positions=[(0, 0, 0), (distance, 0, 0)], cell=[cell] * 3, pbc=pbc)


def test_a_head_on_step_stops_at_r_min():
    applied, a_back = corrected(pair(2.5), [(1.0, 0, 0), (-1.0, 0, 0)])  # 2.5 - 2 f = 1.5
    assert a_back[0] == pytest.approx(0.5, abs=A_BACK)
    np.testing.assert_allclose(applied, [(0.5, 0, 0), (-0.5, 0, 0)], atol=A_BACK)
    distance = 2.5 - 2 * applied[0, 0]
    assert R_MIN <= distance <= R_MIN + 3 * MARGIN


def test_atoms_do_not_tunnel_through_each_other():
    applied, a_back = corrected(pair(2.5), [(5.0, 0, 0), (0, 0, 0)])  # the end, 2.5 Å beyond, would be legal
    assert a_back[0] == pytest.approx(0.8, abs=A_BACK)
    assert applied[0, 0] == pytest.approx(1.0, abs=1e-8)


def test_a_glancing_step_stops_where_the_circle_is_met():
    # From (0, 0) to (4, 0), past an atom at (2, 0.9): the distance is 1.5 at x = 2 - sqrt(1.5² - 0.9²) = 0.8.
    atoms = Atoms("Cu2", positions=[(0, 0, 0), (2.0, 0.9, 0)])
    _, a_back = corrected(atoms, [(4.0, 0, 0), (0, 0, 0)])
    assert a_back[0] == pytest.approx(1 - 0.2, abs=A_BACK)
    atoms.positions[1, 1] = 1.6  # passes at more than r_min
    _, a_back = corrected(atoms, [(4.0, 0, 0), (0, 0, 0)])
    assert a_back[0] == 0.0


def test_contact_through_the_cell_boundary_counts():
    atoms = pair(7.5, cell=10.0, pbc=True)  # 2.5 Å through the boundary
    for images in (0, 3, -2):
        atoms.positions[1, 0] = 7.5 + 10.0 * images
        _, a_back = corrected(atoms, [(-0.5, 0, 0), (1.5, 0, 0)])
        assert a_back[0] == pytest.approx(0.5, abs=A_BACK)
    atoms.pbc = False
    atoms.positions[1, 0] = 7.5
    _, a_back = corrected(atoms, [(-0.5, 0, 0), (1.5, 0, 0)], cutoff=20.0)
    assert a_back[0] == 0.0


def test_an_atom_leaving_the_cell_meets_the_image_on_the_other_side():
    atoms = Atoms("Cu2", positions=[(9.0, 0, 0), (1.5, 0, 0)], cell=[10.0] * 3, pbc=True)
    applied, a_back = corrected(atoms, [(2.0, 0, 0), (0, 0, 0)])  # image of the second at 11.5: stops at 10
    assert a_back[0] == pytest.approx(0.5, abs=A_BACK)
    end = atoms.positions + applied
    assert get_distances(end[:1], end[1:], cell=atoms.cell, pbc=True)[1].item() == pytest.approx(R_MIN, abs=1e-8)
    assert end[0, 0] == pytest.approx(10.0, abs=1e-8)  # not wrapped


def test_the_nearest_image_may_change_along_the_path():
    # Passing between two images 5 Å apart, off the axis by 2 Å: never closer than 2 Å.
    atoms = Atoms("Cu2", positions=[(0, 0, 0), (0.5, 2.0, 0)], cell=[5.0, 20.0, 20.0], pbc=True)
    for r_min, expected in ((1.9, 0.0), (2.05, None)):
        _, a_back = corrected(atoms, [(12.0, 0, 0), (0, 0, 0)], r_min=r_min, cutoff=4.0)
        if expected is None:
            first = 0.5 - np.sqrt(2.05**2 - 2.0**2)
            expected = 1 - first / 12.0
        assert a_back[0] == pytest.approx(expected, abs=A_BACK)


def test_an_overlap_may_be_left_but_not_deepened():
    overlapping = pair(1.0)
    assert corrected(overlapping, [(-0.2, 0, 0), (0.2, 0, 0)])[1] == 0.0
    assert corrected(overlapping, [(0.1, 0, 0), (0.1, 0, 0)])[1] == 0.0
    assert corrected(overlapping, [(0.2, 0, 0), (0, 0, 0)])[1] == 1.0
    coincident = pair(0.0)
    applied, a_back = corrected(coincident, [(-1.0, 0, 0), (1.0, 0, 0)])
    assert a_back == 0.0
    assert np.isfinite(applied).all()


def test_an_atom_stopped_at_contact_can_turn_back_but_not_go_on():
    atoms = pair(2.5)
    applied, _ = corrected(atoms, [(2.0, 0, 0), (0, 0, 0)])
    atoms.positions += applied
    assert corrected(atoms, [(0.3, 0, 0), (0, 0, 0)])[1][0] == pytest.approx(1.0, abs=1e-6)
    assert corrected(atoms, [(-0.3, 0, 0), (0, 0, 0)])[1] == 0.0


def test_an_atom_may_not_leave_its_last_neighbour():
    chain = Atoms("Cu3", positions=[(0, 0, 0), (2.5, 0, 0), (5.0, 0, 0)])
    applied, a_back = corrected(chain, [(0, 0, 0), (0, 0, 0), (1.0, 0, 0)])  # 2.5 + f = 3.2
    assert a_back[0] == pytest.approx(0.3, abs=A_BACK)
    assert applied[2, 0] == pytest.approx(0.7, abs=1e-8)
    assert corrected(chain, [(-1, 0, 0), (-1, 0, 0), (-1, 0, 0)])[1] == 0.0  # together


def test_stopped_at_the_cutoff_an_atom_stays_bound():
    atoms = pair(3.0)
    for _ in range(5):
        atoms.positions += corrected(atoms, [(0, 0, 0), (0.3, 0.1, 0)])[0]
        assert atoms.get_distance(0, 1) <= CUTOFF


def test_neighbours_may_be_exchanged_on_the_way_if_there_is_no_gap():
    # The first atom moves from the second to the third; the others keep it company with each other.
    atoms = Atoms("Cu5", positions=[(0, 0, 0), (0, 1.9, 0), (5.0, 1.9, 0), (0, 4.4, 0), (5.0, 4.4, 0)])
    step = np.zeros((5, 3))
    step[0, 0] = 5.0
    # Half way, 2.5 Å from both along x, the neighbours are at sqrt(2.5² + 1.9²) = 3.14: within the cutoff.
    assert corrected(atoms, step)[1] == 0.0
    atoms.positions[1:3, 1] = 2.1  # now at 3.26
    x = np.sqrt(CUTOFF**2 - 2.1**2)
    assert corrected(atoms, step)[1][0] == pytest.approx(1 - x / 5.0, abs=A_BACK)


def test_own_images_are_neighbours_that_stay():
    atoms = Atoms("Cu2", positions=[(0, 0, 0), (0, 2.5, 0)], cell=[2.8, 20.0, 20.0], pbc=[True, False, False])
    assert corrected(atoms, [(0, -6.0, 0), (0, 6.0, 0)])[1] == 0.0
    atoms.cell[0, 0] = 4.0  # beyond the cutoff
    assert corrected(atoms, [(0, -6.0, 0), (0, 6.0, 0)])[1] > 0.9


def test_an_atom_without_neighbours_is_free():
    assert corrected(Atoms("Cu"), [(3.0, 0, 0)])[1] == 0.0
    assert corrected(bulk("Cu"), [(3.0, 0, 0)])[1] == 0.0
    assert corrected(pair(9.0), [(3.0, 0, 0), (-1.0, 0, 0)])[1] == 0.0


def test_contact_radii_give_each_pair_its_own_distance():
    atoms = Atoms("CuAuCu", positions=[(0, 0, 0), (2.5, 0, 0), (5.2, 0, 0)])
    radii = torch.tensor([0.5, 1.0, 0.8], dtype=torch.float64)
    _, a_back = corrected(atoms, [(2.0, 0, 0), (0, 0, 0), (0, 0, 0)], r_min=radii)  # 2.5 - 2 f = 1.5
    assert a_back[0] == pytest.approx(0.5, abs=A_BACK)
    _, a_back = corrected(atoms, [(0, 0, 0), (0, 0, 0), (-2.0, 0, 0)], r_min=radii)  # 2.7 - 2 f = 1.8
    assert a_back[0] == pytest.approx(0.55, abs=A_BACK)
    with pytest.raises(ValueError, match="r_min"):
        corrected(atoms, np.zeros((3, 3)), r_min=radii[:2])


def test_bad_displacements_are_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        corrected(pair(2.5), np.zeros((3, 3)))
    with pytest.raises(ValueError, match="finite"):
        corrected(pair(2.5), [(np.inf, 0, 0), (0, 0, 0)])
