"""Many relaxations: the same wherever they run, none twice after a kill, and none lost with a worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.db import connect
from ase.io import read, write
from ase.spacegroup import Spacegroup

from relaxrl.cli.main import main
from relaxrl.errors import CheckpointError
from relaxrl.optimize import journal
from relaxrl.optimize.campaign import ATTEMPTS, Campaign, Conditions
from relaxrl.potentials import CALCULATOR_KEY, parse_calculator

FATAL = 3.7
"""Å; the cell that takes its worker down."""


class Deadly(EMT):
    """EMT, but one structure ends the process, as a kill for lack of memory does."""

    def calculate(self, *args: object, **kwargs: object) -> None:
        super().calculate(*args, **kwargs)
        if abs(self.atoms.cell[0, 0] - FATAL) < 1e-6:
            os._exit(1)


def cells(n: int) -> list[tuple[str, Atoms]]:
    named = []
    for seed in range(n):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, seed=seed)
        named.append((f"copper {seed}", atoms))
    return named


def emt(**conditions: float) -> Conditions:
    return Conditions(None, parse_calculator("emt"), **conditions)


class Refusing(FixAtoms):
    """A constraint that can't be met, as those that iterate say of some displacements."""

    def adjust_positions(self, *_: object) -> None:
        raise RuntimeError("did not converge")


class Endless(EMT):
    """EMT that takes longer than anybody waits."""

    def calculate(self, *args: object, **kwargs: object) -> None:
        super().calculate(*args, **kwargs)
        if abs(self.atoms.cell[0, 0] - FATAL) < 1e-6:
            time.sleep(600)


@pytest.mark.parametrize("agent", [None, "metals"])
def test_a_constraint_that_refuses_ends_one_relaxation_alone(agent: str | None) -> None:
    structures = cells(2)
    structures[0][1].set_constraint(Refusing([0]))
    done = list(Campaign(structures, Conditions(agent, parse_calculator("emt"))).run())
    assert [one.converged for one in done] == [False, True]
    assert "did not converge" in done[0].reason


def test_who_stops_waiting_stops_the_workers() -> None:
    endless = bulk("Cu", a=FATAL, cubic=True)
    structures = [*cells(1), ("endless", endless), ("endless, too", endless)]
    running = Campaign(structures, Conditions(None, parse_calculator(f"{__name__}:Endless"))).run(2)
    assert next(running).name == "copper 0"
    workers = active_children()
    assert workers
    running.close()
    for worker in workers:
        worker.join(20)
        assert not worker.is_alive()


def test_threads_and_one_after_the_other_agree() -> None:
    here = {done.index: done for done in Campaign(cells(4), emt()).run()}
    there = {done.index: done for done in Campaign(cells(4), emt()).run(2, lambda: ThreadPoolExecutor(2))}
    assert sorted(here) == sorted(there) == [0, 1, 2, 3]
    for index in here:
        assert here[index].converged
        assert here[index].force_evaluations == there[index].force_evaluations
        np.testing.assert_array_equal(here[index].atoms.positions, there[index].atoms.positions)


def test_a_structure_that_kills_its_worker_is_found_and_the_others_are_relaxed() -> None:
    structures = cells(3)
    structures[1][1].set_cell([FATAL] * 3, scale_atoms=True)
    campaign = Campaign(structures, Conditions(None, parse_calculator(Deadly), fmax=0.05))
    results = sorted(campaign.run(2), key=lambda done: done.index)
    assert [done.converged for done in results] == [True, False, True]
    assert f"died {ATTEMPTS} times" in results[1].reason
    assert "`if __name__ == '__main__':`" in results[1].reason  # without it every worker dies as it starts
    np.testing.assert_array_equal(results[1].atoms.positions, structures[1][1].positions)


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    first: Iterator = Campaign(cells(3), emt(), journal).run()
    done = next(first)
    again = Campaign(cells(3), emt(), journal)
    assert again.waiting == [1, 2]
    kept = again.results[0]
    assert kept is not None
    np.testing.assert_array_equal(kept.atoms.positions, done.atoms.positions)
    np.testing.assert_array_equal(kept.atoms.get_forces(), done.atoms.get_forces())
    assert (kept.reason, kept.force_evaluations) == ("converged", done.force_evaluations)
    assert [one.index for one in again.run()] == [1, 2]


