"""`report.html` of a run: curves against `t_total`, diagnoses in words, curriculum, buffers, configuration."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from relaxrl.agents.schedules import Schedule
from relaxrl.config import from_dict, read_mapping, to_dict
from relaxrl.errors import ConfigError, ResultsError
from relaxrl.metrics import STEP, read_metrics
from relaxrl.page import write_page
from relaxrl.training.diagnostics import Diagnosis, DiagnosisConfig, Figures, diagnose
from relaxrl.training.folder import RunFolder
from relaxrl.training.html_charts import BUFFERS, SECTIONS, Chart, Section, drawn, plain
from relaxrl.training.pretraining_config import PretrainConfig
from relaxrl.training.run import load_run_config

PAGE = "report.html"
PRETRAINING = "pretraining"
_NOT_DRAWN = {STEP, "time/seconds", "epoch"}
_STEPS = {
    "td3": "environment steps, t_total",
    PRETRAINING: "optimizer steps, t_total",
}


@dataclass(frozen=True)
class Run:
    """What a run folder says.

    Attributes:
        folder: Its path.
        method: `td3`, `cloning`, ..., or `pretraining`.
        config: All keys and values.
        columns: Of the metrics.
        versions: What it was made with.
        bfgs: Evaluations of BFGS on the development structures; empty if not counted.
    """

    folder: Path
    method: str
    config: dict[str, Any]
    columns: dict[str, list[float]]
    versions: dict[str, str | None]
    bfgs: list[int]


def read_run(folder: str | Path) -> Run:
    """The run in a folder, finished or not.

    Raises:
        ResultsError: It is no run folder, has no numbers yet, or a file is broken; names the line.
        ConfigError: Its configuration can't be read.
    """
    paths = RunFolder(folder)
    if not paths.config.is_file():
        raise ResultsError(f"{folder}: not a run folder: it has no config.yaml; give the folder that `train` made")
    config = read_mapping(paths.config)
    metrics, method = paths.metrics, config.get("method", "td3")
    if "method" not in config and isinstance(config.get("trainer"), dict):
        metrics, method = paths.path / f"{config['trainer'].get('run_name', '')}_metrics.csv", PRETRAINING
    if not metrics.is_file():
        raise ResultsError(f"{folder}: no numbers yet: the run has not written {metrics.name}; wait, or resume it")
    columns = read_metrics(metrics)
    if not columns.get(STEP):
        raise ResultsError(
            f"{metrics}: no rows yet: the first one comes with the first evaluation; wait, or resume the run"
        )
    versions = _json(paths.versions, dict) if paths.versions.is_file() else {}
    baseline = _json(paths.baseline, dict) if paths.baseline.is_file() else {}
    return Run(paths.path, str(method), config, columns, versions, list(baseline.get("evaluations", [])))


def write_run_report(folder: str | Path) -> Path:
    """Write `report.html` into a run folder.

    Returns:
        The file.

    Raises:
        ResultsError: See `read_run`.
        ConfigError: See `read_run`.
    """
    run = read_run(folder)
    page = _Page(run)
    write_page(run.folder / PAGE, "training.html", page.context, page.data, ("charts.js", "table.js", "training.js"))
    return run.folder / PAGE


def diagnosed(run: Run) -> list[tuple[int, list[Diagnosis]]]:
    """What was abnormal at each evaluation that took the figures, by `t_total`."""
    try:
        config = from_dict(DiagnosisConfig, run.config.get("diagnosis") or {})
    except ConfigError:  # of another version: its thresholds are not ours
        config = DiagnosisConfig()
    target = float((run.config.get("env") or {}).get("fmax", 0.01))
    history: list[Figures] = []
    found = []
    for k, step in enumerate(run.columns[STEP]):
        row = {name: values[k] for name, values in run.columns.items()}
        figures = Figures.from_metrics(int(step), row, target)
        if figures is not None:
            history.append(figures)
            found.append((figures.t_total, diagnose(history, config)))
    return found


class _Page:
    """What the page says (`context`) and what its scripts draw (`data`)."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.columns = run.columns | _shares(run)
        self.charts: dict[str, Any] = {}
        used: set[str] = set()
        sections = []
        for section in SECTIONS:
            told = _with_stages(section, run) if section is BUFFERS else section
            shown = [entry for chart in told.charts if (entry := self._draw(chart, used)) is not None]
            if shown:
                sections.append({"title": section.title, "words": section.words, "charts": shown})
        rest = [name for name in self.columns if name not in used | _NOT_DRAWN and not name.startswith("share/")]
        others = [entry for name in rest if (entry := self._draw(plain(name), used)) is not None]
        x = {"label": _STEPS.get(run.method, "displaced crystals, t_total"), "short": STEP}
        self.data = {"x": x, "charts": self.charts}
        self.context = self._words() | {"sections": sections, "others": others} | _configuration(run)

    def _draw(self, chart: Chart, used: set[str]) -> dict[str, str] | None:
        """Puts a chart among the data, and says what the page has to show of it."""
        found = drawn(chart, self.columns, used)
        if found is None:
            return None
        name = f"chart{len(self.charts)}"
        self.charts[name] = found
        return {"id": name, "title": chart.title, "words": chart.words}

    def _words(self) -> dict[str, Any]:
        run, config = self.run, self.run.config
        history = diagnosed(run)
        now = history[-1][1] if history else []
        seed = (config.get("run") or config.get("trainer") or {}).get("seed", "")
        return {
            "title": f"Training: {run.folder.resolve().name}",
            "method": run.method,
            "structures": _listed(config.get("structures", "")),
            "calculator": config.get("calculator", config.get("labels") or "labels of the files"),
            "seed": seed,
            "folder": str(run.folder),
            "lead": _lead(run),
            "tiles": _tiles(run),
            "diagnoses": now,
            "diagnosis_words": _diagnosis_words(run, history),
            "past": _past(history),
            "command": _command(run),
            "versions": {"relaxrl": None, **run.versions},
        }


