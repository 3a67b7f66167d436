import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms
from hypothesis import given, settings
from hypothesis import strategies as st

from relaxrl.errors import StructureError
from relaxrl.structures import Crystal, StructureSet, perturb, split_by_parent
from relaxrl.structures.check import closest_pair


def crystals(families: list[int]) -> list[Crystal]:
    """As many crystals of each parent as stated."""
    return [
        Crystal(f"set.xyz#{parent}.{k}", Atoms("Cu"), f"parent {parent}")
        for parent, size in enumerate(families)
        for k in range(size)
    ]


def test_weights_are_the_frequencies_of_draws() -> None:
    chosen = StructureSet(crystals([1, 1, 1, 1]), weights=[0.0, 1.0, 2.0, 5.0])
    generator = np.random.default_rng(3)
    draws = [chosen.sample(generator).id for _ in range(4000)]
    shares = [draws.count(crystal.id) / len(draws) for crystal in chosen]
    np.testing.assert_allclose(shares, [0, 0.125, 0.25, 0.625], atol=0.03)
    chosen.weights = [1.0, 0.0, 0.0, 0.0]
    assert chosen.sample(generator).id == chosen[0].id


def test_weights_can_not_be_changed_from_outside() -> None:
    chosen = StructureSet(crystals([1, 1]))
    chosen.weights[0] = 7.0
    assert chosen.weights.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("weights", [[1.0], [0.0, 0.0], [-1.0, 2.0], [np.nan, 1.0]])
def test_impossible_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="`weights` must"):
        StructureSet(crystals([1, 1]), weights)


def test_sets_are_not_empty_and_ids_are_unique() -> None:
    with pytest.raises(StructureError, match="at least one structure"):
        StructureSet([])
    with pytest.raises(StructureError, match=r"two structures of the set are called 'set\.xyz#0\.0'"):
        StructureSet([*crystals([1]), *crystals([1])])


@settings(deadline=None, max_examples=50)
@given(families=st.lists(st.integers(1, 4), min_size=1, max_size=40), seed=st.integers(0, 100))
def test_no_parent_is_in_two_parts_and_nothing_is_lost(families: list[int], seed: int) -> None:
    whole = crystals(families)
    parts = split_by_parent(whole, {"train": 0.7, "dev": 0.1, "test": 0.2}, np.random.default_rng(seed))
    assert sorted(crystal.id for part in parts.values() for crystal in part) == sorted(crystal.id for crystal in whole)
    parents = [{crystal.parent for crystal in part} for part in parts.values()]
    assert sum(map(len, parents)) == len(set.union(*parents))
    for name, share in {"train": 0.7, "dev": 0.1, "test": 0.2}.items():
        assert abs(len(parts[name]) - share * len(whole)) <= 4  # the largest family


def test_split_of_a_set_keeps_weights() -> None:
    whole = StructureSet(crystals([1] * 10), weights=np.arange(10.0) + 1)
    parts = whole.split({"train": 0.8, "test": 0.2}, np.random.default_rng(0))
    assert (len(parts["train"]), len(parts["test"])) == (8, 2)
    weight = {crystal.id: value for crystal, value in zip(whole, whole.weights, strict=True)}
    assert all(
        value == weight[crystal.id]
        for part in parts.values()
        for crystal, value in zip(part, part.weights, strict=True)
    )


def test_shares_must_sum_to_one() -> None:
    with pytest.raises(ValueError, match="must sum to 1"):
        split_by_parent(crystals([1]), {"train": 0.5}, np.random.default_rng(0))


def test_displacements_are_normal_with_the_stated_deviation() -> None:
    atoms = bulk("Cu", cubic=True) * (6, 6, 6)
    displacement = perturb(atoms, 0.1, np.random.default_rng(0)).positions - atoms.positions
    assert abs(displacement.mean()) < 0.005
    assert abs(displacement.std() - 0.1) < 0.003
    # A positive-only or bounded shift would fail these.
    assert np.mean(displacement > 0) == pytest.approx(0.5, abs=0.03)
    assert np.abs(displacement).max() > 0.28


def test_a_range_of_rattles_is_drawn_once_per_call() -> None:
    atoms = bulk("Cu", cubic=True) * (3, 3, 3)
    generator = np.random.default_rng(1)
    deviations = [(perturb(atoms, (0.05, 0.15), generator).positions - atoms.positions).std() for _ in range(40)]
    assert 0.045 < min(deviations) < 0.07
    assert 0.13 < max(deviations) < 0.165


def test_large_cells_are_displaced_strongly_without_collisions() -> None:
    atoms = bulk("Ni", cubic=True) * (3, 3, 3)
    moved = perturb(atoms, 0.3, np.random.default_rng(2))
    assert closest_pair(moved)[3] >= 0.7
    assert (moved.positions - atoms.positions).std() > 0.25


def test_periodic_images_of_one_atom_are_no_collision() -> None:
    thin = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.6]], cell=[1.7, 5, 5.2], pbc=True)
    moved = perturb(thin, 0.1, np.random.default_rng(0))
    assert not np.allclose(moved.positions, thin.positions)


def test_close_pairs_of_the_structure_itself_are_allowed() -> None:
    dimer = Atoms("Cu2", [[0, 0, 0], [0, 0, 1.4]])
    assert len(perturb(dimer, 0.02, np.random.default_rng(0))) == 2


def test_constraints_hold_and_the_original_is_left_alone() -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.set_constraint(FixAtoms([0, 2]))
    before = atoms.positions.copy()
    moved = perturb(atoms, 0.1, np.random.default_rng(0))
    np.testing.assert_array_equal(atoms.positions, before)
    np.testing.assert_array_equal(moved.positions[[0, 2]], before[[0, 2]])
    assert (moved.positions[[1, 3]] != before[[1, 3]]).all()


def test_equal_seeds_give_equal_displacements() -> None:
    a, b = (perturb(bulk("Cu", cubic=True), 0.1, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(a.positions, b.positions)


def test_impossible_displacements() -> None:
    with pytest.raises(StructureError, match="use a smaller rattle"):
        perturb(bulk("Cu", cubic=True), 50.0, np.random.default_rng(0), min_separation=0.95)
    with pytest.raises(ValueError, match="`rattle`"):
        perturb(bulk("Cu"), (0.3, 0.1), np.random.default_rng(0))
