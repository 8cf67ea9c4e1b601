"""Resident memory of this process by kind, and its peaks."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

STATUS = Path("/proc/self/status")
INTERVAL = 0.01  # seconds between looks; one takes some 30 µs


class Resident(NamedTuple):
    """Bytes.

    Attributes:
        anonymous: what the process holds for itself; shared memory counts here, since it cannot be dropped either.
        files: pages of mapped files, which processes share and the system drops when memory is short.
    """

    anonymous: int
    files: int

    def peak(self, other: Resident) -> Resident:
        """The larger of either kind."""
        return Resident(*map(max, self, other))


def resident(status: Path = STATUS) -> Resident | None:
    """What is resident now; None where the system does not tell, as only Linux does."""
    sizes = _sizes(status)
    try:
        return Resident(sizes["RssAnon"] + sizes["RssShmem"], sizes["RssFile"])
    except KeyError:
        return None


def highest(status: Path = STATUS) -> int:
    """Resident memory at its highest, both kinds together."""
    import resource  # not on Windows

    if size := _sizes(status).get("VmHWM"):
        return size  # Linux begins the other figure at what the parent process held
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def _sizes(status: Path) -> dict[str, int]:
    """Every size in a status file, by name; nothing where there is none."""
    try:
        lines = [line.split() for line in status.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeError):
        return {}
    found = [line for line in lines if len(line) == 3 and line[2] == "kB" and line[1].isdigit()]
    return {name.rstrip(":"): 1024 * int(size) for name, size, _ in found}


class Watch:
    """Looks at this process's memory in a thread of its own, from entering to leaving.

    Linux keeps the peak of both kinds together alone. What rises and falls between two looks is not seen.
    """

    def __init__(self) -> None:
        self._done, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._look_on, name="trt-var-memory", daemon=True)
        self._peak = self._loaded = self._since = resident()

    def __enter__(self) -> Watch:
        if self._peak is not None:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()

    def loaded(self) -> None:
        """From here on, there are requests alone."""
        with self._lock:
            self._loaded = self._since = resident()
            self._note(self._since)

    @property
    def peak(self) -> Resident | None:
        """The largest of either kind so far, not necessarily at once; None where the system does not tell."""
        self._look()
        return self._peak

    @property
    def added(self) -> int | None:
        """Anonymous memory at its highest since ``loaded``, above what there was then; None as of ``peak``."""
        self._look()
        return None if self._loaded is None or self._since is None else self._since.anonymous - self._loaded.anonymous

    def _look_on(self) -> None:
        while not self._done.wait(INTERVAL):
            self._look()

    def _look(self) -> None:
        with self._lock:
            self._note(resident())

    def _note(self, found: Resident | None) -> None:
        if found is not None:
            self._peak = found.peak(self._peak or found)
            self._since = found.peak(self._since or found)
