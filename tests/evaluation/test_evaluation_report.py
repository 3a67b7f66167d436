import csv
import json
import math

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from scipy import stats

from relaxrl.evaluation import Comparison, Limits, RunRecord, evaluate, write_report
from relaxrl.evaluation.report import markdown, summary_json, table, write_runs
from relaxrl.evaluation.statistics import censored, distribution, energy_relation, paired_ratio
from relaxrl.evaluation.summary import summarize


def record(method, n, structure="a#0", converged=True, energy=-1.0, n_loose=None, natoms=4, reason=None, fmax=0.01):
    return RunRecord(
        structure=structure,
        collection=structure.rpartition("#")[0],
        formula="Cu4",
        natoms=natoms,
        method=method,
        converged=converged,
        reason=reason or ("converged" if converged else "steps"),
        force_evaluations=n,
        distinct_evaluations=n,
        evaluations={0.1: n_loose or n, 0.05: n_loose or n, 0.01: n if converged else None},
        seconds=0.5,
        fmax=fmax,
        energy=energy,
        handover="",
        trace=list(np.geomspace(5.0, fmax, n)),
    )


def comparison(records, also=(0.05,)):
    return Comparison(records, "emt", Limits(steps=99, also=also), 0.0, 0)


def test_ratios_by_hand():
    ratio = paired_ratio(np.array([2.0, 8.0, 3.0]), np.array([4.0, 4.0, 3.0]), np.random.default_rng(0))
    assert ratio.value == pytest.approx((0.5 * 2.0 * 1.0) ** (1 / 3))
    assert ratio.pairs == 3
    one = paired_ratio(np.array([2.0]), np.array([4.0]), np.random.default_rng(0))
    assert (one.value, one.low, one.high) == (0.5, 0.5, 0.5)


def test_the_interval_is_that_of_scipy():
    generator = np.random.default_rng(1)
    reference = generator.integers(20, 60, 40).astype(float)
    counts = np.round(reference * generator.lognormal(-1.0, 0.4, 40)).clip(1)
    ours = paired_ratio(counts, reference, np.random.default_rng(2))
    theirs = stats.bootstrap(
        (np.log(counts / reference),), np.mean, method="percentile", rng=np.random.default_rng(3), n_resamples=10_000
    ).confidence_interval
    assert np.log([ours.low, ours.high]) == pytest.approx([theirs.low, theirs.high], abs=0.01)


def test_pairing_is_by_structure_not_by_order():
    records = [
        record("BFGS", 10, "a#0"),
        record("BFGS", 40, "a#1"),
        record("FIRE", 80, "a#1"),
        record("FIRE", 5, "a#0"),
    ]
    summary = summarize("a", records, Limits(), seed=0)
    ratio = summary.methods["FIRE"].ratio_to_reference[0.01]
    assert ratio.value == pytest.approx(1.0)
    assert (ratio.low, ratio.high) == pytest.approx((0.5, 2.0))


def test_the_distribution_by_hand():
    d = distribution(np.array([1.0, 2.0, 3.0, 14.0]), [True, True, True, False])
    assert (d.median, d.mean, d.max, d.converged_fraction) == (2.5, 5.0, 14.0, 0.75)
    assert d.p95 == pytest.approx(3 + 0.85 * 11)


def test_failures_count_as_the_limit_or_what_they_took():
    assert censored(record("FIRE", 7), 0.01, limit=100) == 7
    assert censored(record("FIRE", 7, converged=False), 0.01, limit=100) == 100
    assert censored(record("FIRE", 300, converged=False), 0.01, limit=100) == 300
    assert censored(record("FIRE", 30, converged=False, n_loose=4), 0.1, limit=100) == 4
    records = [record("BFGS", 10), record("FIRE", 3, converged=False, reason="calculator: broke"), record("GPMin", 12)]
    summary = summarize("a", records, Limits(steps=99), seed=0)
    fire = summary.methods["FIRE"]
    assert fire.ratio_to_reference[0.01].value == pytest.approx(10.0)
    assert fire.failures == {"calculator": 1}
    assert fire.at[0.01].converged_fraction == 0.0
    assert fire.energies == {"same": 0, "lower": 0, "higher": 0}


@pytest.mark.parametrize(
    ("difference", "expected"), [(1e-4, "same"), (-1e-4, "same"), (1e-2, "higher"), (-1e-2, "lower")]
)
def test_energies_are_compared_per_atom(difference, expected):
    reference = record("BFGS", 10, natoms=10, energy=-5.0)
    assert energy_relation(record("FIRE", 9, natoms=10, energy=-5.0 + 10 * difference), reference) == expected
    assert energy_relation(record("FIRE", 9, converged=False), reference) is None
    assert energy_relation(reference, record("BFGS", 9, converged=False)) is None


