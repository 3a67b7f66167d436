import dataclasses
import hashlib
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from scipy import stats

import relaxrl.page
from relaxrl.errors import ConfigError, ResultsError
from relaxrl.evaluation import Comparison, Limits, RunRecord, evaluate, write_report
from relaxrl.evaluation.aggregates import interquartile_mean, iqm_estimate, performance_profile, resampled
from relaxrl.evaluation.film import ATOMS, FRAMES, UNIT, Film
from relaxrl.evaluation.html import PAGE, write_html
from relaxrl.evaluation.html_films import Budget, film_data
from relaxrl.evaluation.stored import read_comparison
from relaxrl.evaluation.worst import badness, protagonists
from relaxrl.page import VIEWER


def small_evaluation(**options):
    cells = [bulk("Cu", cubic=True), bulk("Al", cubic=True) * (2, 1, 1), bulk("Au", cubic=True)]
    return evaluate(None, cells, "emt", methods=["BFGS", "FIRE", "untrained"], rattle=0.1, **options)


@pytest.fixture(scope="module")
def comparison():
    return dataclasses.replace(small_evaluation(), command="relaxrl evaluate --agent none")


@pytest.fixture(scope="module")
def folder(comparison, tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    write_report(comparison, out)
    return out


def data_of(page):
    text = page.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.DOTALL)
    assert found is not None
    return text, json.loads(found[1])


def fake(method, n, structure="a#0", converged=True, natoms=4, **more):
    return RunRecord(
        **{
            "structure": structure,
            "collection": structure.partition("#")[0],
            "formula": "Cu4",
            "natoms": natoms,
            "method": method,
            "converged": converged,
            "reason": "converged" if converged else "steps",
            "force_evaluations": n,
            "distinct_evaluations": n,
            "evaluations": {0.1: n, 0.05: n, 0.01: n if converged else None},
            "seconds": 0.5,
            "fmax": 0.01,
            "energy": -1.0,
            "handover": "",
            "trace": list(np.geomspace(5.0, 0.01, n)),
            **more,
        }
    )


def test_the_film_of_a_run_shows_the_geometry_of_each_evaluation(comparison):
    run = next(record for record in comparison.records if record.method == "BFGS")
    film = run.film
    assert film.evaluations.tolist() == list(range(1, run.force_evaluations + 1))
    assert len(run.energies) == len(run.trace) == run.force_evaluations
    atoms = Atoms(
        numbers=film.numbers, positions=film.positions(len(film.moves) - 1), cell=film.cells[-1], pbc=film.pbc
    )
    from ase.calculators.emt import EMT

    atoms.calc = EMT()
    assert atoms.get_potential_energy() == pytest.approx(run.energies[-1], abs=1e-4)
    assert np.linalg.norm(atoms.get_forces(), axis=1).max() == pytest.approx(run.trace[-1], abs=0.02)


def test_films_are_thinned_evenly_and_atoms_that_fly_off_stay_finite():
    atoms = molecule("H2O")
    steps = [(atoms.positions + 0.01 * k, np.zeros((3, 3))) for k in range(500)]
    film = Film.of(atoms, steps)
    assert len(film.moves) == FRAMES
    assert (film.evaluations[0], film.evaluations[-1]) == (1, 500)
    assert np.ptp(np.diff(film.evaluations)) <= 1
    np.testing.assert_allclose(film.positions(7), steps[film.evaluations[7] - 1][0], atol=UNIT)
    gone = Film.of(
        atoms, [steps[0], (atoms.positions + 1e6, np.zeros((3, 3))), (atoms.positions * np.nan, np.zeros((3, 3)))]
    )
    assert np.abs(gone.moves[1]).max() == 32767
    assert not gone.moves[2].any()
    large = Atoms(f"Cu{ATOMS}", positions=np.zeros((ATOMS, 3)))
    assert len(Film.of(large, [(large.positions, np.zeros((3, 3)))] * 5).moves) == 2
    assert Film.of(atoms, []) is None


def test_only_the_worst_structures_keep_their_films():
    full, few = small_evaluation(), small_evaluation(views=1)
    kept = {record.structure for record in few.records if record.film is not None}
    ratios = {
        name: badness([record for record in full.records if record.structure == name], full.limits)
        for name in {record.structure for record in full.records}
    }
    assert kept == {max(ratios, key=lambda name: ratios[name])}
    assert all(record.film is None for record in small_evaluation(views=0).records)
    with pytest.raises(ConfigError, match="views"):
        small_evaluation(views=-1)


