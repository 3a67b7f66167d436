"""Parts of a batch on several cores of one machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import torch

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_pools: dict[int, ThreadPoolExecutor] = {}
os.register_at_fork(after_in_child=_pools.clear)  # threads don't survive a fork


def on_all_cores(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """`function` of each item, in order, in as many threads as torch may use (`torch.set_num_threads`).

    torch's own threads share the work of one operation; on arrays that fit into a processor's cache, starting them
    costs more than they save. Here each item is one thread's, and most of the time is spent outside of Python's lock.
    """
    work, threads = list(items), torch.get_num_threads()
    if threads == 1 or len(work) < 2:
        return [function(item) for item in work]
    if threads not in _pools:
        _pools[threads] = _pool(threads)
    return list(_pools[threads].map(function, work))


def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that start no others: in torch's own pools, each of them would have as many again."""
    barrier = Barrier(threads)

    def alone() -> None:
        torch.set_num_threads(1)  # of the calling thread, and of threads that are started later
        barrier.wait()  # so that none takes a second of these tasks

    pool = ThreadPoolExecutor(threads)
    for task in [pool.submit(alone) for _ in range(threads)]:
        task.result()
    torch.set_num_threads(threads)
    return pool
