import csv
import json

import pytest
import torch
from ase.build import bulk
from ase.io import write

from relaxrl.cli.evaluate import METHOD_NAMES
from relaxrl.cli.main import main
from relaxrl.evaluation import method_names

COLUMNS = [
    *("structure", "formula", "natoms", "method", "converged", "reason", "force_evaluations"),
    *("evaluations_0.1", "evaluations_0.05", "evaluations_0.01", "seconds", "fmax", "energy"),
]


def evaluate(*arguments):
    return main(["evaluate", *map(str, arguments)])


def rows(folder):
    with (folder / "runs.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def cells(tmp_path):
    file = tmp_path / "cells.extxyz"
    write(file, [bulk("Cu", cubic=True), bulk("Al", cubic=True)])
    return file


def test_the_contract(cells, tmp_path, capsys):
    options = ("--calculator", "emt", "--methods", "BFGS,FIRE", "--rattle", 0.1, "--seed", 3, "--out", tmp_path / "out")
    assert evaluate("--agent", "none", "--structures", cells, *options) == 0
    found = rows(tmp_path / "out")
    assert list(found[0])[: len(COLUMNS)] == COLUMNS
    assert [(row["structure"], row["method"]) for row in found] == [
        (f"{cells}#{k}", method) for k in range(2) for method in ("BFGS", "FIRE")
    ]
    assert all(row["converged"] == "True" and int(row["evaluations_0.01"]) > 1 for row in found)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["methods"]["BFGS"]["ratio_to_bfgs"] == 1.0
    assert summary["methods"]["FIRE"]["ratio_to_bfgs"] > 1.0
    assert set(summary["methods"]["FIRE"]) >= {"median", "mean", "p95", "max", "converged_fraction"}
    printed = capsys.readouterr()
    assert "FIRE" in printed.out
    assert "best classical method" in printed.out
    assert printed.err == ""  # no progress bar where nobody looks
    assert evaluate("--agent", "none", "--structures", cells, *options[:-1], tmp_path / "again") == 0
    for first, second in zip(found, rows(tmp_path / "again"), strict=True):
        assert first | {"seconds": ""} == second | {"seconds": ""}


def test_an_agent_on_disk(cells, tmp_path):
    from relaxrl.agents import Agent
    from relaxrl.nn import DirectActorConfig, build_actor

    folder = tmp_path / "agent"
    Agent(build_actor(DirectActorConfig(), torch.Generator().manual_seed(0))).save(folder)
    options = ("--calculator", "emt", "--methods", "BFGS", "--rattle", 0.1, "--out", tmp_path / "out")
    assert evaluate("--agent", folder, "--structures", cells, *options) == 0
    agent = [row for row in rows(tmp_path / "out") if row["method"] == f"agent:{folder}"]
    assert len(agent) == 2
    assert all(row["converged"] == "True" for row in agent)


def test_a_looser_fmax_leaves_the_tighter_column_empty(cells, tmp_path):
    options = ("--calculator", "emt", "--methods", "BFGS", "--rattle", 0.1, "--fmax", 0.05, "--out", tmp_path)
    assert evaluate("--agent", "none", "--structures", cells, *options) == 0
    assert all(row["evaluations_0.05"] and not row["evaluations_0.01"] for row in rows(tmp_path))


def test_failures_are_rows_not_errors(cells, tmp_path):
    options = ("--calculator", "emt", "--methods", "BFGS", "--rattle", 0.1, "--steps", 2, "--out", tmp_path)
    assert evaluate("--agent", "none", "--structures", cells, *options) == 0
    assert [(row["converged"], row["reason"], row["evaluations_0.01"]) for row in rows(tmp_path)] == [
        ("False", "steps", "")
    ] * 2


def test_minima_without_rattle_get_a_hint(cells, tmp_path, capsys):
    options = ("--calculator", "emt", "--methods", "BFGS", "--out", tmp_path)
    assert evaluate("--agent", "none", "--structures", cells, *options) == 0
    assert "--rattle 0.1" in capsys.readouterr().err
    assert [row["force_evaluations"] for row in rows(tmp_path)] == ["1", "1"]


def test_elements_that_the_agent_never_saw_are_told(tmp_path, capsys):
    write(tmp_path / "silver.extxyz", bulk("Ag", cubic=True))
    write(tmp_path / "palladium.extxyz", bulk("Pd", cubic=True))
    for name, note in (("silver", ""), ("palladium", "trained on Ag Al Au Cu Ni Pt, not on Pd")):
        options = ("--calculator", "emt", "--methods", "BFGS", "--rattle", 0.1, "--out", tmp_path / name)
        assert evaluate("--agent", "metals", "--structures", tmp_path / f"{name}.extxyz", *options) == 0
        said = capsys.readouterr().err
        assert note in said
        assert bool(note) == bool(said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"--structures": "missing.cif"}, "missing.cif"),
        ({"--structures": "metals:trian"}, "did you mean 'metals:train'"),
        ({"--structures": "metlas:test-minima"}, "did you mean 'metals:test-minima'"),
        ({"--calculator": "emtt"}, "emtt"),
        ({"--methods": "BFGS,FIER"}, "did you mean FIRE"),
        ({"--agent": "no_such_agent"}, "no_such_agent"),
        ({"--fmax": "0"}, "fmax=0"),
        ({"--out": "file"}, "folder"),
    ],
)
def test_bad_input_is_status_2_and_one_line(tmp_path, monkeypatch, capsys, changes, said):
    monkeypatch.chdir(tmp_path)
    write("in.extxyz", bulk("Cu", cubic=True))
    (tmp_path / "file").write_text("")
    options = {"--agent": "none", "--structures": "in.extxyz", "--calculator": "emt", "--out": "out"} | changes
    assert evaluate(*(part for option in options.items() for part in option)) == 2
    error = capsys.readouterr().err
    assert error.startswith("relaxrl: error: ")
    assert said in error
    assert error.count("\n") == 1


def test_the_help_names_every_method(capsys):
    assert list(METHOD_NAMES) == method_names()
    with pytest.raises(SystemExit) as exit_status:
        main(["evaluate", "--help"])
    assert exit_status.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in METHOD_NAMES)