def _with_stages(section: Section, run: Run) -> Section:
    """The section with the curriculum's stages in words."""
    limits = (run.config.get("curriculum") or {}).get("limits")
    if not limits:
        return section
    stages = [f"{k}: fewer than {limit} atoms" for k, limit in enumerate(limits)] + [f"{len(limits)}: all"]
    text = "Structures drawn in each stage: " + "; ".join(stages) + "."
    if (run.config["curriculum"]).get("advance") in ("off", False):
        text += " The curriculum was off: all sizes from the start."
    return replace(section, charts=[*section.charts[:-1], replace(section.charts[-1], words=text, high=len(limits))])


def _shares(run: Run) -> dict[str, list[float]]:
    """The expert's share of batches, by its schedule, and of what the buffers hold."""
    if "replay/agent_size" not in run.columns:
        return {}
    sizes = zip(run.columns["replay/agent_size"], run.columns["replay/expert_size"], strict=True)
    shares = {"share/stored": [expert / (agent + expert) if agent + expert else math.nan for agent, expert in sizes]}
    try:
        schedule = from_dict(Schedule, run.config["replay"]["expert_share"])
    except (ConfigError, KeyError, TypeError):  # of another version
        return shares
    return shares | {"share/batch": [schedule.at(int(step)) for step in run.columns[STEP]]}


def _last(values: Sequence[float]) -> float:
    """The last number that is known; NaN if none is."""
    return next((value for value in reversed(values) if math.isfinite(value)), math.nan)


def _lead(run: Run) -> str:
    ratios = run.columns.get("eval/ratio_to_bfgs", [])
    known = [
        (value, step) for value, step in zip(ratios, run.columns[STEP], strict=bool(ratios)) if math.isfinite(value)
    ]
    if known:
        best, where = min(known)
        share = _last(run.columns.get("eval/converged", []))
        left = "" if share == 1 else f", where {share:.0%} converged and the others count as the limit"
        return (
            f"The best agent needs {best:.3f} of BFGS's force evaluations on the development structures (at t_total "
            f"{where:.0f}); the last evaluation says {known[-1][0]:.3f}{left}. What counts is an evaluation on "
            "structures that were neither trained nor chosen on: relaxrl evaluate."
        )
    losses = [value for value in run.columns.get("validation/loss", []) if math.isfinite(value)]
    if losses:
        return f"The lowest validation loss is {min(losses):.4g}; the last one {losses[-1]:.4g}."
    return "The run has not been evaluated yet."


