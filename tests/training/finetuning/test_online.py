"""Learning during a campaign: later structures cost less, a worse agent is never taken, and a kill changes nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write

from relaxrl.agents import load_agent
from relaxrl.checkpoint import load_model
from relaxrl.cli.main import main
from relaxrl.errors import CheckpointError, ConfigError
from relaxrl.optimize import Campaign, Conditions
from relaxrl.potentials import parse_calculator
from relaxrl.training import OnlineLearning

STIFFNESS = 6.0


class Stiff(EMT):
    """EMT, six times as stiff: an agent made for EMT goes six times too far."""

    def calculate(self, *args: object, **kwargs: object) -> None:
        super().calculate(*args, **kwargs)
        self.results["energy"] = STIFFNESS * float(self.results["energy"])
        self.results["forces"] = STIFFNESS * np.asarray(self.results["forces"])


def cells(n: int) -> list[tuple[str, Atoms]]:
    named = []
    for seed in range(n):
        atoms = bulk("Cu", cubic=True)
        atoms.symbols[seed % 4] = "Au"
        atoms.rattle(0.12, seed=seed)
        named.append((f"cell {seed}", atoms))
    return named


def stiff(agent: str | None = "metals") -> Conditions:
    return Conditions(agent, parse_calculator(Stiff))


def test_later_structures_cost_less_than_without_learning() -> None:
    without = [done.force_evaluations for done in Campaign(cells(18), stiff()).run()]
    learn = OnlineLearning(every=6, updates=20)
    with_it = [done.force_evaluations for done in Campaign(cells(18), stiff(), learn=learn).run()]
    assert with_it[:6] == without[:6]
    assert sum(with_it[6:]) < 0.9 * sum(without[6:])
    assert [one.taken for one in learn.rounds] == [6, 12, 18]
    assert learn.rounds[0].accepted
    assert learn.rounds[0].error < learn.rounds[0].error_before
    assert learn.rounds[1].error_before <= 1.5 * learn.rounds[0].error  # it goes on from there
    assert learn.policy.metadata["relaxations"] in (6, 12, 18)


def test_an_attempt_that_is_worse_on_held_out_relaxations_is_not_taken() -> None:
    learn = OnlineLearning(every=6, updates=3, learning_rate=0.05)
    list(Campaign(cells(6), Conditions("metals", parse_calculator("emt")), learn=learn).run())
    assert [one.accepted for one in learn.rounds] == [False]
    assert learn.rounds[0].error > learn.rounds[0].error_before
    assert learn.version == 0
    same, parent = learn.policy.actor.state_dict(), load_agent("metals").actor.state_dict()
    assert all(torch.equal(same[name], parent[name]) for name in parent)


def test_training_that_diverges_leaves_the_campaign_alone() -> None:
    learn = OnlineLearning(every=5, updates=30, learning_rate=1e6)
    done = list(Campaign(cells(6), Conditions("metals", parse_calculator("emt")), learn=learn).run())
    assert all(one.converged for one in done)
    assert [one.accepted for one in learn.rounds] == [False]


def test_time_is_bounded() -> None:
    learn = OnlineLearning(every=6, updates=100_000, seconds=0.5)
    list(Campaign(cells(6), stiff(), learn=learn).run())
    assert learn.rounds[0].updates < 1000
    assert learn.rounds[0].seconds < 20


def test_other_workers_get_the_new_agent_with_their_next_structure(tmp_path: Path) -> None:
    seen: list[str | None] = []

    class Watched(ProcessPoolExecutor):
        def submit(self, function, /, *args, **kwargs):
            seen.append(args[-1].agent)
            return super().submit(function, *args, **kwargs)

    learn = OnlineLearning(tmp_path / "agent", every=5, updates=10)
    campaign = Campaign(cells(14), stiff(), learn=learn)
    done = list(campaign.run(1, lambda: Watched(1, mp_context=get_context("spawn"))))
    assert [one.reason for one in done] == ["converged"] * 14
    assert seen[0] == "metals"
    assert learn.version >= 1
    assert any(str(agent).startswith(str(tmp_path / "agent" / "versions" / "1-")) for agent in seen)
    with pytest.raises(ConfigError, match="several workers find the agent in a folder"):
        list(Campaign(cells(2), stiff(), learn=OnlineLearning()).run(2))
    with pytest.raises(ConfigError, match="executor of other processes"):
        list(Campaign(cells(2), stiff(), learn=OnlineLearning(tmp_path)).run(1, lambda: ThreadPoolExecutor(1)))


def test_an_interrupted_campaign_goes_on_with_the_agent_as_it_was(tmp_path: Path) -> None:
    def learning() -> OnlineLearning:
        return OnlineLearning(every=5, updates=8)

    whole = learning()
    expected = list(Campaign(cells(12), stiff(), tmp_path / "whole.journal", whole).run())
    assert whole.folder == tmp_path / "whole.agent"
    journal, counts = tmp_path / "parts.journal", {}
    for stop in (5, 3, 12):  # right after a round, in the middle, to the end
        parts = learning()
        campaign = Campaign(cells(12), stiff(), journal, parts)
        for number, done in enumerate(campaign.run(), start=1):
            counts[done.index] = done.force_evaluations
            if number == stop:
                break
    assert [counts[done.index] for done in expected] == [done.force_evaluations for done in expected]
    assert [one.error for one in parts.rounds] == [one.error for one in whole.rounds]
    first, second = (load_model(tmp_path / name)[0] for name in ("whole.agent", "parts.agent"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_kill_before_the_state_was_written_repeats_the_round(tmp_path: Path) -> None:
    learn = OnlineLearning(every=5, updates=8)
    list(Campaign(cells(5), stiff(), tmp_path / "a.journal", learn).run())
    (tmp_path / "a.agent" / "learning.json").unlink()  # the agent is there, the state that names it is not
    again = OnlineLearning(every=5, updates=8)
    Campaign(cells(5), stiff(), tmp_path / "a.journal", again)
    assert [one.error for one in again.rounds] == [one.error for one in learn.rounds]
    assert again.version == learn.version


def test_other_settings_are_another_campaign(tmp_path: Path) -> None:
    list(Campaign(cells(2), stiff(), tmp_path / "a.journal", OnlineLearning(every=5)).run())
    with pytest.raises(CheckpointError, match="their learn was"):
        Campaign(cells(2), stiff(), tmp_path / "a.journal", OnlineLearning(every=6))
    with pytest.raises(CheckpointError, match="their learn was"):
        Campaign(cells(2), stiff(), tmp_path / "a.journal")
    (tmp_path / "a.agent").mkdir(exist_ok=True)
    (tmp_path / "a.agent" / "learning.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        Campaign(cells(2), stiff(), tmp_path / "a.journal", OnlineLearning(every=5))


def test_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for settings, message in (
        ({"every": 1}, "`every` must be at least 2"),
        ({"memory": 3}, "`memory` must hold at least"),
        ({"seconds": 0.0}, "`seconds` must be positive"),
        ({"update": 3}, "did you mean `updates`"),
    ):
        with pytest.raises(ConfigError, match=message):
            OnlineLearning(**settings)
    (tmp_path / "file.agent").write_text("")
    with pytest.raises(ConfigError, match="expected a folder for the improved agent, got a file"):
        Campaign(cells(2), stiff(), tmp_path / "file.journal", OnlineLearning())
    for agent in (None, "metals-planner"):
        with pytest.raises(ConfigError, match="kind `hessian`: metals"):
            Campaign(cells(2), stiff(agent), learn=OnlineLearning())
    load_agent("metals").save(tmp_path / "a.agent")
    with pytest.raises(ConfigError, match="lies where the improved one is written"):
        Campaign(cells(2), stiff(str(tmp_path / "a.agent")), tmp_path / "a.journal", OnlineLearning())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="lies where the improved one is written"):
        Campaign(cells(2), stiff(str(tmp_path / "a.agent")), Path("a.journal"), OnlineLearning())


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "tests_online_surfaces", sys.modules[__name__])
    write("starts.extxyz", [atoms for _, atoms in cells(12)])
    command = ["relax", "starts.extxyz", "--agent", "metals", "--calculator", "tests_online_surfaces:Stiff"]
    command += ["--out", "end.extxyz"]
    assert main([*command, "--learn-every", "4"]) == 2
    assert "add --learn" in capsys.readouterr().err
    assert main([*command, "--learn", "--learn-every", "5", "--learn-updates", "10"]) == 0
    said = capsys.readouterr().out
    assert "learned from 5 structures, 10 updates" in said
    assert "the agent as it has become: end.extxyz.agent" in said
    assert sorted(path.name for path in Path("end.extxyz.agent").iterdir())[0] == "model.json"
    assert load_agent("end.extxyz.agent").metadata["parent"] == "metals"
    assert not Path("end.extxyz.journal").exists()
    assert main([*command, "--learn", "--learn-every", "100"]) == 0
    assert "the agent stayed as it was; end.extxyz.agent is from another campaign" in capsys.readouterr().out


def test_a_killed_command_goes_on(tmp_path: Path) -> None:
    write(tmp_path / "starts.extxyz", [atoms for _, atoms in cells(10)])
    code = (
        f"import os, sys; os.chdir({str(tmp_path)!r}); from relaxrl.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "relax", "starts.extxyz", "--agent", "metals", "--calculator", "emt"]
    command += ["--learn", "--learn-every", "5", "--learn-updates", "5", "--out", "end.extxyz"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    state = tmp_path / "end.extxyz.agent" / "learning.json"
    while process.poll() is None and not state.exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert json.loads(state.read_text())["rounds"][0]["taken"] == 5
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0
    assert "of 10 were done before" in done.stdout
    assert "10 of 10 converged" in done.stdout
    assert "learned from 5 structures" not in done.stdout
