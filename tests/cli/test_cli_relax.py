import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.db import connect
from ase.io import read, write

from relaxrl.cli.main import main


def cell(seed=0):
    atoms = bulk("Cu", cubic=True)
    atoms.symbols[0] = "Au"
    atoms.rattle(0.1, seed=seed)
    return atoms


def relax(*arguments):
    return main(["relax", *map(str, arguments)])


def largest_force(atoms):
    atoms.calc = EMT()
    return np.linalg.norm(atoms.get_forces(), axis=1).max()


@pytest.mark.parametrize(
    ("given", "out"),
    [
        ("start.cif", "end.extxyz"),
        ("start.cif", "end.db"),
        ("POSCAR", "CONTCAR"),
        ("start.extxyz", "end.cif"),
        ("start.traj", "end.json"),
    ],
)
def test_any_format_in_and_out(tmp_path, given, out, capsys):
    write(tmp_path / given, cell())
    assert relax(tmp_path / given, "--agent", "none", "--calculator", "emt", "--out", tmp_path / out) == 0
    relaxed = read(tmp_path / out)
    assert largest_force(relaxed) < 0.011  # formats round
    assert "1 of 1 converged" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([given, out])


def test_all_frames_with_their_energies_and_constraints(tmp_path, capsys):
    slab = fcc111("Al", (1, 1, 4), vacuum=5.0)
    slab.positions[-1] += 0.2
    slab.set_constraint(FixAtoms([0, 1]))
    frames = [cell(1), slab, molecule("H2O")]
    write(tmp_path / "three.traj", frames)
    assert relax(tmp_path / "three.traj", "--agent", "none", "--calculator", "emt", "--out", tmp_path / "out.traj") == 0
    relaxed = read(tmp_path / "out.traj", ":")
    assert [atoms.get_chemical_formula() for atoms in relaxed] == [atoms.get_chemical_formula() for atoms in frames]
    np.testing.assert_array_equal(relaxed[1].positions[:2], slab.positions[:2])
    for atoms in relaxed:
        assert np.linalg.norm(atoms.get_forces(), axis=1).max() < 0.01
        assert np.isfinite(atoms.get_potential_energy())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{tmp_path}/three.traj#0 AuCu3: ")
    assert "force evaluations, converged, fmax" in lines[0]
    assert lines[-1].startswith("3 of 3 converged")


def test_one_evaluation_is_not_several(tmp_path, capsys):
    write(tmp_path / "in.extxyz", bulk("Cu", a=3.59))
    assert relax(tmp_path / "in.extxyz", "--calculator", "emt", "--out", tmp_path / "out.extxyz") == 0
    assert "Cu: 1 force evaluation, converged" in capsys.readouterr().out


def test_status_1_and_the_structure_so_far_when_not_converged(tmp_path, capsys):
    write(tmp_path / "in.extxyz", cell())
    arguments = ("--agent", "none", "--calculator", "emt", "--out", tmp_path / "out.extxyz", "--steps", 1)
    assert relax(tmp_path / "in.extxyz", *arguments) == 1
    assert "not converged" in capsys.readouterr().out
    assert 0.01 < largest_force(read(tmp_path / "out.extxyz")) < largest_force(cell())


def test_fmax_log_and_trajectory(tmp_path):
    write(tmp_path / "in.extxyz", cell())
    out, log, trajectory = tmp_path / "out.extxyz", tmp_path / "log", tmp_path / "steps.traj"
    options = ("--agent", "none", "--calculator", "emt", "--fmax", 0.3, "--log", log, "--trajectory", trajectory)
    assert relax(tmp_path / "in.extxyz", "--out", out, *options) == 0
    assert 0.01 < largest_force(read(out)) < 0.3
    assert "RLOptimizer" in log.read_text()
    assert len(read(trajectory, ":")) == len(log.read_text().splitlines()) - 1


def test_an_existing_file_is_replaced_only_by_a_result(tmp_path, capsys):
    write(tmp_path / "in.extxyz", bulk("Fe"))
    out = tmp_path / "out.extxyz"
    out.write_text("precious")
    assert relax(tmp_path / "in.extxyz", "--agent", "none", "--calculator", "emt", "--out", out) == 2
    assert "Fe" in capsys.readouterr().err
    assert out.read_text() == "precious"
    write(tmp_path / "in.extxyz", cell())
    assert relax(tmp_path / "in.extxyz", "--agent", "none", "--calculator", "emt", "--out", out) == 0
    assert len(read(out)) == 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"file": "missing.cif"}, "missing.cif"),
        ({"--calculator": "emtt"}, "emtt"),
        ({"--agent": "no_such_agent"}, "no_such_agent"),
        ({"--out": "nowhere/out.cif"}, "create it first"),
        ({"--out": "out.nonsense"}, "can't tell a format"),
        ({"--out": "."}, "expected a file, got a folder"),
        ({"--fmax": "-1"}, "--fmax > 0"),
        ({"--log": "nowhere/log"}, "--log nowhere/log: folder nowhere does not exist"),
        ({"--trajectory": "nowhere/steps.traj"}, "folder nowhere does not exist"),
    ],
)
def test_bad_input_is_status_2_and_one_line(tmp_path, monkeypatch, capsys, changes, said):
    monkeypatch.chdir(tmp_path)
    write("in.extxyz", cell())
    options = {"file": "in.extxyz", "--agent": "none", "--calculator": "emt", "--out": "out.extxyz"} | changes
    file = options.pop("file")
    assert relax(file, *(part for option in options.items() for part in option)) == 2
    error = capsys.readouterr().err
    assert error.startswith("relaxrl: error: ")
    assert said in error
    assert error.count("\n") == 1