def _tiles(run: Run) -> list[dict[str, str]]:
    columns = run.columns
    tiles = []
    ratios = [value for value in columns.get("eval/ratio_to_bfgs", []) if math.isfinite(value)]
    if ratios:
        note = f"{len(run.bfgs)} structures, BFGS: {sum(run.bfgs) / len(run.bfgs):.1f}" if run.bfgs else ""
        tiles.append({"label": "best evaluations / BFGS's", "value": f"{min(ratios):.3f}", "note": note})
        share = _last(columns.get("eval/converged", []))
        tiles.append(
            {"label": "converged, last evaluation", "value": f"{share:.0%}", "note": f"of {len(ratios)} evaluations"}
        )
    for name, label, unit in (
        ("validation/forces_mae", "force error, best", "eV/Å, validation"),
        ("validation/energy_mae", "energy error, best", "eV per atom, validation"),
    ):
        known = [value for value in columns.get(name, []) if math.isfinite(value)]
        if known and run.method == PRETRAINING:
            tiles.append({"label": label, "value": f"{min(known):.3g}", "note": unit})
    updates = _last(columns.get("train/n_updates", []))
    note = "" if math.isnan(updates) else f"{updates:.0f} updates"
    tiles.append(
        {
            "label": _STEPS.get(run.method, "displaced crystals, t_total"),
            "value": f"{columns[STEP][-1]:.0f}",
            "note": note,
        }
    )
    seconds = _last(columns.get("time/seconds", []))
    if math.isfinite(seconds):
        fast = _last(columns.get("time/fps", []))
        note = "" if math.isnan(fast) else f"{fast:.0f} steps per second"
        tiles.append({"label": "time", "value": f"{seconds / 60:.1f} min", "note": note})
    return tiles


def _diagnosis_words(run: Run, history: Sequence[tuple[int, list[Diagnosis]]]) -> str:
    if not history:
        if run.method == "td3":
            return "No evaluation has taken the figures yet."
        return "The four figures are taken of reinforcement learning alone (method td3)."
    last, now = history[-1]
    found = (
        f"{len(now)} of the four figures are abnormal"
        if len(now) > 1
        else f"{len(now) or 'none'} of the four figures is abnormal"
    )
    return f"At the last of {len(history)} evaluations (t_total {last}), {found}."


def _past(history: Sequence[tuple[int, list[Diagnosis]]]) -> list[dict[str, Any]]:
    """When each figure was abnormal."""
    seen: dict[str, list[tuple[int, str]]] = {}
    for step, diagnoses in history:
        for diagnosis in diagnoses:
            seen.setdefault(diagnosis.figure, []).append((step, diagnosis.message))
    return [
        {
            "figure": figure,
            "first": times[0][0],
            "last": times[-1][0],
            "count": f"{len(times)} of {len(history)}",
            "message": "see above" if times[-1][0] == history[-1][0] else times[-1][1],
        }
        for figure, times in seen.items()
    ]


def _command(run: Run) -> str:
    """What makes the run again, from the configuration that it keeps."""
    command, key = ("pretrain", "trainer.save_dir") if run.method == PRETRAINING else ("train", "run.dir")
    return f"relaxrl {command} {shlex.quote(str(run.folder / 'config.yaml'))} {key}=NEW_FOLDER"


def _configuration(run: Run) -> dict[str, Any]:
    """All keys, those that differ from their default first."""
    values, defaults = _flat(run.config), _defaults(run)
    rows = []
    for key, value in values.items():
        default = defaults.get(key, value) if defaults else value
        rows.append(
            {"key": key, "value": value, "default": default if default != value else "", "changed": default != value}
        )
    rows.sort(key=lambda row: not row["changed"])
    return {"config": rows, "changed": sum(row["changed"] for row in rows)}


def _defaults(run: Run) -> dict[str, str]:
    """Of the method's class; empty where the configuration is not one of this version."""
    needed = {"structures": run.config.get("structures", "metals:train")}
    try:
        if run.method == PRETRAINING:
            return _flat(to_dict(from_dict(PretrainConfig, needed)))
        kinds = {key: {"kind": run.config[key]["kind"]} for key in ("actor",) if "kind" in (run.config.get(key) or {})}
        return _flat(to_dict(load_run_config({"method": run.method, **needed, **kinds})))
    except ConfigError:
        return {}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested keys joined by dots, values as YAML on one line."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
            flat[f"{prefix}{key}"] = text.removesuffix("\n").removesuffix("\n...")
    return flat


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _json(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path}: expected JSON, got: {error}; mend or delete it") from error
    if not isinstance(content, kind):
        raise ResultsError(f"{path}: expected a mapping, got {type(content).__name__}; mend or delete it")
    return content
