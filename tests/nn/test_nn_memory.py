"""Steps after the first ones ask the system for no memory."""

from __future__ import annotations

import resource
import sys

import pytest
import torch

from relaxrl.nn.memory import keep_freed_memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="about glibc")
def test_memory_that_is_freed_is_kept_for_the_next_step() -> None:
    def step() -> None:
        blocks = [torch.ones(200_000, dtype=torch.float64) for _ in range(4)]
        del blocks

    keep_freed_memory()
    for _ in range(5):
        step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        step()
    # 16,000 pages otherwise.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 2000
