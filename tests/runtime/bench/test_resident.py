"""Resident memory by kind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from trt_var.bench import resident
from trt_var.bench.resident import Resident, Watch, highest

MEGABYTES = 64 << 20


def test_what_the_system_says(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tkB 1 kB\nVmHWM:\t 90 kB\nRssAnon:\t 40 kB\nRssFile:\t 30 kB\nRssShmem:\t 2 kB\nThreads:\t3\n")
    assert resident.resident(status) == Resident(42 << 10, 30 << 10)
    assert highest(status) == 90 << 10


@pytest.mark.parametrize("content", [None, b"", b"RssAnon: 1 kB", b"RssAnon: x kB\nRssFile: 1 kB\nRssShmem: 1 kB", b"\xff"])
def test_a_system_that_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> None:
    status = tmp_path / "status"
    if content is not None:
        status.write_bytes(content)
    assert resident.resident(status) is None
    assert highest(status) > 1 << 20
    monkeypatch.setattr(resident, "resident", lambda: None)
    with Watch() as watch:
        watch.loaded()
    assert watch.peak is None
    assert watch.added is None


ALONE = """
import json, sys, time
import numpy as np
from trt_var.bench import resident

def wait_for(seen):
    end = time.monotonic() + 20
    while not seen() and time.monotonic() < end:
        time.sleep(resident.INTERVAL)

size = int(sys.argv[2])
with resident.Watch() as watch:
    before = resident.resident()
    held = np.ones(size, np.uint8)
    wait_for(lambda: watch._peak.anonymous - before.anonymous >= 0.98 * size)
    del held
    watch.loaded()
    held = np.ones(size // 2, np.uint8)
    wait_for(lambda: watch._since.anonymous - watch._loaded.anonymous >= 0.48 * size)
    del held
    mapped = np.memmap(sys.argv[1], np.uint8, "r")
    assert not mapped.any()
    peak, added = watch.peak, watch.added
print(json.dumps([peak.anonymous - before.anonymous, peak.files - before.files, added, resident.highest() - peak.anonymous]))
"""


def test_peaks_of_either_kind_and_what_requests_add(tmp_path: Path) -> None:
    """64 MB held and let go before loading ends, half of it afterwards, and a mapped file that is read.

    In a process of its own: in one that has run other tests, memory that they let go is taken again or given back meanwhile.
    """
    (tmp_path / "file").write_bytes(bytes(MEGABYTES))
    command = [sys.executable, "-c", ALONE, str(tmp_path / "file"), str(MEGABYTES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    anonymous, files, added, rest = json.loads(done.stdout)
    # a few pages are given back meanwhile or taken by the interpreter
    assert 0.98 * MEGABYTES <= anonymous < 1.3 * MEGABYTES
    assert 0.98 * MEGABYTES <= files < 1.3 * MEGABYTES
    assert 0.48 * MEGABYTES <= added < 0.8 * MEGABYTES
    assert rest >= 0
