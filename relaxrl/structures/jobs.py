"""Processes that relax structures side by side."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from relaxrl.workers import worker_processes


@contextmanager
def worker_pool(jobs: int) -> Iterator[Executor | None]:
    """An executor with so many processes for the length of a block; None, which means this process, for one job.

    When the block ends by an error or Ctrl-C, work that has not begun is dropped.
    """
    if jobs <= 1:
        yield None
        return
    with worker_processes(jobs) as executor:
        try:
            yield executor
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
