import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter

from relaxrl.errors import ConfigError, StructureError
from relaxrl.evaluation import evaluate, write_report
from relaxrl.evaluation.compare import starting_points
from relaxrl.evaluation.stored import read_comparison
from relaxrl.potentials import CountedCalculator, EvaluationCounter


def crystal():
    atoms = bulk("Cu", a=3.6, cubic=True)
    atoms.symbols[0] = "Ni"
    return atoms


def test_methods_relax_the_same_cells_and_stress_counts(tmp_path):
    methods = ["BFGS", "untrained"]
    comparison = evaluate("metals", crystal(), "emt", methods=methods, cell=True, strain=0.03, rattle=0.05, seed=1)
    records = {record.method: record for record in comparison.records}
    assert set(records) == {"agent:metals", *methods}
    assert all(record.converged and record.fmax < 0.011 for record in records.values())
    assert all(record.trace[0] == pytest.approx(records["BFGS"].trace[0]) for record in records.values())
    assert records["agent:metals"].force_evaluations < 0.5 * records["BFGS"].force_evaluations
    assert records["agent:metals"].distinct_evaluations == records["agent:metals"].force_evaluations
    energies = [record.energy for record in records.values()]
    assert max(energies) - min(energies) < 4e-3
    fixed = evaluate(None, crystal(), "emt", methods=["BFGS"], strain=0.03, rattle=0.05, seed=1).records[0]
    assert fixed.energy > max(energies) + 0.01
    write_report(comparison, tmp_path)
    assert "FrechetCellFilter" in (tmp_path / "report.md").read_text()
    again = read_comparison(tmp_path)
    assert again.limits.cell
    assert again.strain == comparison.strain


def test_starts_are_strained_alike_each_time():
    first, again = (starting_points(crystal(), 0.0, 3, strain=0.02)[0].atoms for _ in range(2))
    np.testing.assert_array_equal(first.cell.array, again.cell.array)
    strain = np.linalg.solve(crystal().cell.array, first.cell.array) - np.eye(3)
    np.testing.assert_allclose(strain, strain.T, atol=1e-12)
    assert 0.005 < np.abs(strain).max() < 0.08
    np.testing.assert_allclose(first.get_scaled_positions(), crystal().get_scaled_positions(), atol=1e-12)


def test_counted_stress_is_what_filters_compare():
    atoms, counter = crystal(), EvaluationCounter()
    atoms.rattle(0.002, seed=0)
    atoms.calc = CountedCalculator(EMT(), counter, stress=True)
    forces = np.linalg.norm(FrechetCellFilter(atoms).get_forces(), axis=1)
    assert counter.count == 1
    assert counter.fmaxs[0] == pytest.approx(forces.max())
    assert forces[-3:].max() == forces.max() > np.linalg.norm(atoms.get_forces(), axis=1).max()


def test_what_can_not_be():
    with pytest.raises(ConfigError, match="PreconLBFGS"):
        evaluate(None, crystal(), "emt", methods=["PreconLBFGS"], cell=True)
    with pytest.raises(ConfigError, match="strain"):
        evaluate(None, crystal(), "emt", methods=["BFGS"], cell=True, strain=-0.1)
    with pytest.raises(ConfigError, match="one after the other"):
        evaluate(None, crystal(), "emt", methods=["BFGS"], cell=True, together=2)
    molecule = crystal()
    molecule.set_cell(np.zeros((3, 3)))
    molecule.pbc = False
    with pytest.raises(StructureError, match="three independent vectors"):
        evaluate(None, molecule, "emt", methods=["BFGS"], cell=True)
