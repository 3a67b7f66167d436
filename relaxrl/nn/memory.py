"""Memory that is freed and wanted again in every step."""

from __future__ import annotations

import torch

LARGEST_BLOCK = 24 * 2**20
"""Bytes; glibc learns from blocks up to 32 MiB."""


def keep_freed_memory() -> None:
    """Let the C library keep up to 48 MiB of what is freed, instead of handing it back to the system.

    It keeps twice the largest block that was freed so far. Networks make and drop blocks of a few MB in each step, all
    of which would be handed back, and come back as page faults: a fifth of the time of a step of 100 atoms, a tenth of
    that of a training update. One large block, never touched, tells it in microseconds. Harmless where another library
    manages memory.
    """
    torch.empty(LARGEST_BLOCK, dtype=torch.uint8)