def test_the_best_classical_method_is_neither_an_agent_nor_the_untrained_one():
    records = [
        *(record("BFGS", 20, f"a#{k}") for k in range(3)),
        *(record("GoodOldQuasiNewton", 12, f"a#{k}") for k in range(3)),
        *(record("untrained", 6, f"a#{k}") for k in range(3)),
        *(record("agent:x", 3, f"a#{k}") for k in range(3)),
    ]
    summary = summarize("a", records, Limits(), seed=0)
    assert summary.best_classical == "GoodOldQuasiNewton"
    assert summary.methods["agent:x"].ratio_to_best[0.01].value == pytest.approx(0.25)
    assert summary.methods["agent:x"].ratio_to_reference[0.01].value == pytest.approx(0.15)
    text = markdown(comparison(records))
    assert "The bar is the best classical method, GoodOldQuasiNewton (0.600 [0.600, 0.600] of BFGS)" in text
    assert "agent:x clears it: 0.250 [0.250, 0.250] of its evaluations" in text


def test_intervals_don_t_depend_on_which_other_methods_ran():
    records = [record("BFGS", 10 + k, f"a#{k}") for k in range(5)] + [
        record("FIRE", 20 - k, f"a#{k}") for k in range(5)
    ]
    more = [*records, *(record("MDMin", 30, f"a#{k}") for k in range(5))]
    assert (
        summarize("a", records, Limits(), 0).methods["FIRE"].ratio_to_reference
        == summarize("a", more, Limits(), 0).methods["FIRE"].ratio_to_reference
    )


def test_the_report_of_a_real_evaluation(tmp_path):
    cells = [bulk("Cu", cubic=True), bulk("Al", cubic=True) * (2, 1, 1)]
    result = evaluate(None, cells, "emt", methods=["BFGS", "FIRE", "untrained"], rattle=0.1)
    written = write_report(result, tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    assert {path.name for path in written} == {path.name for path in folder.iterdir()}
    assert {path.name for path in written if path.suffix == ".png"} == {
        *("distribution.png", "performance_profile.png", "fmax.png", "ratio_against_natoms.png")
    }
    with (folder / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = (
        "structure,formula,natoms,method,converged,reason,force_evaluations,evaluations_0.1,evaluations_0.05,"
        "evaluations_0.01,seconds,fmax,energy"
    )
    assert list(rows[0])[:13] == expected.split(",")
    assert [(row["structure"], row["method"]) for row in rows] == [
        (f"atoms#{k}", method) for k in range(2) for method in ("BFGS", "FIRE", "untrained")
    ]
    for row, run in zip(rows, result.records, strict=True):
        assert row["converged"] == "True"
        assert int(row["natoms"]) == run.natoms
        assert int(row["evaluations_0.01"]) == run.evaluations[0.01] <= int(row["force_evaluations"])
        assert float(row["energy"]) == pytest.approx(run.energy, abs=1e-8)
        assert float(row["fmax"]) < 0.01
        assert float(row["seconds"]) > 0
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["structures"] == 2
    assert set(summary["methods"]) == {"BFGS", "FIRE", "untrained"}
    for name, method in summary["methods"].items():
        counts = [int(row["evaluations_0.01"]) for row in rows if row["method"] == name]
        bfgs = [int(row["evaluations_0.01"]) for row in rows if row["method"] == "BFGS"]
        assert method["median"] == np.median(counts)
        assert method["mean"] == np.mean(counts)
        assert method["max"] == max(counts)
        assert method["p95"] == pytest.approx(np.percentile(counts, 95))
        assert method["converged_fraction"] == 1.0
        assert method["ratio_to_bfgs"] == pytest.approx(stats.gmean(np.divide(counts, bfgs)))
        low, high = method["ratio_to_bfgs_interval"]
        assert low <= method["ratio_to_bfgs"] <= high
        assert set(method["thresholds"]) == {"0.1", "0.05", "0.01"}
    assert "# Evaluation" in (folder / "report.md").read_text()
    assert not list(folder.glob(".*"))


def test_what_is_unknown_is_empty(tmp_path):
    records = [
        record("BFGS", 10),
        record("FIRE", 4, converged=False, energy=math.nan, fmax=0.01),
    ]
    write_runs(tmp_path / "runs.csv", records, (0.1, 0.05, 0.01))
    with (tmp_path / "runs.csv").open(newline="") as file:
        row = list(csv.DictReader(file))[1]
    assert row["converged"] == "False"
    assert row["evaluations_0.01"] == row["energy"] == row["energy_compared_with_bfgs"] == ""
    write_runs(tmp_path / "part.csv", records[1:], (0.1, 0.05, 0.01))  # interrupted before BFGS ran
    assert (tmp_path / "part.csv").read_text().count("\n") == 2


def test_each_set_has_its_own_figures_and_bar():
    records = [
        record("BFGS", 10, "a#0"),
        record("FIRE", 5, "a#0"),
        record("BFGS", 10, "b#0"),
        record("FIRE", 20, "b#0"),
    ]
    summary = summary_json(comparison(records))
    assert summary["sets"]["a"]["best_classical"] == "FIRE"
    assert summary["sets"]["b"]["best_classical"] == "BFGS"
    assert summary["structures"] == 2
    assert "NaN" not in json.dumps(summary)
    text = markdown(comparison(records))
    assert "## a (1 structure)" in text
    assert "## all (2 structures)" in text


def test_plots_of_failures_and_of_one_method_are_drawn(tmp_path):
    failed = record("BFGS", 1, converged=False)
    nothing = RunRecord(**{**vars(record("FIRE", 1, converged=False)), "trace": [], "force_evaluations": 0})
    perfect = RunRecord(**{**vars(record("MDMin", 1)), "trace": [0.0]})
    for records in ([failed], [failed, nothing], [record("BFGS", 1), perfect]):
        write_report(comparison(records), tmp_path)


def test_the_table_has_a_row_for_each_method():
    summary = comparison([record("BFGS", 10), record("agent:x", 4)]).summary()
    drawn = table(summary)
    assert drawn.row_count == 2
    assert list(drawn.columns[0].cells) == ["agent:x", "BFGS"]


def test_a_report_of_nothing_but_failures_is_written_and_says_so(tmp_path):
    over = Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 0]], cell=[6, 6, 6], pbc=True)
    with np.errstate(all="ignore"):
        comparison = evaluate("none", [over], "emt", methods=["BFGS", "FIRE"])
    assert not any(record.converged for record in comparison.records)
    for path in write_report(comparison, tmp_path):
        assert path.stat().st_size > 0, path.name
    assert "No method converged" in str(table(comparison.summary()).caption)


