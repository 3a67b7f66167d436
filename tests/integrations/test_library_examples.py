"""The examples of other libraries learn something, and what they leave can be used."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from ase.io import read

from relaxrl.cli.main import main

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def sb3(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield importlib.import_module("stable_baselines3_agents")
    for name in ("stable_baselines3_agents", "small_crystals"):
        sys.modules.pop(name, None)


def test_the_example_of_sb3_leaves_an_agent_for_the_command_line(sb3, tmp_path):
    rows = sb3.main(["--steps", "240", "--episodes", "4", "--out", str(tmp_path)])
    descent = next(row for name, row in rows.items() if name.startswith("steepest descent"))
    assert rows["random"].success == 0
    assert descent.success == 1
    assert 3 < descent.steps < 9
    assert json.loads((tmp_path / "result.json").read_text())["SB3 SAC"]["success"] == rows["SB3 SAC"].success
    assert (tmp_path / "checkpoints" / "rl_model_vecnormalize_120_steps.pkl").is_file()
    films = tmp_path / "films.extxyz"
    command = ["relax", str(films), "--agent", f"sb3:{tmp_path / 'best'}", "--calculator", "emt", "--fmax", "0.03"]
    assert main([*command, "--out", str(tmp_path / "relaxed.extxyz")]) == 0
    starts, relaxed = read(films, index=":"), read(tmp_path / "relaxed.extxyz", index=":")
    for start, end in zip(starts, relaxed, strict=True):
        assert abs(end.positions[0] - start.positions[0]).max() < 1e-8  # held
        assert abs(end.get_forces()).max() < 0.03


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "script", "arguments"),
    [
        ("stable_baselines3", "stable_baselines3_agents", ["--algorithm", "SAC", "--steps", "2400"]),
        ("stable_baselines3", "stable_baselines3_agents", ["--algorithm", "TD3", "--steps", "4000"]),
        ("torch", "cleanrl_td3", ["--steps", "3000"]),
        ("torchrl", "torchrl_td3", ["--steps", "3000"]),
        ("skrl", "skrl_td3", ["--steps", "3000"]),
        ("ray", "rllib_sac", ["--steps", "3000"]),
    ],
)
def test_what_was_learned_beats_steepest_descent(library, script, arguments, tmp_path):
    pytest.importorskip(library, reason=f"`make libraries` installs {library} in an environment of its own")
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / f"{script}.py"), *arguments, "--out", str(tmp_path)]
    subprocess.run(command, check=True, cwd=EXAMPLES.parent, timeout=900)
    random, descent, learned = json.loads((tmp_path / "result.json").read_text()).values()
    assert learned["episode_return"] > descent["episode_return"] > random["episode_return"]
    assert learned["success"] >= descent["success"]
    assert learned["steps"] < descent["steps"]
    agent = f"sb3:{tmp_path / 'best'}" if library == "stable_baselines3" else f"policy:{EXAMPLES / script}.py:load"
    agent += "" if library == "stable_baselines3" else f",folder={tmp_path}"
    films = tmp_path / "films.extxyz"
    code = f"from small_crystals import write_starts; write_starts({str(films)!r})"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=EXAMPLES)
    arguments = ["--structures", str(films), "--methods", "BFGS", "--calculator", "emt", "--out", str(tmp_path / "e")]
    evaluate = [sys.executable, "-W", "ignore", "-m", "relaxrl.cli.main", "evaluate", "--agent", agent, *arguments]
    subprocess.run(evaluate, check=True, cwd=EXAMPLES.parent)
    assert "agent:" in (tmp_path / "e" / "runs.csv").read_text()
