"""The page of a run: what it says, what it draws, and what it says of folders that are broken."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from relaxrl.cli.main import main
from relaxrl.config import dump_config
from relaxrl.errors import ResultsError
from relaxrl.metrics import CSVSink
from relaxrl.training import PretrainConfig, RunFolder, load_run_config
from relaxrl.training.html import diagnosed, read_run, write_run_report

_spec = importlib.util.spec_from_file_location("browser", Path(__file__).parents[1] / "browser.py")
browser = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(browser)

HEALTHY = {
    "relax/actual_move": 0.05,
    "relax/proposed_move": 0.05,
    "relax/q_estimate": 5.0,
    "relax/realised_return": 5.2,
    "relax/gate": 1.0,
    "relax/correction_share": 0.02,
    "relax/a_back": 0.01,
    "relax/fmax": 0.02,
}


@pytest.fixture
def folder(tmp_path):
    """A TD3 run of five evaluations whose gate closes at the third, and opens again at the last."""
    run = RunFolder(tmp_path / "run<b>")
    run.path.mkdir()
    settings = {
        "structures": "metals:train",
        "td3": {"gamma": 0.77},
        "curriculum": {"limits": [10, 20], "episodes": [3, 3]},
        "replay": {"expert_share": {"kind": "linear", "start": 0.5, "end": 0.0, "steps": 200}},
    }
    dump_config(load_run_config(settings), run.config)
    run.write_versions()
    run.baseline.write_text(json.dumps({"fmax": 0.05, "structures": ["a", "b"], "evaluations": [20, 40]}))
    with CSVSink(run.metrics) as sink:
        for k in range(5):
            sink.write(100 * k + 50, {"train/critic_loss": 1.0 / (k + 1), "train/odd": 7.0 + k})
            figures = HEALTHY | ({"relax/gate": 0.05} if k in (2, 3) else {})
            counters = {"time/seconds": 60.0 * k, "train/n_updates": 10 * k, "relax/curriculum_stage": k // 2}
            sizes = {"replay/agent_size": 30 * k, "replay/expert_size": 10}
            sink.write(
                100 * k + 100, figures | counters | sizes | {"eval/ratio_to_bfgs": 0.9 - 0.1 * k, "eval/converged": 0.5}
            )
    return run.path


def page_of(folder):
    text = write_run_report(folder).read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.DOTALL)
    charts = json.loads(found[1])["charts"]
    titles = dict(re.findall(r'data-chart="(\w+)">\s*<h3>(.*?)</h3>', text))
    return text, {
        titles[name]: {each["name"]: each["points"] for each in chart["series"]} for name, chart in charts.items()
    }


def test_curves_have_the_numbers_of_the_metrics(folder):
    text, charts = page_of(folder)
    assert charts["Force evaluations compared with BFGS"] == {
        "evaluations / BFGS's": [[100 * k + 100, pytest.approx(0.9 - 0.1 * k)] for k in range(5)]
    }
    assert charts["Terms of the loss"]["critic"] == [
        [100 * k + 50, pytest.approx(1 / (k + 1), rel=1e-4)] for k in range(5)
    ]
    assert charts["Buffers"]["agent"] == [[100 * k + 100, 30 * k] for k in range(5)]
    stored = charts["The expert&#39;s share"]["of what is stored"]
    assert stored == [[100 * k + 100, pytest.approx(10 / (10 + 30 * k), rel=1e-4)] for k in range(5)]
    batch = dict(charts["The expert&#39;s share"]["of a batch"])
    assert (batch[50], batch[100], batch[500]) == (0.375, 0.25, 0.0)
    assert charts["train/odd"]["train/odd"][-1] == [450, 11]  # what nobody foresaw is there too
    assert "0: fewer than 10 atoms; 1: fewer than 20 atoms; 2: all" in text
    assert "0.500 of BFGS&#39;s force evaluations" in text
    assert "2 structures, BFGS: 30.0" in text
    assert "where 50% converged" in text


def test_diagnoses_are_told_in_words_when_they_were_seen(folder):
    text, _ = page_of(folder)
    assert "none of the four figures is abnormal" in text
    assert "the gate fell to 0.05" in text
    assert re.search(r"<td>action scale</td><td>300</td><td>400</td><td>2 of 5</td>", text)
    abnormal = [step for step, found in diagnosed(read_run(folder)) if found]
    assert abnormal == [300, 400]
    lines = (folder / "metrics.csv").read_text().splitlines(keepends=True)
    (folder / "metrics.csv").write_text("".join(lines[:-2]))  # a run that ends there
    text, _ = page_of(folder)
    assert "1 of the four figures is abnormal" in text
    assert '<section class="card alert" id="diagnoses">' in text


def test_the_configuration_marks_what_differs_from_the_defaults(folder):
    text, _ = page_of(folder)
    rows = re.findall(r'<tr( class="changed")?><td><code>(.*?)</code></td><td class="words"><code>(.*?)</code>', text)
    changed = {key: value for mark, key, value in rows if mark}
    assert changed["td3.gamma"] == "0.77"
    assert changed["curriculum.limits"] == "[10, 20]"
    assert "td3.tau" not in changed
    assert ("", "calculator", "emt") in rows
    marks = [bool(mark) for mark, _, _ in rows]
    assert marks == sorted(marks, reverse=True)
    assert "run.dir=NEW_FOLDER" in text
    assert "<b>" not in text  # the folder's name is text


def test_a_pretraining_run_has_a_page_too(tmp_path):
    settings = {"structures": "metals:train", "labels": "emt"}
    dump_config(PretrainConfig(**settings), tmp_path / "config.yaml")
    with CSVSink(tmp_path / "pretrain_metrics.csv") as sink:
        for k in range(3):
            errors = {"train/loss": 3.0 - k, "validation/loss": 4.0 - k, "validation/forces_mae": 0.3 / (k + 1)}
            sink.write(10 * k, {"epoch": k, "lr": 1e-3} | errors)
    text, charts = page_of(tmp_path)
    assert charts["Loss"] == {"training": [[0, 3], [10, 2], [20, 1]], "validation": [[0, 4], [10, 3], [20, 2]]}
    assert "The lowest validation loss is 2; the last one 2." in text
    assert f"relaxrl pretrain {tmp_path / 'config.yaml'} trainer.save_dir=NEW_FOLDER" in text
    assert "<dd>0.1<small>eV/Å, validation" in text


def test_broken_folders_are_told_apart(folder, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for wrong, said in (
        (tmp_path / "empty", "with neither"),
        (tmp_path / "none", "there is no such folder; expected that of a training run"),
        (folder / "config.yaml", "got a file"),
    ):
        assert main(["report", str(wrong)]) == 2
        assert said in capsys.readouterr().err
    good = (folder / "metrics.csv").read_text()
    lines = good.splitlines(keepends=True)
    (folder / "metrics.csv").write_text("".join([*lines[:2], lines[2].replace("0.05", "o.05", 1), *lines[3:]]))
    with pytest.raises(
        ResultsError, match=r"metrics\.csv, line 3: expected a number in column 'relax/\w+', got 'o\.05'"
    ):
        read_run(folder)
    (folder / "metrics.csv").write_text("".join([*lines[:4], "350,1\n", *lines[5:]]))
    with pytest.raises(ResultsError, match=r"metrics\.csv, line 5: expected \d+ cells, one for each column, got 2"):
        read_run(folder)
    (folder / "metrics.csv").write_text(lines[0])
    with pytest.raises(ResultsError, match="no rows yet"):
        read_run(folder)
    (folder / "metrics.csv").write_text(good[:-5])  # cut off by a crash: the rest counts
    assert len(read_run(folder).columns["t_total"]) == 9
    (folder / "versions.json").write_text("[")
    with pytest.raises(ResultsError, match=r"versions\.json: expected JSON"):
        read_run(folder)
    (folder / "metrics.csv").unlink()
    with pytest.raises(ResultsError, match="no numbers yet"):
        read_run(folder)


@pytest.mark.skipif(browser.browser_path() is None, reason="no Chromium or Chrome is installed")
def test_the_page_opens_without_errors_and_draws_all_charts(folder, tmp_path):
    path = write_run_report(folder)
    with browser.Browser(tmp_path / "profile") as page:
        page.open(path)
        shown, others = (
            "document.querySelectorAll('section .grid [data-chart]:not(details *)')",
            "'details [data-chart]'",
        )
        count = page.run(f"{shown}.length")
        assert count == 10
        assert page.run(f"[...{shown}].filter((host) => host.querySelector('path, circle')).length") == count
        assert page.run(f"document.querySelector({others}).querySelector('svg')") is None
        page.run("document.querySelector('main details').open = true")
        page.wait(f"document.querySelector({others}).querySelector('path') !== null")
        page.run("search.value = 'gamma'; search.dispatchEvent(new Event('input'))")
        assert page.run("found.innerText").startswith("1 of ")
        page.resize(400, 800)
        assert page.run("document.documentElement.scrollWidth") == 400
        assert page.errors == []
        assert page.requests == [path.resolve().as_uri()]