def test_failures_are_worse_than_ratios_and_ratios_are_those_of_the_agent():
    limits = Limits(steps=99)
    slow = badness([fake("BFGS", 10), fake("agent:x", 20), fake("FIRE", 90)], limits)
    fast = badness([fake("BFGS", 10), fake("agent:x", 5), fake("FIRE", 99, converged=False)], limits)
    failed = badness([fake("BFGS", 90), fake("agent:x", 3, converged=False)], limits)
    assert (slow, fast) == ((0, 2.0), (0, 0.5))
    assert failed == (1, pytest.approx(100 / 90))
    assert sorted([fast, failed, slow]) == [fast, slow, failed]
    assert protagonists(["BFGS", "untrained", "FIRE"]) == ["untrained"]
    assert protagonists(["BFGS", "FIRE"]) == ["FIRE"]
    assert badness([fake("BFGS", 30)], limits) == (0, 30.0)


def test_the_interquartile_mean_is_the_trimmed_one():
    generator = np.random.default_rng(0)
    for n in (1, 2, 3, 4, 7, 40):
        values = generator.lognormal(size=n)
        assert interquartile_mean(values)[0] == pytest.approx(stats.trim_mean(values, 0.25))
        times = resampled(["a"] * n, generator, 5)
        drawn = [stats.trim_mean(np.repeat(values, row), 0.25) for row in times]
        assert interquartile_mean(values, times) == pytest.approx(drawn)


def test_resamples_keep_the_size_of_each_stratum_and_give_the_usual_interval():
    generator = np.random.default_rng(1)
    strata = ["a"] * 30 + ["b"] * 10
    times = resampled(strata, generator)
    assert (times[:, :30].sum(axis=1) == 30).all()
    assert times.std() > 0.9
    values = generator.lognormal(size=40)
    ours = iqm_estimate(values[:30], times[:, :30])
    theirs = stats.bootstrap(
        (values[:30],), lambda x, axis: stats.trim_mean(x, 0.25, axis=axis), method="percentile", rng=generator
    ).confidence_interval
    assert [ours.low, ours.high] == pytest.approx([theirs.low, theirs.high], rel=0.06)


def test_a_performance_profile_by_hand():
    counts, best = np.array([10.0, 20.0, 40.0, 50.0]), np.array([10.0, 10.0, 10.0, 50.0])
    solved = np.array([True, True, True, False])
    times = np.ones((1, 4), dtype=np.int64)
    profile = performance_profile(counts, best, solved, np.array([1.0, 1.9, 2.0, 4.0]), times)
    assert profile.share.tolist() == [0.25, 0.25, 0.5, 0.75]
    assert profile.low.tolist() == profile.high.tolist() == profile.share.tolist()


def test_the_page_is_one_file_that_names_no_other_and_has_all_the_numbers(comparison, folder):
    text, data = data_of(folder / PAGE)
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=[\"'](?!data:)", text)
    assert "default-src 'none'" in text
    assert text.count("data-structure=") == 3
    assert "relaxrl evaluate --agent none" in text
    assert "BSD-3-Clause" in text
    assert all(f"{estimate:.3f}" in text for each in data["sets"][0]["ratios"] for estimate in each["iqm"])
    assert [structure["films"].keys() for structure in data["structures"]] == [{"0", "1", "2"}] * 3
    summary = comparison.summary()
    for m, method in enumerate(data["methods"]):
        ratio = summary.methods[method["name"]].ratio_to_reference[0.01]
        assert data["sets"][0]["ratios"][m]["mean"] == pytest.approx([ratio.value, ratio.low, ratio.high], rel=1e-3)
        counts = [structure["counts"][m] for structure in data["structures"]]
        runs = {record.structure: record for record in comparison.records if record.method == method["name"]}
        assert counts == [runs[structure["id"]].evaluations[0.01] for structure in data["structures"]]
        for structure in data["structures"]:
            run = runs[structure["id"]]
            assert structure["traces"][m]["fmax"] == pytest.approx(run.trace, rel=1e-3)
            energies = 1000 * (np.array(run.energies) - run.energies[0]) / run.natoms
            assert structure["traces"][m]["energy"] == pytest.approx(energies, rel=1e-3)
    hero = [method["name"] for method in data["methods"]].index("untrained")
    reference = data["reference"]
    ratios = [structure["counts"][hero] / structure["counts"][reference] for structure in data["structures"]]
    assert ratios == sorted(ratios, reverse=True)  # worst first


def test_what_users_call_their_files_can_not_break_out(tmp_path):
    evil = "</script><script>alert(1)</script>&'\"#0"
    records = [
        fake("BFGS", 10, evil),
        fake("FIRE", 3, evil, converged=False, reason="error: <img src=x onerror=alert(2)>", fmax=float("nan")),
    ]
    told = Comparison(records, "<b>emt</b>", Limits(steps=99), 0.0, 0, command="relaxrl --x '</pre>'")
    page = write_html(told, tmp_path)
    text, data = data_of(page)
    assert data["structures"][0]["id"] == evil
    for wrong in ("<script>alert", "<img src=x", "<b>emt</b>", "</pre>'"):
        assert wrong not in text
    assert "&lt;img src=x onerror=alert(2)&gt;" in text
    assert "1 of 2 runs failed; each counts as 100 evaluations" in text


