"""Timing that holds on a shared machine: what is compared is measured in turns; ratios are medians over the turns."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from numpy.typing import NDArray

CELLS = {8: (2, 1, 1), 32: (2, 2, 2), 108: (3, 3, 3)}
"""Repetitions of the cubic fcc cell for each number of atoms."""

Times = NDArray[np.float64]
"""Seconds, one number per turn."""


def copper(n_atoms: int) -> Atoms:
    """A copper crystal of 8, 32 or 108 atoms."""
    return bulk("Cu", cubic=True).repeat(CELLS[n_atoms])


def seconds(call: Callable[[], object]) -> float:
    """Wall-clock time of one call, s, to the end of what it started on a GPU."""
    _finish()
    start = time.perf_counter()
    call()
    _finish()
    return time.perf_counter() - start


def in_turns(calls: Mapping[str, Callable[[], object]], turns: int, limit: float = 20.0) -> dict[str, Times]:
    """Times of several calls, each called once per turn.

    Args:
        calls: By name.
        turns: How many, after one that does not count.
        limit: s; no turn begins after it, but the first three.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    begin = time.perf_counter()
    for turn in range(turns + 1):
        if turn > 3 and time.perf_counter() - begin > limit:
            break
        for name, call in calls.items():
            taken = seconds(call)
            if turn:
                times[name].append(taken)
    return {name: np.array(values) for name, values in times.items()}


def milliseconds(times: Times) -> float:
    """The median, ms."""
    return 1e3 * float(np.median(times))


def ratio(times: Times, reference: Times) -> float:
    """The median over the turns of the ratio of both."""
    return float(np.median(times / reference))


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])


def machine() -> str:
    """Processor, cores and versions in a line."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    return f"{name}, {os.cpu_count()} cores; Python {platform.python_version()}, torch {torch.__version__}"


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