def test_each_force_has_a_bar_of_its_own():
    records = [
        record("BFGS", 20, n_loose=10),
        record("FIRE", 10, n_loose=9),
        record("GPMin", 16, n_loose=5),
        record("agent:x", 4, n_loose=2),
    ]
    summary = comparison(records).summary()
    assert summary.best_at == {0.1: "GPMin", 0.05: "GPMin", 0.01: "FIRE"}
    assert summary.best_classical == "FIRE"
    agent = summary.methods["agent:x"]
    assert [agent.ratio_to_best[level].value for level in (0.05, 0.01)] == pytest.approx([0.4, 0.4])
    assert [agent.ratio_to_reference[level].value for level in (0.05, 0.01)] == pytest.approx([0.2, 0.2])
    found = summary_json(comparison(records))
    assert found["settings"]["also"] == [0.05]
    loose = found["methods"]["agent:x"]["thresholds"]["0.05"]
    assert (loose["best_classical"], loose["ratio_to_best_classical"]) == ("GPMin", pytest.approx(0.4))
    drawn = table(summary)
    heads = [column.header for column in drawn.columns]
    row = dict(zip(heads, (next(iter(column.cells)) for column in drawn.columns), strict=True))
    assert (row["to BFGS at 0.05"], row["to best at 0.05"]) == ("0.200", "0.400")
    text = markdown(comparison(records))
    assert "To 0.05 eV/Å it is GPMin." in text
    assert "| 0.05 eV/Å, to BFGS | to GPMin | 0.01 eV/Å, to BFGS | to FIRE |" in text
    assert "at 0.05" not in markdown(comparison(records, also=()))


def test_the_report_says_when_failures_make_the_ratios():
    records = [
        *(record("BFGS", 20, f"a#{k}", converged=k > 0) for k in range(3)),
        *(record("agent:x", 4, f"a#{k}", converged=k > 1) for k in range(3)),
        *(record("FIRE", 50, f"a#{k}", converged=False) for k in range(3)),
    ]
    said = "Failed: BFGS on 1 of 3, agent:x on 2 of 3. A failed run counts as 100 evaluations"
    assert said in markdown(comparison(records))
    assert "Failed:" not in markdown(comparison([record("BFGS", 20), record("FIRE", 50, converged=False)]))
