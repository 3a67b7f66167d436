"""Processes that relax structures side by side."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def worker_pool(jobs: int) -> Iterator[Executor | None]:
    """An executor with so many processes for the length of a block; None, which means this process, for one job.

    When the block ends by an error or Ctrl-C, work that has not begun is dropped.
    """
    if jobs <= 1:
        yield None
        return
    # Fresh processes: forking one in which torch has started threads can hang. One thread each: jobs share the cores.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=torch.set_num_threads, initargs=(1,)) as executor:
        try:
            yield executor
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
