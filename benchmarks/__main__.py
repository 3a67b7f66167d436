"""All benchmarks of speed, into the tables of docs/benchmarks.md: `make bench`, or `python -m benchmarks`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.environment import ROLLOUT_HEAD, STEP_HEAD, VECTOR_HEAD, rollout_rows, step_rows, vector_rows
from benchmarks.timing import machine, table
from benchmarks.updates import NETWORK_HEAD, UPDATE_HEAD, network_rows, update_rows

PAGE = Path("docs/benchmarks.md")
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
"""What stands between these lines of the page is replaced; the rest is written by hand."""


def main() -> None:
    """Measure, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--turns", type=int, default=60, help="measurements of each number that takes milliseconds")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    slow = max(3, arguments.turns // 6)
    parts = [
        f"`python -m benchmarks --turns {arguments.turns}` on {machine()}.",
        "### A step over the bare call of its potential",
        table(STEP_HEAD, step_rows(arguments.turns)),
        "### Batched rollouts",
        table(ROLLOUT_HEAD, rollout_rows(arguments.turns)),
        "### Gymnasium's vector environments",
        table(VECTOR_HEAD, vector_rows(arguments.turns)),
        "### Networks",
        table(NETWORK_HEAD, network_rows(slow)),
        "### Replay and updates",
        table(UPDATE_HEAD, update_rows(slow)),
    ]
    write(arguments.page, "\n\n".join(parts))
    print(f"wrote {arguments.page}")


def write(page: Path, tables: str) -> None:
    """Put the tables into the page, between its two marks."""
    text = page.read_text(encoding="utf-8") if page.exists() else f"{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n{tables}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