def test_the_library_is_the_one_of_npm():
    script = (Path(relaxrl.page.__file__).parent / "vendor" / VIEWER[0]).read_bytes()
    # sha256 of build/3Dmol-min.js in the npm package 3dmol 2.5.5
    assert hashlib.sha256(script).hexdigest() == "f7cc78921ae72e7623e89cdd111434f58c2efddd2ffda1cd212644b406fb8016"
    assert b"</script" not in script
    for asset in (Path(relaxrl.page.__file__).parent / "assets").glob("*.js"):
        assert "</script" not in asset.read_text(encoding="utf-8")


def test_a_budget_of_views_goes_to_the_worst_structures(comparison):
    film = comparison.records[0].film
    assert film_data(film, Budget(10.0)) is None
    shown = film_data(film, Budget())
    assert shown["symbols"] == [["Cu", 4]] or shown["symbols"] == [("Cu", 4)]
    assert len(shown["cells"]) == 1
    assert len(shown["start"]) == 12


def test_an_evaluation_read_back_is_the_same(comparison, folder):
    again = read_comparison(folder)
    assert again.command == comparison.command
    assert again.versions == comparison.versions
    assert again.limits == comparison.limits
    for old, new in zip(comparison.records, again.records, strict=True):
        assert new.evaluations == old.evaluations
        assert new.trace == pytest.approx(old.trace, rel=1e-5)
        assert new.energies == pytest.approx(old.energies, rel=1e-9)
        np.testing.assert_array_equal(new.film.moves, old.film.moves)
        np.testing.assert_array_equal(new.film.cells, old.film.cells)
    for method, summary in comparison.summary().methods.items():
        assert again.summary().methods[method].ratio_to_reference == summary.ratio_to_reference


def test_broken_results_are_named_with_their_line(folder, tmp_path):
    with pytest.raises(ResultsError, match=r"has no runs\.csv"):
        read_comparison(tmp_path)
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    good = (tmp_path / "runs.csv").read_text()
    lines = good.splitlines(keepends=True)
    (tmp_path / "runs.csv").write_text("".join([*lines[:3], "atoms#1,Cu4,four\n", *lines[4:]]))
    with pytest.raises(ResultsError, match=r"runs\.csv, line 4: expected \d+ cells, got 3"):
        read_comparison(tmp_path)
    (tmp_path / "runs.csv").write_text(good.replace(",True,", ",perhaps,", 1))
    with pytest.raises(ResultsError, match="line 2: expected True or False in column 'converged', got 'perhaps'"):
        read_comparison(tmp_path)
    (tmp_path / "runs.csv").write_text(lines[0])
    with pytest.raises(ResultsError, match="got none"):
        read_comparison(tmp_path)
    (tmp_path / "runs.csv").write_text(good)
    (tmp_path / "trajectories.npz").write_bytes(b"PK nonsense")
    with pytest.raises(ResultsError, match=r"trajectories\.npz: can't be read"):
        read_comparison(tmp_path)
    (tmp_path / "trajectories.npz").unlink()
    (tmp_path / "traces.csv").unlink()
    bare = read_comparison(tmp_path)  # an older evaluation: a report without curves and views
    assert bare.records[0].trace == []
    assert "No geometries were stored" in write_html(bare, tmp_path).read_text()
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(ResultsError, match=r"summary\.json: expected JSON"):
        read_comparison(tmp_path)
    (tmp_path / "summary.json").unlink()
    with pytest.raises(ResultsError, match="interrupted"):
        read_comparison(tmp_path)


def test_a_large_evaluation_is_written_in_seconds_and_stays_small(tmp_path):
    generator = np.random.default_rng(0)
    records = []
    for k in range(100):
        atoms = Atoms("Cu32", positions=generator.uniform(0, 8, (32, 3)), cell=[8, 8, 8], pbc=True)
        for method in ("agent:x", "BFGS", "FIRE", "GPMin", "MDMin", "untrained"):
            n = int(generator.integers(5, 80))
            geometries = [(atoms.positions + 0.01 * j, np.eye(3) * 8) for j in range(n)]
            film = Film.of(atoms, geometries)
            energies = list(-np.arange(n) / 100)
            records.append(fake(method, n, f"a#{k}", natoms=32, film=film, energies=energies))
    told = Comparison(records, "emt", Limits(steps=99), 0.0, 0)
    began = time.process_time()
    page = write_html(told, tmp_path)
    assert time.process_time() - began < 3.0
    assert page.stat().st_size < 9e6
    _, data = data_of(page)
    views = [bool(structure["films"]) for structure in data["structures"]]
    assert 30 < sum(views) < 100
    assert views == sorted(views, reverse=True)  # worst first
    assert f"{sum(views)} of 100 structures have a 3-D view" in page.read_text()
