"""`report.html`: an evaluation as one page, with charts, relaxations to watch, and all structures, worst first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols, covalent_radii

from relaxrl.evaluation.compare import Comparison
from relaxrl.evaluation.html_charts import set_data
from relaxrl.evaluation.html_films import Budget, film_data
from relaxrl.evaluation.methods import AGENT_PREFIX, REFERENCE
from relaxrl.evaluation.report import cells, columns, kinds_text, ordered_methods, structures_text, verdict
from relaxrl.evaluation.run import RunRecord
from relaxrl.evaluation.statistics import ENERGY_TOLERANCE, by_method, censored, energy_relation
from relaxrl.evaluation.summary import SetSummary
from relaxrl.evaluation.worst import badness, protagonists
from relaxrl.page import VIEWER, rounded, write_page

PAGE = "report.html"
SHOWN = 8
"""Methods with curves at first; the legend switches the others on. Agents and BFGS always are shown."""
TRACED = 400
"""Structures whose forces and energies go into the page evaluation by evaluation, worst first."""

_PALETTE = ("c0", "c1", "c2", "c3", "c4", "c5")
_REFERENCE_COLOR = "ref"
_SCRIPTS = ("charts.js", "table.js", "viewer.js", "evaluation.js")


@dataclass(frozen=True)
class _Structure:
    """All runs from one start, in the order of the methods."""

    runs: list[RunRecord]
    badness: tuple[int, float]


def write_html(comparison: Comparison, folder: Path) -> Path:
    """Write the page.

    Returns:
        The file.
    """
    page = _Page(comparison)
    write_page(folder / PAGE, "evaluation.html", page.context(), page.data(), _SCRIPTS, VIEWER)
    return folder / PAGE


class _Page:
    """What the page says (`context`) and what its scripts draw (`data`)."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self.limits = comparison.limits
        self.whole = comparison.summary()
        self.methods = ordered_methods(self.whole)
        self.hero = protagonists(self.methods)[0]
        table = by_method(comparison.records)
        found = []
        for name in table[REFERENCE]:
            runs = [table[method][name] for method in self.methods]
            found.append(_Structure(runs, badness(runs, self.limits)))
        self.structures = sorted(found, key=lambda structure: structure.badness, reverse=True)
        self.sets = [set_data(comparison, name, self.methods) for name in self._names()]
        budget = Budget()
        order = self._film_order()
        self.films = [{m: film_data(each.runs[m].film, budget) for m in order} for each in self.structures]
        self.films = [{m: film for m, film in films.items() if film is not None} for films in self.films]

    def context(self) -> dict[str, Any]:
        """What the template names."""
        records = self.comparison.records
        failed = [run for each in self.structures for run in each.runs if not run.converged]
        relieved = [run for each in self.structures for run in each.runs if run.handover]
        sets = self._names()
        return {
            "title": self._title(),
            "calculator": self.comparison.calculator,
            "fmax": f"{self.limits.fmax:g}",
            "steps": self.limits.steps,
            "rattle": f"{self.comparison.rattle:g}" if self.comparison.rattle else "",
            "seed": self.comparison.seed,
            "created": (self.comparison.created or "").replace("T", " ").replace("+00:00", " UTC"),
            "verdict": verdict(self.whole),
            "tiles": self._tiles(),
            "tables": [
                self._table(self.comparison.summary(name), drawn) for name, drawn in zip(sets, self.sets, strict=True)
            ],
            "sets": [name or "all" for name in sets],
            "methods": [{"name": name} for name in self.methods],
            "hero": self.hero,
            "structures": [self._row(k) for k in range(len(self.structures))],
            "worst_words": self._worst_words(),
            "films_words": self._films_words(),
            "untraced": f"The curves of the {TRACED} worst structures are in this page; all are in traces.csv.",
            "failures": [_told(run, run.reason) for run in failed],
            "handovers": [_told(run, run.handover) for run in relieved],
            "runs": len(records),
            "censored": self.whole.censored,
            "rules": self._rules(),
            "command": self.comparison.command,
            "versions": {"relaxrl": None, **self.comparison.versions},
        }

    def data(self) -> dict[str, Any]:
        """What the scripts draw."""
        numbers = np.unique(np.concatenate([[0], *(f.numbers for e in self.structures for f in _films(e.runs))]))
        present = [int(number) for number in numbers if number]
        return {
            "fmax": self.limits.fmax,
            "methods": self._looks(),
            "reference": self.methods.index(REFERENCE),
            "sets": self.sets,
            "structures": [self._structure(k) for k in range(len(self.structures))],
            "elements": [chemical_symbols[number] for number in present],
            "radii": {chemical_symbols[number]: float(covalent_radii[number]) for number in present},
            "films_missing": "No view of this structure: " + self._films_words(),
        }

    def _names(self) -> list[str | None]:
        """Names of the sets; None, all of them together, comes last."""
        names: list[str | None] = list(self.comparison.collections)
        return [*names, None] if len(names) > 1 else [None]

    def _title(self) -> str:
        about = ", ".join(name.removeprefix(AGENT_PREFIX) for name in protagonists(self.methods)[:3])
        return f"{about} on {', '.join(self.comparison.collections[:4])}"

    def _tiles(self) -> list[dict[str, str]]:
        summary, hero = self.whole, self.whole.methods[self.hero]
        at, level = hero.at[summary.fmax], summary.fmax
        reference, best = hero.ratio_to_reference[level], hero.ratio_to_best[level]
        kinds = kinds_text(hero.failures) or "no failures"
        return [
            {
                "label": f"evaluations of {self.hero} / BFGS",
                "value": f"{reference.value:.3f}",
                "note": f"95 %: {reference.low:.3f} to {reference.high:.3f}",
            },
            {
                "label": f"... / {summary.best_classical}, the bar",
                "value": f"{best.value:.3f}",
                "note": f"95 %: {best.low:.3f} to {best.high:.3f}",
            },
            {"label": "median evaluations", "value": f"{at.median:g}", "note": f"95 % of runs below {at.p95:.0f}"},
            {"label": "converged", "value": f"{100 * at.converged_fraction:.0f} %", "note": kinds},
            {
                "label": "structures",
                "value": str(summary.structures),
                "note": f"{min(run.natoms for run in self.comparison.records)} to "
                f"{max(run.natoms for run in self.comparison.records)} atoms",
            },
        ]

    def _table(self, summary: SetSummary, charts: dict[str, Any]) -> dict[str, Any]:
        """The table of a set, with interquartile means beside the geometric ones."""
        heads = columns(summary)
        place = heads.index("to BFGS") + 1
        heads.insert(place, "IQM to BFGS")
        rows = []
        for name in ordered_methods(summary):
            texts = [text.partition(" [") for text in cells(summary.methods[name], summary)]
            value, low, high = charts["ratios"][self.methods.index(name)]["iqm"]
            texts.insert(place - 1, (f"{value:.3f}", " [", f"{low:.3f}, {high:.3f}]"))
            kind = "mine" if name.startswith(AGENT_PREFIX) else "best" if name == summary.best_classical else ""
            rows.append(
                {
                    "kind": kind,
                    "cells": [
                        {"text": name, "range": ""},
                        *({"text": text, "range": f"[{rest}" if rest else ""} for text, _, rest in texts),
                    ],
                }
            )
        name = "All structures" if summary.name == "all" else summary.name
        note = (
            f"Force evaluations to {summary.fmax:g} eV/Å. Ratios are geometric means over structures of a method's "
            "evaluations over those of BFGS, or of the best classical method of the set, with 95 % bootstrap "
            "intervals; IQM: interquartile means of these ratios. Same/lower/higher: the energy reached, compared "
            "with BFGS's minimum."
        )
        return {
            "title": f"{name} ({structures_text(summary)})",
            "heads": [head.replace("to ", "to\u00a0").replace(" at ", " at\u00a0") for head in heads],
            "rows": rows,
            "verdict": verdict(summary),
            "note": note,
        }

    def _row(self, number: int) -> dict[str, Any]:
        """A structure in the table."""
        structure = self.structures[number]
        first = structure.runs[0]
        runs = dict(zip(self.methods, structure.runs, strict=True))
        counts = [self._count(run) for run in structure.runs]
        of = self._count(runs[self.hero]) / max(self._count(runs[REFERENCE]), 1)
        return {
            "id": first.structure,
            "formula": first.formula,
            "natoms": first.natoms,
            "set": first.collection,
            "ratio": round(of, 6),
            "cells": [
                {
                    "value": count,
                    "text": str(count) if run.converged else f"✗ {run.force_evaluations}",
                    "reason": "" if run.converged else run.reason,
                }
                for run, count in zip(structure.runs, counts, strict=True)
            ],
            "energy": energy_relation(runs[self.hero], runs[REFERENCE]) or "",
            "filmed": bool(self.films[number]),
        }

    def _structure(self, number: int) -> dict[str, Any]:
        """A structure for the scripts."""
        structure = self.structures[number]
        first = structure.runs[0]
        return {
            "id": first.structure,
            "set": first.collection,
            "formula": first.formula,
            "natoms": first.natoms,
            "counts": [self._count(run) for run in structure.runs],
            "spent": [run.force_evaluations for run in structure.runs],
            "failed": [int(not run.converged) for run in structure.runs],
            "reasons": ["" if run.converged else run.reason for run in structure.runs],
            "traces": [_trace(run) for run in structure.runs] if number < TRACED and _any_trace(structure) else None,
            "films": self.films[number],
        }

    def _count(self, run: RunRecord) -> int:
        return censored(run, self.limits.fmax, self.limits.censored)

    def _looks(self) -> list[dict[str, Any]]:
        """Colour, dash and width of each method; BFGS has the colour of the text."""
        ratio = {name: self.whole.methods[name].ratio_to_reference[self.whole.fmax].value for name in self.methods}
        always = [name for name in self.methods if name == REFERENCE or name.startswith(AGENT_PREFIX)]
        others = sorted((name for name in self.methods if name not in always), key=lambda name: ratio[name])
        shown = {*always, *others[: max(SHOWN - len(always), 0)]}
        looks, colored = [], 0
        for name in self.methods:
            color, dash = _REFERENCE_COLOR, 0
            if name != REFERENCE:
                color, dash = _PALETTE[colored % len(_PALETTE)], colored // len(_PALETTE) % 3
                colored += 1
            looks.append(
                {
                    "name": name,
                    "color": color,
                    "dash": dash,
                    "width": 3 if name.startswith(AGENT_PREFIX) else 1.8,
                    "shown": name in shown,
                    "reference": name == REFERENCE,
                }
            )
        return looks

    def _film_order(self) -> list[int]:
        """Protagonists, BFGS and the best classical method before the others, should there be no room for all."""
        first = dict.fromkeys([*protagonists(self.methods), REFERENCE, self.whole.best_classical, *self.methods])
        return [self.methods.index(name) for name in first][:SHOWN]

    def _films_words(self) -> str:
        stored = sum(any(run.film is not None for run in structure.runs) for structure in self.structures)
        embedded = sum(map(bool, self.films))
        if not stored:
            return "No geometries were stored (--views 0, or an evaluation by an older version)."
        text = f"{embedded} of {len(self.structures)} structures have a 3-D view (▶), the worst ones first"
        if embedded < stored:
            return text + f"; {stored} are in trajectories.npz, but a page with all of them would be slow."
        return text + ("." if stored == len(self.structures) else "; `--views N` stores more.")

    def _worst_words(self) -> str:
        names = protagonists(self.methods)
        who = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
        if names == [REFERENCE]:
            return f"failures of {who}, then its evaluations"
        return f"failures of {who}, then {'its' if len(names) == 1 else 'their largest'} ratio to BFGS"

    def _rules(self) -> list[str]:
        return [
            "All methods start from the same positions, each run with a fresh calculator. Each call that computes "
            "forces counts: the first one, those of rejected steps and line searches, repetitions, failed ones.",
            f"Converged: the optimizer says that all forces are below {self.limits.fmax:g} eV/Å, and the energy is not "
            "above that of the start.",
            f"A failed run counts as {self.limits.censored} evaluations, or those it took if more.",
            "BFGS is ASE's with its defaults, a soft bar; the bar is the best classical method among those that ran.",
            f"Energies within {ENERGY_TOLERANCE:g} eV per atom of each other belong to the same minimum.",
            "Interquartile means and performance profiles follow rliable (arXiv:2108.13264): each method runs once on "
            "each structure, so structures are drawn anew within each set (2000 times).",
        ]


def _films(runs: Sequence[RunRecord]) -> list[Any]:
    return [run.film for run in runs if run.film is not None]


def _any_trace(structure: _Structure) -> bool:
    return any(run.trace for run in structure.runs)


def _trace(run: RunRecord) -> dict[str, Any] | None:
    """Forces, eV/Å, and energies above that of the start, meV per atom."""
    if not run.trace:
        return None
    energies = np.asarray(run.energies or [np.nan] * len(run.trace), dtype=np.float64)
    relative = 1000 * (energies - energies[0]) / run.natoms
    return {"fmax": rounded(run.trace), "energy": rounded(relative, 5)}


def _told(run: RunRecord, reason: str) -> dict[str, Any]:
    fmax = "" if np.isnan(run.fmax) else f"{run.fmax:.3g}"
    return {
        "structure": run.structure,
        "method": run.method,
        "evaluations": run.force_evaluations,
        "fmax": fmax,
        "reason": reason,
    }