def test_a_format_of_one_structure_is_refused_before_two_are_relaxed(tmp_path, capsys):
    write(tmp_path / "two.extxyz", [cell(1), cell(2)])
    arguments = ("--agent", "none", "--calculator", "emt", "--out", tmp_path / "CONTCAR")
    assert relax(tmp_path / "two.extxyz", *arguments) == 2
    said = capsys.readouterr()
    assert "holds one structure, got 2" in said.err
    assert not said.out
    assert [path.name for path in tmp_path.iterdir()] == ["two.extxyz"]


def test_who_wants_an_agent_to_learn_and_names_none_is_told_which_can(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("relaxrl.agents.default_agent", lambda _: None)
    write(tmp_path / "in.extxyz", cell())
    assert relax(tmp_path / "in.extxyz", "--learn", "--calculator", "emt", "--out", tmp_path / "out.extxyz") == 2
    said = capsys.readouterr().err
    assert "trained on all of Au Cu" in said
    assert "`hessian`: metals," in said
    assert "metals-planner" not in said


@pytest.fixture
def tired(tmp_path, monkeypatch):
    """A class of calculators that press Ctrl-C once `left` evaluations are made."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tired.py").write_text(
        "from ase.calculators.emt import EMT\n"
        "class Tired(EMT):\n"
        "    left = 1000\n"
        "    def calculate(self, *args, **kwargs):\n"
        "        Tired.left -= 1\n"
        "        if Tired.left == 0:\n"
        "            raise KeyboardInterrupt\n"
        "        super().calculate(*args, **kwargs)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tired", raising=False)
    return importlib.import_module("tired").Tired


def test_going_on_keeps_the_trajectory_of_what_was_done(tired):
    write("in.extxyz", [cell(0), cell(1)])
    command = ["in.extxyz", "--agent", "none", "--calculator", "tired:Tired", "--out", "out.extxyz"]
    command += ["--trajectory", "steps.traj"]
    assert relax(*command) == 0
    whole = [atoms.positions for atoms in read("steps.traj", ":")]
    tired.left = len(whole)
    assert relax(*command) == 130
    before = len(read("steps.traj", ":"))
    assert relax(*command, "--fmax", "0.5") == 2  # another campaign: nothing is touched
    assert len(read("steps.traj", ":")) == before
    assert relax(*command) == 0
    both = [atoms.positions for atoms in read("steps.traj", ":")]
    np.testing.assert_array_equal(both[0], whole[0])
    np.testing.assert_array_equal(both[-1], whole[-1])


@pytest.mark.parametrize(
    ("file", "out"), [("set/in.extxyz",) * 2, ("set/in.extxyz@:", "set/in.extxyz"), ("set", "set/out.extxyz")]
)
def test_ctrl_c_leaves_what_the_same_command_reads(tired, capsys, file, out):
    Path("set").mkdir()
    write("set/in.extxyz", [cell(0), cell(1)])
    command = [file, "--agent", "none", "--calculator", "tired:Tired", "--out", out]
    tired.left = 8
    assert relax(*command) == 130
    assert "the same command goes on" in capsys.readouterr().err
    np.testing.assert_allclose(read("set/in.extxyz@0").positions, cell(0).positions, atol=1e-6)
    assert relax(*command) == 0
    assert "1 of 2 were done before" in capsys.readouterr().out
    assert [largest_force(atoms) < 0.011 for atoms in read(out, ":")] == [True, True]


@pytest.mark.parametrize(("content", "name"), [("", "empty.extxyz"), ("4\ngarbage\n", "broken.xyz"), ("", "empty.cif")])
def test_unreadable_files_are_status_2(tmp_path, capsys, content, name):
    (tmp_path / name).write_text(content)
    assert relax(tmp_path / name, "--agent", "none", "--calculator", "emt", "--out", tmp_path / "o.xyz") == 2
    assert name in capsys.readouterr().err


def test_a_failing_calculator_is_status_1_and_others_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fragile.py").write_text(
        "from ase.calculators.emt import EMT\n"
        "class Fragile(EMT):\n"
        "    def calculate(self, atoms=None, *args):\n"
        "        super().calculate(atoms, *args)\n"
        "        if len(atoms) == 3:\n"
        "            self.results['forces'] = self.results['forces'] * float('nan')\n"
    )
    write("in.traj", [molecule("H2O"), cell()])
    assert relax("in.traj", "--agent", "none", "--calculator", "fragile:Fragile", "--out", "out.traj") == 1
    lines = capsys.readouterr().out.splitlines()
    assert "not finite" in lines[0]
    assert "converged" in lines[1]
    first, second = read("out.traj", ":")
    np.testing.assert_allclose(first.positions, molecule("H2O").positions)
    assert largest_force(second) < 0.01


def test_a_failure_that_a_shorter_step_cured_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hiccup.py").write_text(
        "from ase.calculators.emt import EMT\n"
        "class Hiccup(EMT):\n"
        "    calls = 0\n"
        "    def calculate(self, *args):\n"
        "        self.calls += 1\n"
        "        if self.calls == 2:\n"
        "            raise RuntimeError('SCF did not converge')\n"
        "        super().calculate(*args)\n"
    )
    write("in.traj", cell())
    assert relax("in.traj", "--agent", "none", "--calculator", "hiccup:Hiccup", "--out", "out.traj") == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert "converged" in line
    assert "1 of the evaluations failed, cured by shorter steps" in line
    assert "SCF did not converge" in line


def test_elements_that_the_agent_was_not_trained_on_are_told_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write("in.traj", [molecule("H2O"), molecule("H2O")])
    assert relax("in.traj", "--agent", "metals", "--calculator", "emt", "--out", "out.traj") == 0
    assert capsys.readouterr().err.count("trained on Ag Al Au Cu Ni Pt, not on H O") == 1
    write("in.traj", cell())
    assert relax("in.traj", "--agent", "metals", "--calculator", "emt", "--out", "out.traj") == 0
    assert capsys.readouterr().err == ""


def test_ctrl_c_keeps_what_there_is(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import time\n"
        "from ase.calculators.emt import EMT\n"
        "class Slow(EMT):\n"
        "    def calculate(self, *args, **kwargs):\n"
        "        super().calculate(*args, **kwargs)\n"
        "        open('calls', 'a').write('x')\n"
        "        time.sleep(0.3)\n"
    )
    write(tmp_path / "in.traj", [cell(1), cell(2)])
    options = ("--agent", "none", "--calculator", "slow:Slow", "--fmax", "1e-6", "--out", "out.traj")
    process = subprocess.Popen(
        [sys.executable, "-m", "relaxrl.cli.main", "relax", "in.traj", *options],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        env=os.environ,
        text=True,
        # A job started in the background of a shell ignores Ctrl-C, and its children with it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    calls = tmp_path / "calls"
    deadline = time.monotonic() + 60
    while not (calls.exists() and len(calls.read_text()) >= 3) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "as far as they came" in error
    first, second = read(tmp_path / "out.traj", ":")
    assert largest_force(first) < largest_force(cell(1))
    np.testing.assert_array_equal(second.positions, cell(2).positions)


def test_each_structure_gets_the_agent_that_was_trained_on_its_elements(tmp_path, capsys):
    covalent, foreign = bulk("Si", cubic=True), bulk("Xe", a=3.6, cubic=True)
    for atoms in (covalent, foreign):
        atoms.rattle(0.05, seed=0)
    write(tmp_path / "three.traj", [cell(0), covalent, foreign])
    arguments = ("--calculator", "lj,sigma=2.2,epsilon=0.3,rc=5", "--out", tmp_path / "out.traj", "--fmax", 0.05)
    relax(tmp_path / "three.traj", *arguments)
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("agent: metals for 1 of 3, universal for 1 of 3, none for 1 of 3")
    assert "trained on Xe;" in first
    write(tmp_path / "one.traj", cell(0))
    counts = []
    for agent in ((), ("--agent", "metals"), ("--agent", "none")):
        relax(tmp_path / "one.traj", "--calculator", "emt", "--out", tmp_path / "out.traj", *agent)
        out = capsys.readouterr().out
        assert ("agent: metals for 1 of 1" in out) == (agent == ())
        counts.append(int(out.split(" force evaluations")[0].split()[-1]))
    assert counts[0] == counts[1] < counts[2]


def test_a_database_keeps_what_it_says_of_its_rows(tmp_path):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    with connect(tmp_path / "in.db") as database:
        database.write(atoms, mp_id="mp-30", gap=0.0, data={"tags": [1, 2], "note": "7"})
    assert relax(tmp_path / "in.db", "--agent", "none", "--calculator", "emt", "--out", tmp_path / "out.db") == 0
    row = connect(tmp_path / "out.db").get(1)
    assert (row.mp_id, row.gap, row.converged) == ("mp-30", 0.0, True)
    assert row.data["tags"] == [1, 2]
    assert row.data["note"] == "7"  # ASE refuses a string that looks like a number as a key-value pair
