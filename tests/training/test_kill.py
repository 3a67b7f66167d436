"""A training process that is killed by the operating system, and resumed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
import yaml
from ase.build import bulk

from relaxrl.metrics import read_metrics

PATIENCE = 120.0
"""s; for a process that has to load torch on a busy machine."""


def command(*arguments: str) -> subprocess.Popen[bytes]:
    line = [sys.executable, "-c", "import sys; from relaxrl.cli.main import main; sys.exit(main())", *arguments]
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})


def metrics(folder: Path) -> dict[str, list[float]]:
    return {name: values for name, values in read_metrics(folder / "metrics.csv").items() if "time/" not in name}


@pytest.mark.slow  # three processes that load torch
@pytest.mark.parametrize("written", [1, 2], ids=["in the warm-up", "after an evaluation"])
def test_kill_9_and_resume_equal_a_run_left_alone(tmp_path: Path, written: int):
    cells = [bulk(symbol, cubic=True) for symbol in ("Cu", "Ag", "Au")]
    ase.io.write(tmp_path / "cells.extxyz", cells)
    trunk = {"layers": 2, "cutoff": 4.0, "channels": 4, "message_channels": 4}
    config = {
        "structures": str(tmp_path / "cells.extxyz"),
        "kind": "minimum",
        "evaluation": {"structures": str(tmp_path / "cells.extxyz"), "steps": 3, "every": 64},
        "env": {"max_steps": 4},
        "actor": {"trunk": trunk, "head_channels": 8},
        "critic": {"trunk": trunk, "head_channels": 8},
        "replay": {"batch_size": 4},
        "warm_up": {"expert_steps": 8, "cloning_updates": 1},
        "run": {"steps": 160, "n_envs": 4, "updates_per_step": 0.1, "log_every": 16},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config))

    killed = command("train", str(path), f"run.dir={tmp_path / 'killed'}", "--quiet")
    checkpoints = tmp_path / "killed" / "checkpoints"
    deadline = time.monotonic() + PATIENCE
    while len(list(checkpoints.glob("*.pt"))) < written and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    if written > 1:
        assert metrics(tmp_path / "killed")["t_total"][-1] < 160

    resumed = command("train", "--resume", str(tmp_path / "killed"), "--quiet")
    assert resumed.wait(PATIENCE) == 0
    alone = command("train", str(path), f"run.dir={tmp_path / 'alone'}", "--quiet")
    assert alone.wait(PATIENCE) == 0
    expected, got = metrics(tmp_path / "alone"), metrics(tmp_path / "killed")
    assert list(expected) == list(got)
    assert expected["t_total"][-1] == 160
    for name, values in expected.items():
        np.testing.assert_array_equal(got[name], values, err_msg=name)
