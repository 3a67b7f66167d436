r"""The README's figure: how many force evaluations the shipped agents and classical optimizers take on unseen crystals.

relaxrl evaluate --agent metals metals-planner --structures metals:test metals:large metals:unseen --calculator emt \
        --methods BFGS,BFGSLineSearch,BFGS-alpha10,untrained --out results
python benchmarks/gain.py results/runs.csv docs/gain.svg
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("svg")
import matplotlib.pyplot as plt

METHODS = {
    "agent:metals-planner": ("metals-planner", "#0072B2", "-"),
    "agent:metals": ("metals", "#009E73", "-"),
    "untrained": ("RLOptimizer without an agent", "#CC79A7", "-"),
    "BFGS-alpha10": ("best classical: BFGS, alpha = 10", "#D55E00", "--"),
    "BFGS": ("BFGS", "#333333", "--"),
}
"""Name in the figure, colour of Okabe and Ito's palette, line."""


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="runs.csv of one or more evaluations of the same structures")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    for file in arguments.runs:
        with file.open(encoding="utf-8", newline="") as table:
            for row in csv.DictReader(table):
                if row["converged"] == "True":
                    counts[row["method"]][row["structure"]] = int(row["force_evaluations"])
    n = len({structure for runs in counts.values() for structure in runs})
    mpl.rcParams["svg.hashsalt"] = "relaxrl"  # the same file for the same data
    figure, axes = plt.subplots(figsize=(7.2, 3.6), layout="constrained")
    for method, (name, colour, line) in METHODS.items():
        evaluations = np.sort(np.fromiter(counts[method].values(), dtype=float))
        share = np.arange(1, len(evaluations) + 1) / n
        steps = np.concatenate([[1.0], evaluations, [1000.0]])  # from nothing, and on to the edge
        axes.step(
            steps, np.concatenate([[0.0], share, share[-1:]]), line, where="post", color=colour, linewidth=2, label=name
        )
    axes.set(
        xscale="log",
        xlim=(1.9, 150),
        ylim=(0, 1.02),
        xlabel="force evaluations to 0.01 eV/Å",
        ylabel=f"share of {n} unseen crystals relaxed",
    )
    axes.set_xticks([2, 3, 5, 10, 20, 50, 100], labels=["2", "3", "5", "10", "20", "50", "100"])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, fontsize=9, loc="outside upper center", ncols=3)
    figure.savefig(arguments.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
