"""How many threads an engine is given: as many as this process may use, not as many as the machine has."""

from __future__ import annotations

import math
import os
from pathlib import Path

from trt_var.errors import UsageError

MAX_THREADS = 1024


def available(root: Path = Path("/")) -> int:
    """Processors that this process may run on, no more than the time that its control groups grant (v1 and v2)."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [math.ceil(quota) for quota in _quotas(root)]
    return max(1, min([affinity, *quotas]))


def checked(threads: int | None) -> int:
    """A number that was asked for, or ``available``.

    Raises:
        UsageError: not from 1 to MAX_THREADS.
    """
    if threads is None:
        return available()
    if not 1 <= threads <= MAX_THREADS:
        raise UsageError(f"threads is {threads}; expected 1 to {MAX_THREADS}, or nothing for all that the process may use")
    return threads


def _quotas(root: Path) -> list[float]:
    """Processors' worth of time of every control group that this process is in."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, kinds, place = line.split(":", 2)
        kind = "" if not kinds else "cpu" if "cpu" in kinds.split(",") else None
        if kind is None:
            continue
        base = root / "sys/fs/cgroup" / kind
        group = base / place.lstrip("/")
        for folder in (
            group,
            *group.parents,
        ):  # a container may see the host's path: what is not there counts for nothing
            if folder == base.parent:
                break
            found += [quota for quota in (_second(folder), _first(folder)) if quota is not None]
    return found


def _second(folder: Path) -> float | None:
    """``cpu.max`` of version 2: microseconds in a period, or "max"."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _first(folder: Path) -> float | None:
    """The two files of version 1; −1 is no limit."""
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        return quota / int((folder / "cpu.cfs_period_us").read_text()) if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