def test_what_structures_are_told_of_them_survives_whatever_it_is(tmp_path: Path) -> None:
    """JSON can't hold all that users keep in `info`."""
    structures = cells(2)
    for _, atoms in structures:
        atoms.info = {"file": tmp_path, "tags": {"a", "b"}, "spacegroup": Spacegroup(225)}
    next(Campaign(structures, emt(fmax=0.05), tmp_path / "journal").run())
    again = Campaign(structures, emt(fmax=0.05), tmp_path / "journal")
    assert again.waiting == [1]
    assert [done.atoms.info for done in again.results if done is not None] == [structures[0][1].info]


def test_a_kill_at_the_first_line_leaves_no_journal_or_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    encode, seen = journal.encode, []

    def watched(entry: object) -> str:
        seen.append(path.read_text() if path.exists() else None)
        return str(encode(entry))

    monkeypatch.setattr(journal, "encode", watched)
    next(Campaign(cells(1), emt(fmax=0.05), path).run())
    assert seen
    assert all(text is None or text.endswith("\n") for text in seen)


def test_half_a_line_is_work_that_is_not_done(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    list(Campaign(cells(2), emt(), journal).run())
    text = journal.read_bytes()
    journal.write_bytes(text[:-40])
    campaign = Campaign(cells(2), emt(), journal)
    assert campaign.waiting == [1]
    list(campaign.run())
    assert journal.read_bytes().count(b"\n") == 3
    assert Campaign(cells(2), emt(), journal).waiting == []


@pytest.mark.parametrize(
    ("structures", "conditions", "message"),
    [
        (2, {"fmax": 0.02}, r"fmax was 0\.01, now it is 0\.02.*--restart"),
        (3, {}, "structures are others"),
    ],
)
def test_the_journal_of_another_campaign_is_refused(
    tmp_path: Path, structures: int, conditions: dict[str, float], message: str
) -> None:
    list(Campaign(cells(2), emt(), tmp_path / "journal").run())
    with pytest.raises(CheckpointError, match=message):
        Campaign(cells(structures), emt(**conditions), tmp_path / "journal")


@pytest.mark.parametrize("what", ["moments", "calculator"])
def test_a_journal_knows_what_else_structures_bring(tmp_path: Path, what: str) -> None:
    list(Campaign(cells(2), emt(), tmp_path / "journal").run())
    others = cells(2)
    if what == "moments":
        others[0][1].set_initial_magnetic_moments([1, 0, 0, 0])
    else:
        others[0][1].info[CALCULATOR_KEY] = "lj"
    with pytest.raises(CheckpointError, match="structures are others"):
        Campaign(others, emt(), tmp_path / "journal")


def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    file.write_text("my notes\n")
    with pytest.raises(CheckpointError, match="expected the journal of a campaign"):
        Campaign(cells(1), emt(), file)
    assert file.read_text() == "my notes\n"


def test_a_killed_command_goes_on(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import os, time\n"
        "from ase.calculators.emt import EMT\n"
        "class Slow(EMT):\n"
        "    def calculate(self, atoms=None, *args, **kwargs):\n"
        "        super().calculate(atoms, *args, **kwargs)\n"
        "        with open('calls', 'a') as file:\n"
        "            file.write(f'{atoms.cell[0, 0]:.2f}\\n')\n"
        "        time.sleep(float(os.environ['PAUSE']))\n"
    )
    lengths = (3.55, 3.58, 3.61, 3.64)
    structures = [bulk("Cu", cubic=True, a=a) for a in lengths]
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.1, seed=seed)
    write(tmp_path / "in.traj", structures)
    words = ["relax", "in.traj", "--agent", "none", "--calculator", "slow:Slow", "--out", "out.db", "--table", "t.csv"]
    command = [sys.executable, "-m", "relaxrl.cli.main", *words]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    process = subprocess.Popen(command, cwd=tmp_path, env={**environment, "PAUSE": "0.2"}, stdout=subprocess.DEVNULL)
    journal = tmp_path / "out.db.journal"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (journal.exists() and journal.read_bytes().count(b"\n") >= 3):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = [json.loads(line)["index"] for line in journal.read_text().splitlines()[1:]]
    assert 2 <= len(finished) < 4
    (tmp_path / "calls").unlink()
    done = subprocess.run(command, cwd=tmp_path, env={**environment, "PAUSE": "0"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    called = set((tmp_path / "calls").read_text().split())
    assert called == {f"{lengths[index]:.2f}" for index in range(4) if index not in finished}
    assert not journal.exists()
    rows = list(connect(tmp_path / "out.db").select())
    assert [row.structure for row in rows] == [f"in.traj#{index}" for index in range(4)]
    assert all(row.converged and row.fmax < 0.01 for row in rows)
    table = (tmp_path / "t.csv").read_text().splitlines()
    assert table[0].startswith("structure,formula,natoms,converged,reason,force_evaluations")
    assert len(table) == 5


def test_workers_go_with_who_sent_them(tmp_path: Path) -> None:
    (tmp_path / "sleepy.py").write_text(
        "import os, time\n"
        "from ase.calculators.emt import EMT\n"
        "class Sleepy(EMT):\n"
        "    def calculate(self, *args, **kwargs):\n"
        "        open(f'worker-{os.getpid()}', 'w').close()\n"
        "        time.sleep(60)\n"
    )
    write(tmp_path / "in.traj", [atoms for _, atoms in cells(2)])
    words = [
        "relax",
        "in.traj",
        "--agent",
        "none",
        "--calculator",
        "sleepy:Sleepy",
        "--workers",
        "2",
        "--out",
        "o.traj",
    ]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "relaxrl.cli.main", *words]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(list(tmp_path.glob("worker-*"))) < 2:
        time.sleep(0.05)
    workers = [int(path.name.removeprefix("worker-")) for path in tmp_path.glob("worker-*")]
    assert len(workers) == 2
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and any(_alive(worker) for worker in workers):
        time.sleep(0.05)
    assert not any(_alive(worker) for worker in workers)


def _alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_the_end_of_a_batch_job_keeps_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "ending.py").write_text(
        "import os, signal\n"
        "from ase.calculators.emt import EMT\n"
        "class Ending(EMT):\n"
        "    calls = 0\n"
        "    def calculate(self, *args, **kwargs):\n"
        "        super().calculate(*args, **kwargs)\n"
        "        Ending.calls += 1\n"
        "        if Ending.calls == 30:\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    write(tmp_path / "in.traj", [atoms for _, atoms in cells(8)])
    words = ["relax", "in.traj", "--agent", "none", "--calculator", "ending:Ending", "--out", "out.traj"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "relaxrl.cli.main", *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 130
    assert "the same command goes on" in done.stderr
    assert len(read(tmp_path / "out.traj", ":")) == 8
    assert (tmp_path / "out.traj.journal").exists()


@pytest.mark.parametrize("what", ["molecule", "no stress"])
def test_what_can_have_no_cell_is_refused_before_anything_is_written(
    tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    atoms = molecule("H2O") if what == "molecule" else cells(1)[0][1]
    write(tmp_path / "in.traj", atoms)
    calculator = "emt" if what == "molecule" else "ase.calculators.harmonic:HarmonicCalculator,harmonicforcefield=None"
    words = ["--calculator", calculator, "--cell", "--agent", "none", "--out", str(tmp_path / "out.traj")]
    assert main(["relax", str(tmp_path / "in.traj"), *words]) == 2
    assert not (tmp_path / "out.traj").exists()
    assert ("three independent vectors" if what == "molecule" else "gives no stress") in capsys.readouterr().err


def test_failures_are_listed_with_their_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    structures = [atoms for _, atoms in cells(2)]
    structures[1].positions[0, 0] += 0.3
    write(tmp_path / "in.traj", structures)
    words = ["--agent", "none", "--calculator", "emt", "--steps", "3", "--fmax", "1e-9"]
    assert main(["relax", str(tmp_path / "in.traj"), *words, "--out", str(tmp_path / "out.extxyz")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "not converged:" in lines
    assert f"  {tmp_path}/in.traj#1: not converged in 3 steps" in lines


def test_logs_of_several_workers_would_be_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "in.traj", cells(1)[0][1])
    words = ["--calculator", "emt", "--out", str(tmp_path / "out.traj"), "--workers", "2", "--log", "-"]
    assert main(["relax", str(tmp_path / "in.traj"), *words]) == 2
    assert "leave them out or --workers" in capsys.readouterr().err
