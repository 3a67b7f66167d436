from dataclasses import field
from pathlib import Path
from typing import Literal

import pytest

from relaxrl.config import configclass, dump_config, from_dict, load_config, to_dict
from relaxrl.errors import ConfigError


@configclass
class Learner:
    gamma: float = 0.9
    kind: Literal["td3", "sac"] = "td3"

    def __post_init__(self) -> None:
        if not 0 <= self.gamma < 1:
            raise ValueError(f"`gamma` must be in [0, 1), got {self.gamma}")


@configclass
class Other:
    mu: float = 1.0


@configclass
class Run:
    names: tuple[str, ...]
    learner: Learner = field(default_factory=Learner)
    head: Learner | Other = field(default_factory=Learner)
    seed: int | None = None


def error(values: dict, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        from_dict(Run, values, overrides, "run.yaml")
    return str(caught.value)


def test_overrides_win_over_the_file_and_survive_a_round_trip(tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_text("names: [a, b]\nlearner: {gamma: 0.5}\n")
    config = load_config(Run, path, ["learner.gamma=1e-4", "seed=3", "head.mu=2"])
    assert config == Run(names=("a", "b"), learner=Learner(gamma=1e-4), head=Other(mu=2.0), seed=3)
    dump_config(config, tmp_path / "dumped.yaml")
    assert load_config(Run, tmp_path / "dumped.yaml") == config
    assert to_dict(config)["learner"] == {"gamma": 1e-4, "kind": "td3"}


def test_an_unknown_key_names_itself_its_place_and_the_nearest_spelling():
    assert error({"names": ["a"], "learner": {"gama": 1}}) == (
        "run.yaml: unknown key `learner.gama`; did you mean `learner.gamma`?"
    )
    assert error({"names": ["a"]}, "lerner.gamma=0.1") == (
        "run.yaml with override `lerner.gamma=0.1`: unknown key `lerner`; did you mean `learner`?"
    )
    assert "the keys are `names`, `learner`, `head`, `seed`" in error({"names": ["a"], "qqq": 1})


def test_a_wrong_value_says_expected_and_got():
    assert error({"names": ["a"], "learner": {"gamma": "high"}}) == (
        "run.yaml: `learner.gamma` must be a valid number, got 'high' (str)"
    )
    assert "`names` must be a list, got 3 (int)" in error({"names": 3})
    assert "`learner` must be a mapping of keys to values, got 3 (int)" in error({"names": ["a"], "learner": 3})
    assert "did you mean `td3`?" in error({"names": ["a"], "learner": {"kind": "td"}})
    assert error({"names": ["a"], "learner": "sac"}) == (
        "run.yaml: `learner` must be a mapping of keys to values, got 'sac' (str); did you mean `learner: {kind: sac}`?"
    )
    assert error({}) == "run.yaml: key `names` is missing; give it a value"


def test_a_value_out_of_range_names_its_field():
    assert error({"names": ["a"], "learner": {"gamma": 2}}) == (
        "run.yaml: in `learner`: `gamma` must be in [0, 1), got 2.0"
    )
    assert "with override `learner.gamma=2`" in error({"names": ["a"]}, "learner.gamma=2")


def test_a_union_reports_only_the_member_that_was_meant():
    assert error({"names": ["a"], "head": {"mu": "x"}}) == "run.yaml: `head.mu` must be a valid number, got 'x' (str)"
    assert "unknown key `head.nu`; did you mean `head.mu`?" in error({"names": ["a"], "head": {"nu": 1}})


@pytest.mark.parametrize("override", ["gamma", "=1", "a..b=1"])
def test_a_malformed_override_says_what_one_looks_like(override: str):
    assert "expected `key=value`" in error({"names": ["a"]}, override)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty file"),
        ("[1, 2]", "expected a mapping"),
        ("a: [1\nb: 2", "not valid YAML"),
        ("names: [a]\nseed: 1\nseed: 2\n", "line 3: not valid YAML: key `seed` is given twice"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, text: str, words: str):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_config(Run, path)


def test_a_missing_file(tmp_path: Path):
    with pytest.raises(ConfigError, match="No such file"):
        load_config(Run, tmp_path / "none.yaml")


def test_configurations_are_frozen():
    with pytest.raises(AttributeError):
        Learner().gamma = 0.5
