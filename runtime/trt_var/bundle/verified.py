"""What was found whole before: hashing gigabytes at every start takes longer than to draw.

A record in the user's cache says of large files what was checked, with all that changes when they are written to: device,
inode, size, and the times of the last writing and the last change, the second of which no program can choose.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from pathlib import Path
from typing import Literal

import msgspec
from platformdirs import user_cache_path

from trt_var.errors import OutputError
from trt_var.files.writing import replacing

log = logging.getLogger(__name__)
LARGE = 16 << 20  # below it hashing takes no time
SETTLED = 2_000_000_000  # nanoseconds: a file that was just written may be written to again within one tick of its clock
MAX_RECORD = 1 << 20
Check = Literal["sha256", "finite"]


class Stamp(msgspec.Struct, frozen=True, array_like=True):
    """A file's state: it was not written to as long as all of this is the same."""

    device: int
    inode: int
    size: int
    written: int
    changed: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """Raises OSError where there is no such file."""
        found = path.stat()
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class Verified:
    """The record of one bundle. Threads may share it.

    Args:
        bundle: its folder.
        trusted: whether what an earlier process found counts.
    """

    def __init__(self, bundle: Path, trusted: bool = True) -> None:
        name = hashlib.sha256(os.fsencode(bundle.absolute())).hexdigest()[:32]
        self._file = user_cache_path("trt-var", appauthor=False) / "verified" / f"{name}.json"
        self._lock = threading.Lock()
        self._known: dict[str, Stamp] = self._read() if trusted else {}

    def holds(self, check: Check, path: Path, sha256: str) -> bool:
        """Whether a file is as it was when it passed a check."""
        found = self._known.get(f"{check} {path.name} {sha256}")
        return found is not None and found == Stamp.of(path)

    def keep(self, check: Check, path: Path, sha256: str, before: Stamp) -> None:
        """Remember that a file passed a check, if nothing wrote to it since ``before``, when the check began."""
        if before.size < LARGE or time.time_ns() - before.changed < SETTLED or Stamp.of(path) != before:
            return
        with self._lock:
            self._known[f"{check} {path.name} {sha256}"] = before
            try:
                self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with replacing(self._file) as file:
                    file.write(msgspec.json.encode(self._known))
            except (OSError, OutputError) as error:
                log.debug("no record of what was verified: %s", error)

    def _read(self) -> dict[str, Stamp]:
        try:
            data = self._file.read_bytes() if self._file.stat().st_size <= MAX_RECORD else b""
            return msgspec.json.decode(data, type=dict[str, Stamp])
        except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError):
            return {}
