"""Recipes with several calculators, their cache, starts with strained cells, and the card."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from relaxrl.cli.main import main
from relaxrl.config import from_dict
from relaxrl.errors import CalculatorError, ConfigError, StructureError
from relaxrl.potentials import parse_calculator
from relaxrl.structures import SetRecipe, cooking, read_structures
from relaxrl.structures.archive import load_archive
from relaxrl.structures.cooking import Candidate, Outcome, cook, read_outcome
from relaxrl.structures.frames import load_frames
from relaxrl.structures.jobs import worker_pool
from relaxrl.structures.recipe import cook_set

LJ = "lj,sigma=2.3,epsilon=0.3,rc=6.0,smooth=True"
ALLOYS = {"elements": ["Cu", "Au", "Ni"], "prototypes": ["fcc", "L1_2", "B2"], "max_atoms": 6}


def values(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": "tiny",
        "seed": 3,
        "splits": {"train": {"starts": False, "groups": [{"count": 4, "alloys": ALLOYS}]}},
    }
    return made | changes


def recipe(**changes: Any) -> SetRecipe:
    return from_dict(SetRecipe, values(**changes))


def entries_of(outcomes: list[Outcome]) -> list[Any]:
    return [outcome.entry for outcome in outcomes]


def test_groups_have_calculators_of_their_own() -> None:
    groups = [
        {"count": 2, "alloys": ALLOYS},
        {"count": 2, "alloys": ALLOYS, "calculator": LJ},
        {"count": 6, "alloys": ALLOYS, "calculators": ["emt", LJ]},
    ]
    made = cook_set(recipe(splits={"train": {"starts": False, "per_parent": 3, "groups": groups}}))["train"]
    names = [entry.calculator for entry in entries_of(made)]
    assert names[:4] == ["emt", "emt", LJ, LJ]
    assert set(names[4:]) == {"emt", LJ}
    for entry in entries_of(made)[:4]:
        atoms = entry.minimum.copy()
        atoms.calc = parse_calculator(entry.calculator).create()
        assert np.abs(atoms.get_forces()).max() < 1e-4
        assert atoms.get_potential_energy() == pytest.approx(entry.energy, abs=1e-6)


def test_names_of_calculators_take_the_elements_of_their_group() -> None:
    group = {"count": 2, "alloys": ALLOYS, "calculator": "drawn-sw,elements={elements},seed=5"}
    made = cook_set(recipe(splits={"train": {"starts": False, "groups": [group]}}))["train"]
    symbols = ",".join(f"'{symbol}'" for symbol in sorted(ALLOYS["elements"]))
    assert {entry.calculator for entry in entries_of(made)} == {f"drawn-sw,elements=[{symbols}],seed=5"}


def test_calculators_that_do_not_know_an_element() -> None:
    wrong = {"elements": ["Cu", "Fe"]}
    with pytest.raises(StructureError, match=r"tiny:train: group 0: calculator emt has no parameters for Fe"):
        cook_set(recipe(splits={"train": {"starts": False, "groups": [{"count": 1, "alloys": wrong}]}}))


def test_compositions_are_in_one_split_only() -> None:
    splits = {
        "test": {"groups": [{"count": 3, "alloys": ALLOYS}]},
        "train": {"starts": False, "compositions": ["AuCu"], "groups": [{"count": 5, "alloys": ALLOYS}]},
    }
    made = cook_set(recipe(splits=splits, split_by="composition"))
    test, train = ({entry.parent.split()[-1] for entry in entries_of(part)} for part in made.values())
    assert not test & train
    assert "AuCu" not in test


def test_a_split_may_draw_from_the_families_of_another() -> None:
    many = ALLOYS | {"prototypes": ["L1_2", "B2", "L1_0", "C15", "D0_3", "B20", "A15"], "max_atoms": 8}
    splits = {
        "train": {"starts": False, "groups": [{"count": 2, "alloys": many}]},
        "test": {"families_of": "train", "groups": [{"count": 2, "alloys": many}]},
    }
    made = cook_set(recipe(splits=splits, split_by="composition"))
    train, test = ([entry.parent.rpartition(" ") for entry in entries_of(part)] for part in made.values())
    assert {family for family, _, _ in test} <= {family for family, _, _ in train}
    assert not {formula for _, _, formula in test} & {formula for _, _, formula in train}
    with pytest.raises(ConfigError, match="must name a split that comes before"):
        recipe(splits={"test": splits["test"], "train": splits["train"]})


def test_starts_may_be_strained() -> None:
    splits = {"test": {"start_strain": 0.04, "groups": [{"count": 2, "alloys": ALLOYS}]}}
    made = cook_set(recipe(splits=splits, minimum={"cell": True, "fmax": 1e-4}))["test"]
    for entry in entries_of(made):
        assert entry.start_cell is not None
        strain = np.linalg.solve(entry.minimum.cell.array, entry.start_cell) - np.eye(3)
        np.testing.assert_allclose(strain, strain.T, atol=1e-6)
        assert 0.001 < np.abs(strain).max() <= 0.04 + 1e-6
        start = entry.atoms("start")
        np.testing.assert_array_equal(start.cell.array, entry.start_cell)


def test_a_candidate_that_its_calculator_refuses_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate, calls = cooking.energy_and_forces, []

    def refusing(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 1:
            raise CalculatorError("lost atoms")
        return evaluate(*args)

    monkeypatch.setattr(cooking, "energy_and_forces", refusing)
    seen: list[Outcome] = []
    splits = {"test": {"groups": [{"count": 2, "alloys": ALLOYS}]}}
    made = cook_set(recipe(splits=splits), on_outcome=lambda _, outcome: seen.append(outcome))
    assert len(entries_of(made["test"])) == 2
    assert [outcome.reason for outcome in seen if outcome.entry is None] == ["the calculator failed"]


def candidates_of(tmp_path: Path, changes: dict[str, Any]) -> tuple[dict[str, list[Outcome]], list[Outcome]]:
    seen: list[Outcome] = []
    made = cook_set(recipe(**changes), cache=tmp_path, on_outcome=lambda _, outcome: seen.append(outcome))
    return made, seen


def test_a_candidate_is_cooked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = {"displacements": 2, "relaxations": 1, "points": 3}
    splits = {"train": {"starts": False, "frames": frames, "groups": [{"count": 3, "alloys": ALLOYS}]}}
    first, seen = candidates_of(tmp_path, {"splits": splits})
    assert len(list(tmp_path.glob("*.outcome"))) == len(seen)
    monkeypatch.setattr("relaxrl.structures.cooking._cook", lambda candidate: pytest.fail(f"again {candidate.stream}"))
    second, again = candidates_of(tmp_path, {"splits": splits})
    assert [outcome.evaluations for outcome in again] == [outcome.evaluations for outcome in seen]
    assert all(outcome.evaluations > 10 for outcome in seen)
    for one, other in zip(first["train"], second["train"], strict=True):
        np.testing.assert_array_equal(one.entry.minimum.positions, other.entry.minimum.positions)  # type: ignore[union-attr]
        assert [frame.energy for frame in one.frames] == [frame.energy for frame in other.frames]
        assert one.frames[0].crystal == other.frames[0].crystal


def test_other_conditions_are_other_candidates(tmp_path: Path) -> None:
    made: list[Candidate] = []

    def remember(candidate: Candidate, cache: Path | None = None) -> Outcome:
        made.append(candidate)
        return cook(candidate, cache)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("relaxrl.structures.recipe.cook", remember)
        one = {"train": {"starts": False, "groups": [{"count": 1, "alloys": ALLOYS}]}}
        for changes in ({}, {"seed": 4}, {"minimum": {"rattle": 0.11}}, {"calculator": LJ}):
            cook_set(recipe(splits=one, **changes), cache=tmp_path)
        more = {"train": {"starts": False, "groups": [{"count": 2, "alloys": ALLOYS}]}}
        cook_set(recipe(splits=more), cache=tmp_path)  # of more structures, the first are the same
    fingerprints = [candidate.fingerprint for candidate in made]
    assert (
        fingerprints[-2] == fingerprints[0]
        or fingerprints[-1] == fingerprints[0]
        or fingerprints.count(fingerprints[0]) > 1
    )
    assert len({candidate.fingerprint for candidate in made if candidate.stream == made[0].stream}) == 4


def test_a_damaged_file_of_the_cache_is_cooked_again(tmp_path: Path) -> None:
    first, _ = candidates_of(tmp_path, {})
    for file in tmp_path.glob("*.outcome"):
        file.write_bytes(file.read_bytes()[:100])
        assert read_outcome(file) is None
    second, _ = candidates_of(tmp_path, {})
    for one, other in zip(first["train"], second["train"], strict=True):
        np.testing.assert_array_equal(one.entry.minimum.positions, other.entry.minimum.positions)  # type: ignore[union-attr]


def test_the_result_does_not_depend_on_the_number_of_jobs(tmp_path: Path) -> None:
    alone = cook_set(recipe())["train"]
    with worker_pool(2) as executor:
        helped = cook_set(recipe(), executor, cache=tmp_path)["train"]
    for one, other in zip(alone, helped, strict=True):
        np.testing.assert_array_equal(one.entry.minimum.positions, other.entry.minimum.positions)  # type: ignore[union-attr]


def test_a_process_that_dies_is_told(tmp_path: Path) -> None:
    class Dying(ThreadPoolExecutor):
        def map(self, *_: Any, **__: Any) -> Any:
            raise BrokenExecutor

    with Dying(1) as executor, pytest.raises(CalculatorError, match=r"one of emt died: .*the same command goes on"):
        cook_set(recipe(), executor, cache=tmp_path)


def test_a_killed_command_goes_on(tmp_path: Path) -> None:
    file, out = tmp_path / "recipe.yaml", tmp_path / "set"
    splits: dict[str, Any] = {"train": {"starts": False, "per_parent": 20, "groups": [{"count": 60, "alloys": ALLOYS}]}}
    file.write_text(yaml.safe_dump(values(splits=splits)))
    command = [sys.executable, "-m", "relaxrl.cli.main", "structures", "make", str(file), "--jobs", "1", "--out"]
    running = subprocess.Popen([*command, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list((out / "cache").glob("*.outcome"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    before = {path.name: path.stat().st_mtime_ns for path in (out / "cache").glob("*.outcome")}
    assert 3 <= len(before) < 60
    fewer = {"train": splits["train"] | {"groups": [{"count": 5, "alloys": ALLOYS}]}}
    file.write_text(yaml.safe_dump(values(splits=fewer)))
    assert main([*command[3:], str(out)]) == 0
    after = {path.name: path.stat().st_mtime_ns for path in (out / "cache").glob("*.outcome")}
    assert all(after[name] == stamp for name, stamp in before.items())
    assert len(load_archive(out / "tiny-train.npz")) == 5


def test_the_command_writes_archives_frames_and_a_card(tmp_path: Path) -> None:
    frames = {"displacements": 4, "relaxations": 1, "points": 3}
    splits = {
        "train": {"starts": False, "frames": frames, "groups": [{"count": 3, "alloys": ALLOYS}]},
        "test": {"groups": [{"count": 2, "alloys": ALLOYS, "calculator": LJ}]},
    }
    file, out = tmp_path / "recipe.yaml", tmp_path / "set"
    file.write_text(yaml.safe_dump(values(splits=splits)))
    assert main(["structures", "make", str(file), "--jobs", "1", "--out", str(out)]) == 0
    card = (out / "tiny.md").read_text()
    for words in ("| train | 3 minima |", "| test | 2 starts |", "`emt` (3)", f"`{LJ}` (2)", "Seed 3", "MIT", "make"):
        assert words in card
    crystals = read_structures(out / "tiny-train.npz")
    assert len(read_structures(out)) == 5  # neither frames nor cache count as structures
    kept = load_frames(out / "tiny-train-frames.npz")
    ids = [f"tiny-train.npz#{index}" for index in range(3)]
    assert {frame.crystal for frame in kept} == set(ids)
    for frame in kept:
        crystal = crystals[ids.index(frame.crystal)]
        assert frame.parent == crystal.parent
        assert frame.calculator == crystal.calculator == "emt"
        np.testing.assert_allclose(frame.minimum_energy, crystal.minimum_energy)


@pytest.mark.parametrize(
    ("changes", "group", "message"),
    [
        ({}, {"calculator": "emt", "calculators": ["emt"]}, "got both"),
        ({"start_strain": 0.1}, {}, "minima with the cell"),
        ({"compositions": ["CuAu"]}, {}, "split_by"),
        ({"frames": {"displacements": 0}}, {}, "displacements"),
        ({"frames": {"relaxations": 9}}, {}, "relaxations"),
    ],
)
def test_wrong_splits(changes: dict[str, Any], group: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe(splits={"a": {"groups": [{"count": 1, "alloys": ALLOYS} | group]} | changes})


def test_wrong_minima_and_formulas() -> None:
    with pytest.raises(ConfigError, match="check"):
        recipe(minimum={"check": "hope"})
    splits = {"a": {"compositions": ["Qq"], "groups": [{"count": 1, "alloys": ALLOYS}]}}
    with pytest.raises(ConfigError, match="no chemical formula"):
        recipe(split_by="composition", splits=splits)
