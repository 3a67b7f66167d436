"""Worker processes, wherever they are made, go with who sent them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from relaxrl.workers import worker_processes

SENDERS = {
    "pool": "from relaxrl.workers import worker_processes\n    worker_processes(1).submit(sleep, 600).result()",
    "structures": (
        "from relaxrl.structures.jobs import worker_pool\n"
        "    with worker_pool(2) as pool: pool.submit(sleep, 600).result()"
    ),
}


def sleep(seconds: float) -> None:
    Path(os.environ["STARTED"]).write_text(str(os.getpid()))
    time.sleep(seconds)


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks at processes in /proc")
@pytest.mark.parametrize("sender", SENDERS)
def test_workers_of_a_process_that_was_killed_end(tmp_path: Path, sender: str) -> None:
    script = tmp_path / "send.py"
    script.write_text(f"from tests.test_workers import sleep\nif __name__ == '__main__':\n    {SENDERS[sender]}\n")
    started, root = tmp_path / "started", Path(__file__).parents[1]
    environment = {**os.environ, "STARTED": str(started), "PYTHONPATH": f"{root}:{os.environ.get('PYTHONPATH', '')}"}
    process = subprocess.Popen([sys.executable, script], env=environment)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (started.exists() and started.read_text()):
        time.sleep(0.05)
    worker = int(started.read_text())
    process.send_signal(signal.SIGKILL)
    process.wait()
    while time.monotonic() < deadline and alive(worker):
        time.sleep(0.05)
    assert not alive(worker)


def test_workers_have_one_thread_and_are_prepared() -> None:
    with worker_processes(1, os.putenv, ("RELAXRL_TEST", "prepared")) as pool:
        assert pool.submit(subprocess.getoutput, "echo $RELAXRL_TEST").result() == "prepared"
        assert pool.submit(subprocess.getoutput, "echo $OMP_NUM_THREADS").result() == "1"
        assert pool.submit(torch.get_num_threads).result() == 1
