"""Processes that relax structures side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, as_completed
from contextlib import contextmanager
from typing import Any, TypeVar

from relaxrl.workers import terminate, worker_processes

T = TypeVar("T")


@contextmanager
def worker_pool(jobs: int) -> Iterator[Executor | None]:
    """An executor with so many processes for the length of a block; None, which means this process, for one job.

    When the block ends by an error or Ctrl-C, the processes end, too, in the middle of their work.
    """
    if jobs <= 1:
        yield None
        return
    with worker_processes(jobs) as executor:
        try:
            yield executor
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            terminate(executor)
            raise


def as_done(
    executor: Executor | None, function: Callable[..., T], calls: Sequence[tuple[Any, ...]]
) -> Iterator[tuple[int, T]]:
    """Results as they come, each with the number of its call, so that what is done is known at any time.

    Args:
        executor: Makes the calls; this process, one after the other, if None.
        function: What is called.
        calls: Its arguments, once for each call.
    """
    if executor is None:
        yield from ((number, function(*arguments)) for number, arguments in enumerate(calls))
        return
    numbers = {executor.submit(function, *arguments): number for number, arguments in enumerate(calls)}
    for future in as_completed(numbers):
        yield numbers[future], future.result()
