from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relaxrl.config import from_dict
from relaxrl.errors import ConfigError, StructureError
from relaxrl.structures import Crystal, SetRecipe, make_set, write_structures


def recipe(**changes: Any) -> SetRecipe:
    alloys = {"elements": ["Cu", "Au", "Ni"], "prototypes": ["fcc", "L1_2", "B2"], "max_atoms": 6}
    values: dict[str, Any] = {
        "name": "tiny",
        "seed": 3,
        "splits": {
            "train": {"starts": False, "groups": [{"count": 5, "alloys": alloys}]},
            "test": {"groups": [{"count": 3, "alloys": alloys}]},
        },
    }
    return from_dict(SetRecipe, values | changes)


def test_parts_share_no_parent_and_have_what_they_should() -> None:
    parts = make_set(recipe())
    assert {name: len(entries) for name, entries in parts.items()} == {"train": 5, "test": 3}
    parents = [{entry.parent for entry in entries} for entries in parts.values()]
    assert not parents[0] & parents[1]
    assert [len(group) for group in parents] == [5, 3]  # one structure per parent unless asked for more
    assert all(entry.start is None for entry in parts["train"])
    assert all(entry.start is not None for entry in parts["test"])


def test_parents_of_excluded_sets_are_left_out(tmp_path: Path) -> None:
    few = {"elements": ["Cu", "Au"], "prototypes": ["L1_2", "B2", "L1_0"], "max_atoms": 4, "vacancy_probability": 0.0}
    one = {"train": {"starts": False, "groups": [{"count": 1, "alloys": few}]}}
    first = make_set(recipe(splits=one))["train"][0]
    write_structures(tmp_path / "first.extxyz", [Crystal("first", first.atoms("minimum"), first.parent, "minimum")])
    again = make_set(recipe(splits=one, exclude=[str(tmp_path / "first.extxyz")]))["train"][0]
    assert again.parent != first.parent


def test_the_result_depends_on_the_seed_and_not_on_the_executor() -> None:
    alone = make_set(recipe())
    with ThreadPoolExecutor(1) as executor:
        helped = make_set(recipe(), executor)
    other = make_set(recipe(seed=4))
    for name, entries in alone.items():
        for a, b in zip(entries, helped[name], strict=True):
            np.testing.assert_array_equal(a.minimum.positions, b.minimum.positions)
            assert a.energy == b.energy
    assert [entry.parent for entry in alone["train"]] != [entry.parent for entry in other["train"]]


def test_progress_reaches_the_end() -> None:
    seen: list[tuple[str, int, int]] = []
    make_set(recipe(), progress=lambda *step: seen.append(step))
    assert ("train", 5, 5) in seen
    assert seen[-1] == ("test", 3, 3)


def test_compounds_belong_to_the_split_that_names_them() -> None:
    ordered = {"elements": ["Cu", "Au"], "prototypes": ["L1_2", "D0_22"], "max_atoms": 8}
    made = make_set(
        recipe(
            splits={
                "train": {"starts": False, "groups": [{"count": 1, "alloys": ordered}]},
                "test": {"groups": [{"count": 1, "alloys": {"elements": [], "compounds": ["L1_2 Cu Au"]}}]},
            }
        )
    )
    assert made["train"][0].parent == "fcc Au3Cu"  # the only other one
    assert made["test"][0].parent == "fcc AuCu3"


def test_one_compound_named_in_two_splits() -> None:
    group = {"groups": [{"count": 1, "alloys": {"elements": [], "compounds": ["L1_2 Cu Au"]}}]}
    variant = {"groups": [{"count": 1, "alloys": {"elements": [], "compounds": ["D0_22 Cu Au"]}}]}
    with pytest.raises(StructureError, match="'D0_22 Cu Au' of test is a variant of one of train"):
        make_set(recipe(splits={"train": group, "test": variant}))


def test_groups_that_can_not_be_filled() -> None:
    one = {"groups": [{"count": 3, "alloys": {"elements": ["Cu"], "prototypes": ["fcc"]}}]}
    with pytest.raises(StructureError, match=r"tiny:train: group 0 lacks 2 of 3 structures"):
        make_set(recipe(splits={"train": one}))


def test_several_structures_of_one_parent_if_asked() -> None:
    one = {
        "starts": False,
        "per_parent": 3,
        "groups": [{"count": 3, "alloys": {"elements": ["Cu"], "prototypes": ["fcc"]}}],
    }
    entries = make_set(recipe(splits={"train": one}))["train"]
    assert [entry.parent for entry in entries] == ["fcc Cu"] * 3
    assert len({entry.energy for entry in entries}) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"splits": {}}, "at least one split"),
        ({"rattle": [0.3, 0.1]}, "`rattle`"),
        ({"splits": {"train": {"groups": []}}}, "at least one group"),
        ({"splits": {"a/b": {"groups": [{"count": 1, "alloys": {"elements": ["Cu"]}}]}}}, "a/b"),
        ({"sede": 3}, "did you mean `seed`"),
    ],
)
def test_wrong_recipes(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe(**changes)
