"""What `relaxrl structures minimize` and `frames` keep when a calculator fails or somebody stops them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write

from relaxrl.cli.main import main
from relaxrl.structures.frames import load_frames
from relaxrl.structures.jobs import as_done, worker_pool

pytestmark = pytest.mark.usefixtures("crystals")

FRAGILE = """\
import os
import signal

from ase.calculators.calculator import CalculationFailed
from ase.calculators.emt import EMT


class Breaking(EMT):
    what = "fail"

    def calculate(self, atoms=None, *args, **kwargs):
        if "Au" in atoms.symbols:
            if self.what == "fail":
                raise CalculationFailed("SCF did not converge")
            if self.what == "interrupt":
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGTERM)
        super().calculate(atoms, *args, **kwargs)


class Tired(Breaking):
    what = "interrupt"


class Ended(Breaking):
    what = "end"


class Late(EMT):
    calls = 0

    def calculate(self, atoms=None, *args, **kwargs):
        self.calls += "Au" in atoms.symbols
        if "Au" in atoms.symbols and self.calls > LEFT:
            raise CalculationFailed("SCF did not converge")
        super().calculate(atoms, *args, **kwargs)


LEFT = 0
"""


@pytest.fixture
def crystals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with three crystals at rest, the second of gold, and calculators that do not get on with gold."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "breaking.py").write_text(FRAGILE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "breaking", raising=False)
    write("in.extxyz", [bulk(symbol, a=a, cubic=True) for symbol, a in (("Cu", 3.59), ("Au", 4.06), ("Ni", 3.49))])
    return tmp_path


def minimize(*arguments: str, jobs: int = 1) -> int:
    return main(["structures", "minimize", "in.extxyz", "--jobs", str(jobs), *arguments])


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_calculator_that_fails_costs_its_crystal_alone(capsys: pytest.CaptureFixture[str], jobs: int) -> None:
    assert minimize("--calculator", "breaking:Breaking", "--out", "out.extxyz", jobs=jobs) == 1
    said = capsys.readouterr().out
    assert "in.extxyz#1: " in said
    assert "the calculator raised CalculationFailed: SCF did not converge; left out" in said
    assert [str(atoms.symbols) for atoms in read("out.extxyz", ":")] == ["Cu4", "Ni4"]


@pytest.mark.parametrize("check", ["hessian", "rattle"])
def test_a_calculator_may_fail_at_any_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, check: str
) -> None:
    module = __import__("breaking")
    monkeypatch.setattr(module, "LEFT", 10**9)
    counted = module.Late()
    monkeypatch.setattr(module, "shared", lambda: counted, raising=False)
    words = ("--calculator", "breaking:shared", "--check", check, "--out", "out.extxyz")
    assert minimize(*words) == 0
    needed = counted.calls
    for left in np.linspace(0, needed - 1, 12).astype(int):
        monkeypatch.setattr(module, "LEFT", left)
        counted.calls = 0
        counted.reset()
        assert minimize(*words) == 1, left
        assert "in.extxyz#1: " in capsys.readouterr().out
        assert len(read("out.extxyz", ":")) == 2


def test_nothing_left_is_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    write("in.extxyz", bulk("Au", cubic=True))
    assert minimize("--calculator", "breaking:Breaking", "--out", "out.extxyz") == 1
    assert "not written, there are no minima" in capsys.readouterr().out
    assert not Path("out.extxyz").exists()


@pytest.mark.parametrize("calculator", ["Tired", "Ended"])
def test_what_is_done_when_it_is_stopped_is_written(capsys: pytest.CaptureFixture[str], calculator: str) -> None:
    assert minimize("--calculator", f"breaking:{calculator}", "--out", "out.extxyz") == 130
    assert "stopped after 1 of 3; out.extxyz: 1 structures" in capsys.readouterr().err
    assert str(read("out.extxyz").symbols) == "Cu4"


def test_what_is_read_is_not_replaced_by_a_part_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert minimize("--calculator", "breaking:Tired", "--out", "in.extxyz") == 130
    assert "interrupted-in.extxyz: 1 structures" in capsys.readouterr().err
    assert len(read("in.extxyz", ":")) == 3
    assert len(read("interrupted-in.extxyz", ":")) == 1


def test_ctrl_c_with_workers_keeps_what_there_is(crystals: Path) -> None:
    Path("slow.py").write_text(
        "import time\n"
        "from ase.calculators.emt import EMT\n"
        "class Slow(EMT):\n"
        "    def calculate(self, atoms=None, *args, **kwargs):\n"
        "        if 'Cu' in atoms.symbols:\n"  # the first: those after it are done before
        "            time.sleep(1.0)\n"
        "        elif not hasattr(self, 'told'):\n"
        "            self.told = True\n"
        "            open('begun', 'a').write('x')\n"
        "        super().calculate(atoms, *args, **kwargs)\n"
    )
    write("in.extxyz", [bulk(symbol, cubic=True) for symbol in ("Cu", "Ni", "Pt", "Al", "Ag")])
    words = ["structures", "minimize", "in.extxyz", "--calculator", "slow:Slow", "--jobs", "2", "--out", "out.extxyz"]
    process = subprocess.Popen(
        [sys.executable, "-m", "relaxrl.cli.main", *words],
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(crystals), os.environ.get("PYTHONPATH", "")])},
        text=True,
        start_new_session=True,
        # A job started in the background of a shell ignores Ctrl-C, and its children with it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    begun = crystals / "begun"
    deadline = time.monotonic() + 60
    while not (begun.exists() and len(begun.read_text()) >= 3) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: workers get it, too
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "relaxrl: stopped after" in error
    assert "Ni4" in [str(atoms.symbols) for atoms in read("out.extxyz", ":")]


@pytest.mark.parametrize(
    ("out", "message"),
    [("out.nope", "can't write this format"), ("POSCAR", "holds one structure, got 3"), (".", "")],
)
def test_what_cannot_be_written_is_refused_at_once(capsys: pytest.CaptureFixture[str], out: str, message: str) -> None:
    assert minimize("--calculator", "breaking:Tired", "--out", out) == 2  # not one evaluation of gold, or it were 130
    assert message in capsys.readouterr().err


def test_a_format_that_cannot_hold_the_crystals_is_refused_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    write("in.extxyz", bulk("Au", cubic=True))
    assert minimize("--calculator", "breaking:Tired", "--out", "out.pwi") == 2  # wants pseudopotentials
    assert "out.pwi: espresso-in can't hold the structures" in capsys.readouterr().err


def frames(*arguments: str) -> int:
    words = ["structures", "frames", "in.extxyz", "--jobs", "1", "--displacements", "2", "--relaxations", "0"]
    return main([*words, "--out", "x-frames.npz", *arguments])


def test_frames_of_a_calculator_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert frames("--calculator", "breaking:Breaking") == 1
    said = capsys.readouterr().out
    assert "in.extxyz#1: left out: " in said
    assert "CalculationFailed: SCF did not converge" in said
    assert [frame.crystal for frame in load_frames("x-frames.npz")] == ["in.extxyz#0"] * 2 + ["in.extxyz#2"] * 2


def test_frames_that_are_done_when_it_is_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    assert frames("--calculator", "breaking:Tired") == 130
    assert "stopped after 1 of 3; x-frames.npz: 2 labelled frames of 1 minima" in capsys.readouterr().err
    assert len(load_frames("x-frames.npz")) == 2


def test_results_come_as_they_are_done() -> None:
    with worker_pool(2) as executor:
        assert dict(as_done(executor, pow, [(2, 3), (3, 2)])) == {0: 8, 1: 9}
    assert list(as_done(None, pow, [(2, 3), (3, 2)])) == [(0, 8), (1, 9)]
