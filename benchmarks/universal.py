"""Agents on crystals of all kinds: covalent, ionic and metallic, under empirical and machine-learned potentials.

relaxrl structures make configs/structures/covalent.yaml --out sets/covalent    # and oxides, and chgnet
python -m benchmarks.universal --agent universal --out results/universal

Evaluates on each set, at fixed cell and with it, into a folder of its own (`relaxrl report` shows it), and prints one
table of all. What is there already is not evaluated again. Machine-learned potentials take hours of one core; `--only`
chooses: names of rows, or beginnings of them. For another seed of an agent `--methods BFGS untrained` suffices, into a
folder of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.timing import table
from relaxrl.evaluation import Comparison, evaluate, write_report
from relaxrl.evaluation.methods import CLASSICAL, REFERENCE, UNTRAINED
from relaxrl.evaluation.statistics import Ratio, paired_ratio
from relaxrl.evaluation.stored import read_comparison

METHODS = ["BFGS", "BFGSLineSearch", "BFGS-alpha10", "BFGS-alpha20", "GoodOldQuasiNewton", "untrained"]
HEAD = [
    *("crystals", "n", "best classical", "untrained", "agent", "to BFGS", "to the best", "median", "worst", "failures"),
    *("same or lower", "relieved", "time to the fastest"),
]
STRAIN = 0.03
"""Standard deviation of each component, of the cells of starts where cells relax."""


@dataclass(frozen=True)
class Row:
    """One evaluation.

    Attributes:
        name: Of its folder.
        structures: File below the folder of sets, or a shipped set.
        calculator: Name; `stored` for each crystal's own.
        fmax: eV/Å.
        cell: Whether cells relax, too.
    """

    name: str
    structures: str
    calculator: str = "stored"
    fmax: float = 0.01
    cell: bool = False


def rows() -> list[Row]:
    """All of them, cheap ones first."""
    cheap = {
        "covalent": "covalent/covalent-test.npz",
        "covalent-unseen": "covalent/covalent-unseen.npz",
        "covalent-large": "covalent/covalent-large.npz",
        "oxides": "oxides/oxides-test.npz",
        "oxides-prototypes": "oxides/oxides-prototypes.npz",
        "oxides-large": "oxides/oxides-large.npz",
    }
    found = [Row(name, file) for name, file in cheap.items()]
    found.append(Row("metals", "metals:test", "emt"))
    found += [Row(f"{name}-cell", file, cell=True) for name, file in cheap.items() if "large" not in name]
    chgnet = "chgnet/chgnet-test.npz"
    found.append(Row("chgnet", chgnet, fmax=0.02))
    found.append(Row("chgnet-cell", chgnet, fmax=0.02, cell=True))
    found.append(Row("sevenn", chgnet, "sevenn", fmax=0.02))
    return found


def compare(row: Row, agents: Sequence[str], methods: Sequence[str], sets: Path, folder: Path) -> Comparison:
    """Runs of all methods, those of an earlier call where there are any."""
    if not (folder / "summary.json").exists():
        structures = row.structures if ":" in row.structures else str(sets / row.structures)
        comparison = evaluate(
            list(agents),
            structures,
            row.calculator,
            methods=methods,
            fmax=row.fmax,
            cell=row.cell,
            strain=STRAIN if row.cell else 0.0,
            views=0,
        )
        write_report(comparison, folder)
    return read_comparison(folder)


def cells(row: Row, comparison: Comparison) -> list[list[str]]:
    """Lines of the table, one for each agent."""
    summary = comparison.summary()
    best, fmax = summary.methods[summary.best_classical], summary.fmax
    untrained = summary.methods[UNTRAINED].ratio_to_reference[fmax]
    lines = []
    for name, method in summary.methods.items():
        if not name.startswith("agent:"):
            continue
        energies, failed = method.energies, sum(method.failures.values())
        relieved = sum(1 for record in comparison.records if record.method == name and record.handover)
        lines.append(
            [
                row.name,
                str(summary.structures),
                f"{summary.best_classical} {best.ratio_to_reference[fmax].value:.3f}",
                f"{untrained.value:.3f}",
                name.removeprefix("agent:"),
                _interval(method.ratio_to_reference[fmax]),
                _interval(method.ratio_to_best[fmax]),
                f"{method.at[fmax].median:g}",
                f"{method.at[fmax].max:g}",
                str(failed),
                f"{(energies['same'] + energies['lower']) / summary.structures:.0%}",
                str(relieved),
                _interval(time_ratio(comparison, name)),
            ]
        )
    return lines


def time_ratio(comparison: Comparison, method: str) -> Ratio:
    """Wall-clock time of a method to that of the classical one that is fastest in the geometric mean, by pairs."""
    seconds = {
        name: np.array([record.seconds for record in comparison.records if record.method == name])
        for name in comparison.methods
    }
    classical = [name for name in seconds if name in CLASSICAL]
    fastest = min(classical or [REFERENCE], key=lambda name: float(np.log(seconds[name]).mean()))
    return paired_ratio(seconds[method], seconds[fastest], np.random.default_rng(0))


def _interval(ratio: Ratio) -> str:
    return f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


def main() -> None:
    """Evaluate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", nargs="+", default=["universal"])
    parser.add_argument("--methods", nargs="+", default=METHODS, help="classical ones, and untrained")
    parser.add_argument("--sets", type=Path, default=Path("sets"))
    parser.add_argument("--only", nargs="*", default=[""], metavar="NAME")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    for row in rows():
        if row.name.startswith(tuple(arguments.only)):
            comparison = compare(row, arguments.agent, arguments.methods, arguments.sets, arguments.out / row.name)
            of_agents = cells(row, comparison)
            for line in of_agents:
                print(" | ".join(line), flush=True)
            lines += of_agents
    print(table(HEAD, lines))


if __name__ == "__main__":
    main()
