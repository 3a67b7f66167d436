"""Fine-tuning: better on the new surface, not forgetful, the same after a kill, and clear about what can't work."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write

from relaxrl.agents import Agent, load_agent
from relaxrl.checkpoint import load_model
from relaxrl.cli.main import main
from relaxrl.config import from_dict
from relaxrl.errors import CheckpointError, ConfigError, StructureError
from relaxrl.nn import DirectActorConfig, build_actor
from relaxrl.optimize import Campaign, Conditions
from relaxrl.potentials import parse_calculator
from relaxrl.structures import Crystal
from relaxrl.structures.frames import Frame, load_frames, save_frames
from relaxrl.training import finetune
from relaxrl.training.finetuning.config import FinetuneConfig
from relaxrl.training.finetuning.examples import frames_of, relative_error
from relaxrl.training.finetuning.finetune import JOURNAL_FILE, TRAINING
from relaxrl.training.finetuning.relaxing import starts
from relaxrl.training.finetuning.terms import mean_loss

STIFFNESS = 6.0


class Stiff(EMT):
    """EMT, six times as stiff: an agent made for EMT goes six times too far."""

    def calculate(self, *args: object, **kwargs: object) -> None:
        super().calculate(*args, **kwargs)
        for name in ("energy", "forces", "stress"):
            if name in self.results:
                self.results[name] = STIFFNESS * np.asarray(self.results[name])
        self.results["energy"] = float(self.results["energy"])


class Silent(EMT):
    """Gives up after a few calls."""

    def calculate(self, *args: object, **kwargs: object) -> None:
        del args, kwargs
        raise RuntimeError("no licence")


NAME = "tests_finetune_surfaces"


@pytest.fixture(autouse=True)
def _surfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, NAME, sys.modules[__name__])


def cell(seed: int, symbol: str = "Cu", other: str = "Au") -> Atoms:
    atoms = bulk(symbol, cubic=True)
    atoms.symbols[seed % 4] = other
    atoms.set_cell(atoms.cell * 1.02, scale_atoms=True)
    atoms.rattle(0.12, seed=seed)
    return atoms


def crystals(n: int = 10) -> list[Crystal]:
    return [Crystal(f"cell {k}", cell(k), f"parent {k}") for k in range(n)]


def frames(symbol: str, other: str, calculator: object, seeds: range) -> list[list[Frame]]:
    conditions = Conditions("metals", parse_calculator(calculator), record=True)  # type: ignore[arg-type]
    done = Campaign([(str(seed), cell(seed, symbol, other)) for seed in seeds], conditions).run()
    return [frames_of(one, "emt", 0.01) for one in done]


QUICK = {"relaxations": 10, "updates": 24, "learn_every": None}


def test_it_learns_the_new_surface_from_its_relaxations_alone(tmp_path: Path) -> None:
    result = finetune("metals", crystals(), Stiff, tmp_path / "mine", **QUICK)
    assert result.improved
    assert result.error < 0.5 * result.error_before
    assert (result.relaxations, result.converged, result.learned_from, result.held_out) == (10, 10, 8, 2)
    # Elsewhere on the surface, too, and where users look.
    unseen = frames("Cu", "Au", Stiff, range(100, 104))
    before, after = (mean_loss(load_agent(name).actor, unseen) for name in ("metals", str(tmp_path / "mine")))
    assert relative_error(after) < 0.5 * relative_error(before)
    counts = []
    for name in ("metals", str(tmp_path / "mine")):
        conditions = Conditions(name, parse_calculator(Stiff))
        starts = [(str(seed), cell(seed)) for seed in range(100, 106)]
        counts.append(sum(done.force_evaluations for done in Campaign(starts, conditions).run()))
    assert counts[1] < counts[0]
    known = load_agent(tmp_path / "mine").metadata
    assert known["parent"] == "metals"
    assert known["relaxations"] == 8
    assert known["force_evaluations"] == result.force_evaluations
    assert set(known["elements"]) == {"Ag", "Al", "Au", "Cu", "Ni", "Pt"}
    assert "held-out" in (tmp_path / "mine" / "README.md").read_text()
    # The next time these relaxations are replay.
    kept = load_frames(tmp_path / "mine" / "replay.npz")
    assert {frame.calculator for frame in kept} == {parse_calculator(Stiff).text}


def test_elements_are_merged_with_those_of_the_agent(tmp_path: Path) -> None:
    given = [Crystal(str(k), cell(k, "Pd", "Cu"), str(k)) for k in range(8)]
    result = finetune("metals", given, "emt", tmp_path / "mine", relaxations=8, updates=2, learn_every=None)
    if result.improved:
        assert result.agent.elements == load_agent("metals").elements | {"Pd"}
    assert Path(result.folder, "model.json").exists()


def test_replay_bounds_what_is_forgotten(tmp_path: Path) -> None:
    told, asked = frames("Al", "Ni", "emt", range(6)), frames("Al", "Ni", "emt", range(20, 24))
    save_frames(tmp_path / "replay.npz", [frame for one in told for frame in one])
    errors = {}
    for name, given in (("without", {}), ("with", {"replay": str(tmp_path / "replay.npz"), "replay_size": 16})):
        result = finetune("metals", crystals(), Stiff, tmp_path / name, **QUICK | {"updates": 40}, **given)
        assert result.improved
        errors[name] = relative_error(mean_loss(result.agent.actor, asked))
    assert errors["with"] < 0.7 * errors["without"]
    assert load_frames(tmp_path / "with" / "replay.npz")[0].crystal == told[0][0].crystal


def test_minima_are_displaced_as_often_as_it_takes(tmp_path: Path) -> None:
    minimum = Crystal("gold", bulk("Au", cubic=True), "gold", "minimum")
    result = finetune("metals", [minimum], "emt", tmp_path / "mine", relaxations=7, updates=1, learn_every=None)
    assert result.relaxations == 7
    lines = (tmp_path / "mine" / JOURNAL_FILE).read_text().splitlines()
    assert len(lines) == 8


def test_minima_are_drawn_at_random_where_there_are_more_than_it_takes() -> None:
    minima = [Crystal(f"{k}", bulk("Cu" if k < 20 else "Au", cubic=True), f"{k}", "minimum") for k in range(40)]
    config = from_dict(FinetuneConfig, {"agent": "metals", "calculator": "emt", "relaxations": 20})
    drawn = {crystal.id for crystal in starts(minima, config, np.random.default_rng(0))}
    assert len(drawn) == 20
    assert 3 < sum(int(name.partition("~")[0]) < 20 for name in drawn) < 17


def test_the_agent_stays_as_it_was_where_there_is_nothing_to_gain(tmp_path: Path) -> None:
    given = [Crystal(str(k), cell(k, "Al", "Ni"), str(k)) for k in range(7)]
    worse = ["trainer.max_lr=0.03", "trainer.min_lr=0.03", "trainer.ema_decay=null"]
    result = finetune(
        "metals", given, "emt", tmp_path / "mine", relaxations=7, updates=3, learn_every=None, overrides=worse
    )
    assert not result.improved
    assert result.error == result.error_before
    same, parent = load_agent(tmp_path / "mine").actor.state_dict(), load_agent("metals").actor.state_dict()
    assert all(torch.equal(same[name], parent[name]) for name in parent)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_model(folder)[0]


def test_cells_relax_and_are_learned(tmp_path: Path) -> None:
    result = finetune("metals", crystals(8), Stiff, tmp_path / "mine", **QUICK | {"relaxations": 8, "cell": True})
    assert result.improved
    log = (tmp_path / "mine" / TRAINING / "finetune_metrics.csv").read_text().splitlines()
    assert "validation/strain_mae" in log[0]


def test_a_killed_run_goes_on_to_the_same_agent(tmp_path: Path) -> None:
    write(tmp_path / "starts.extxyz", [cell(k) for k in range(10)])
    settings = ["--structures", "starts.extxyz", "--agent", "metals", "--calculator", "emt", "--updates", "20"]
    settings += ["--relaxations", "10", "--set", "learn_every=5"]
    whole, parts = ["finetune", *settings, "--out", "whole"], ["finetune", *settings, "--out", "parts"]
    code = (
        f"import os, sys; os.chdir({str(tmp_path)!r}); from relaxrl.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )

    def start(arguments: list[str]) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.DEVNULL, text=True)

    assert start(whole).wait(timeout=200) in (0, 1)
    journal, metrics = tmp_path / "parts" / JOURNAL_FILE, tmp_path / "parts" / TRAINING / "finetune_metrics.csv"
    for reached in (
        lambda: journal.exists() and len(journal.read_text().splitlines()) > 4,
        lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 2,
    ):
        process = start(parts)
        while process.poll() is None and not reached():
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(parts).wait(timeout=200) in (0, 1)
    first, second = tensors(tmp_path / "whole"), tensors(tmp_path / "parts")
    assert all(torch.equal(first[name], second[name]) for name in first)
    with metrics.open() as table:
        epochs = [row["epoch"] for row in csv.DictReader(table)]
    assert epochs == [str(float(k)) if "." in epochs[0] else str(k) for k in range(1, len(epochs) + 1)]


def test_a_finished_folder_and_other_settings_are_refused(tmp_path: Path) -> None:
    quick = {"relaxations": 6, "updates": 1, "learn_every": None}
    finetune("metals", crystals(6), "emt", tmp_path / "mine", **quick)
    with pytest.raises(ConfigError, match="is finished"):
        finetune("metals", crystals(6), "emt", tmp_path / "mine", **quick)
    with pytest.raises(CheckpointError, match=r"`relaxations` 6, now it is 7"):
        finetune("metals", crystals(7), "emt", tmp_path / "mine", **quick | {"relaxations": 7})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match="not empty"):
        finetune("metals", crystals(6), "emt", tmp_path / "full", **quick)
    with pytest.raises(ConfigError, match="can't make the folder"):
        finetune("metals", crystals(6), "emt", tmp_path / "full" / "thesis.tex" / "mine", relaxations=6)


def test_other_settings_of_the_training_repeat_no_relaxation(tmp_path: Path) -> None:
    given = [crystal.atoms for crystal in crystals(7)]
    finetune("metals", given, Stiff, tmp_path / "mine", relaxations=7, updates=2, learn_every=4)
    journal = (tmp_path / "mine" / JOURNAL_FILE).read_text()
    again = finetune("metals", given, Stiff, tmp_path / "mine", relaxations=7, updates=12, learn_every=4)
    assert again.updates == 12
    assert (tmp_path / "mine" / JOURNAL_FILE).read_text() == journal
    assert load_agent(tmp_path / "mine").metadata["updates"] == 12
    assert load_agent(tmp_path / "mine" / "previous").metadata["updates"] < 12


def test_a_mistake_does_not_cost_the_agent_that_is_there(tmp_path: Path) -> None:
    given = [crystal.atoms for crystal in crystals(6)]
    settings = {"relaxations": 6, "learn_every": None}
    finetune("metals", given, "emt", tmp_path / "mine", updates=1, **settings)
    for mistake, what in (
        ([crystal.atoms for crystal in crystals(8)][2:], CheckpointError),
        (str(tmp_path / "missing.cif"), StructureError),
    ):
        with pytest.raises(what):
            finetune("metals", mistake, "emt", tmp_path / "mine", updates=2, **settings)
        assert load_agent(tmp_path / "mine").metadata is not None
        with pytest.raises(ConfigError, match="is finished"):
            finetune("metals", given, "emt", tmp_path / "mine", updates=1, **settings)


def test_agents_that_cannot_learn_are_named_and_those_that_can(tmp_path: Path) -> None:
    Agent(build_actor(DirectActorConfig(), torch.Generator().manual_seed(0))).save(tmp_path / "direct")
    for agent, why in (
        (str(tmp_path / "direct"), "no learned Hessian"),
        ("metals-planner", "no learned Hessian"),
        ("none", "no agent to adapt"),
        ("auto", "`auto` chooses an agent for each structure"),
        ("sb3:somewhere", "another library"),
    ):
        with pytest.raises(ConfigError, match=why) as error:
            finetune(agent, crystals(6), "emt", tmp_path / "mine")
        assert "metals" in str(error.value)
        assert not (tmp_path / "mine").exists()
    with pytest.raises(CheckpointError, match="no agent 'metal'"):
        finetune("metal", crystals(6), "emt", tmp_path / "mine")


def test_too_little_to_learn_from(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected at least 6 structures to relax.*got 3"):
        finetune("metals", crystals(3), "emt", tmp_path / "mine")
    with pytest.raises(ConfigError, match="`relaxations` must be at least 6"):
        finetune("metals", crystals(8), "emt", tmp_path / "mine", relaxations=2)
    with pytest.raises(ConfigError, match=r"got 0 of 6; 6 did not converge, the first because: .*no licence"):
        finetune("metals", crystals(6), Silent, tmp_path / "mine")
    symmetric = [Crystal(f"{k}", bulk("Cu", cubic=True, a=3.55 + 0.02 * k), f"{k}") for k in range(6)]
    with pytest.raises(ConfigError, match=r"got 0 of 6.*the cell alone teaches nothing: displace them"):
        finetune("metals", symmetric, "emt", tmp_path / "symmetric", cell=True, learn_every=None)
    with pytest.raises(ConfigError, match="did you mean `updates`"):
        finetune("metals", crystals(6), "emt", tmp_path / "new", update=3)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write("starts.extxyz", [cell(k) for k in range(8)])
    command = ["finetune", "--agent", "metals", "--structures", "starts.extxyz", "--calculator", f"{NAME}:Stiff"]
    command += ["--relaxations", "8", "--updates", "16", "--quiet", "--out", "mine"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "8 of 8 relaxations converged" in said
    assert "--agent mine" in said
    assert main(["relax", "starts.extxyz", "--agent", "mine", "--calculator", f"{NAME}:Stiff", "--out", "o.xyz"]) == 0
    assert main([*command[:-1], "other", "--replay", "starts.extxyz"]) == 2
    assert "expected labelled frames" in capsys.readouterr().err
    assert main([*command[:-1], "other", "--set", "held_out=2"]) == 2
    assert "`held_out` is a share" in capsys.readouterr().err
    assert not Path("other").exists()


def test_replay_beside_the_agent_is_found(tmp_path: Path) -> None:
    load_agent("metals").save(tmp_path / "agent")
    replay = [frame for one in frames("Al", "Ni", "emt", range(2)) for frame in one]
    save_frames(tmp_path / "agent" / "replay.npz", replay)
    quick = {"relaxations": 6, "updates": 1, "learn_every": None}
    assert finetune(tmp_path / "agent", crystals(6), "emt", tmp_path / "mine", **quick).replay == len(replay)


def test_states_are_plain_files(tmp_path: Path) -> None:
    finetune("metals", crystals(6), "emt", tmp_path / "mine", relaxations=6, updates=1, learn_every=3)
    header = json.loads((tmp_path / "mine" / JOURNAL_FILE).read_text().splitlines()[0])
    assert header["learn"]["every"] == 3
    assert (tmp_path / "mine" / "replay.npz").stat().st_size < 200_000
