"""Processes that work side by side: of one thread each, and gone when who sent them is."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from typing import Any


def worker_processes(
    count: int, initializer: Callable[..., object] | None = None, initargs: tuple[Any, ...] = ()
) -> ProcessPoolExecutor:
    """A pool of fresh processes: a fork of one that has used torch's threads may hang.

    Args:
        count: How many; they share the cores between them.
        initializer: Called in each before its first task.
        initargs: What with.
    """
    return ProcessPoolExecutor(count, get_context("spawn"), initializer=_begin, initargs=(initializer, initargs))


def terminate(executor: Executor) -> None:
    """End its processes, for nobody waits for them: else Python does not end before they are through."""
    for process in list((getattr(executor, "_processes", None) or {}).values()):
        process.terminate()


def _begin(initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    import torch

    torch.set_num_threads(1)
    if initializer is not None:
        initializer(*initargs)


def _end_with_parent() -> None:
    """A process that was killed can't tell its workers to go."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
