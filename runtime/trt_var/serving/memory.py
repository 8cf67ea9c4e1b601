"""Memory of a process that serves: what the C library keeps, and how often Python looks for what can go."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from collections.abc import Iterator

MALLOC = {-8: 2, -3: 32 << 20, -1: 64 << 20}  # glibc's M_ARENA_MAX, M_MMAP_THRESHOLD and M_TRIM_THRESHOLD
SELDOM = (20_000, 20, 50)  # of gc.set_threshold


def steady() -> None:
    """Let go of what batches needed, where the C library is glibc: else the largest of every thread's are kept, and add up.

    Two pools for all threads, and what is free at their ends is returned beyond 64 MB (figures: docs/reliability.md, the
    service). With thresholds of a few megabytes every batch has its pages zeroed again (docs/serving.md, what was tried).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for option, value in MALLOC.items():
            mallopt(option, value)


@contextlib.contextmanager
def seldom_searched() -> Iterator[None]:
    """Look for cycles seldom, and not among what is there already: a thousand waiting requests are objects that stay, too.

    At its usual thresholds the collector takes time from requests under load (docs/serving.md, what was tried).
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
