"""Sets in which each crystal names its own calculator."""

from pathlib import Path

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.optimize import BFGS

from relaxrl.cli.main import main
from relaxrl.errors import CalculatorError
from relaxrl.evaluation import evaluate
from relaxrl.structures import Crystal, write_structures

LJ = "lj,sigma=2.3,epsilon=0.2"
CALCULATORS = {"emt": EMT, LJ: lambda: LennardJones(sigma=2.3, epsilon=0.2)}


def crystals() -> list[Crystal]:
    found = []
    for k, name in enumerate(["emt", LJ, "emt"]):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, seed=k)
        found.append(Crystal(f"mine#{k}", atoms, f"p{k}", "start", name))
    return found


def test_each_crystal_is_relaxed_and_counted_under_its_own() -> None:
    comparison = evaluate(None, crystals(), "stored", methods=["BFGS"])
    assert len(comparison.records) == 3
    for record, crystal in zip(comparison.records, crystals(), strict=True):
        atoms = crystal.atoms.copy()
        assert crystal.calculator is not None
        atoms.calc = CALCULATORS[crystal.calculator]()
        optimizer = BFGS(atoms, logfile=None)
        optimizer.run(fmax=0.01)
        assert record.converged
        assert record.force_evaluations == optimizer.nsteps + 1
        assert record.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-6)


def test_side_by_side_gives_the_same() -> None:
    one = evaluate(None, crystals(), "stored", methods=["BFGS"])
    together = evaluate(None, crystals(), "stored", methods=["BFGS"], together=3)
    for a, b in zip(one.records, together.records, strict=True):
        assert a.force_evaluations == b.force_evaluations
        assert a.energy == pytest.approx(b.energy, abs=1e-6)


def test_a_crystal_without_one_is_an_error() -> None:
    with pytest.raises(CalculatorError, match=r"atoms#0: .*names none"):
        evaluate(None, [bulk("Cu")], "stored", methods=["BFGS"])


def test_the_commands_know_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_structures(tmp_path / "mine.extxyz", crystals())
    file, out = str(tmp_path / "mine.extxyz"), str(tmp_path / "out.extxyz")
    assert main(["relax", file, "--agent", "none", "--calculator", "stored", "--out", out]) == 0
    assert "3 of 3 converged" in capsys.readouterr().out
    arguments = ["evaluate", "--agent", "none", "--structures", file, "--calculator", "stored", "--methods", "BFGS"]
    assert main([*arguments, "--out", str(tmp_path / "results")]) == 0
    assert main(["structures", "inspect", file, "--calculator", "stored", "--hessian"]) == 0
