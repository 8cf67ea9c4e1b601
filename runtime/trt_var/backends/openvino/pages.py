"""Memory of files that were mapped to be read once."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Collection
from pathlib import Path

log = logging.getLogger(__name__)
MADV_DONTNEED = 4  # the same number on every Linux
MAPS = Path("/proc/self/maps")


def give_back(files: Collection[Path]) -> None:
    """Take the pages of mapped files out of this process; whoever reads there again finds them in the file.

    Once an engine has packed the weights for its kernels, those of the file would be counted as this process's for nothing.
    Only where the system is Linux; elsewhere nothing happens.
    """
    if not MAPS.exists():
        return
    wanted = {os.path.realpath(file) for file in files}
    libc = ctypes.CDLL(None, use_errno=True)
    for line in MAPS.read_text(errors="replace").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) < 6 or fields[5] not in wanted or "w" in fields[1]:
            continue
        start, stop = (int(number, 16) for number in fields[0].split("-"))
        if libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), MADV_DONTNEED):
            log.debug("pages of %s stay: %s", fields[5], os.strerror(ctypes.get_errno()))
