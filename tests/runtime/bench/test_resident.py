"""Resident memory by kind."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
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


def wait_for(seen: Callable[[], object]) -> None:
    """Until the other thread has looked, which may take long on a busy machine."""
    end = time.monotonic() + 10
    while not seen() and time.monotonic() < end:
        time.sleep(resident.INTERVAL)


def test_peaks_of_either_kind_and_what_requests_add(tmp_path: Path) -> None:
    """64 MB held and let go before loading ends, half of it afterwards, and a mapped file that is read."""
    (tmp_path / "file").write_bytes(bytes(MEGABYTES))
    with Watch() as watch:
        before = resident.resident()
        held = np.ones(MEGABYTES, np.uint8)
        wait_for(lambda: watch._peak and watch._peak.anonymous - before.anonymous >= 0.98 * MEGABYTES)
        del held
        watch.loaded()
        held = np.ones(MEGABYTES // 2, np.uint8)
        wait_for(lambda: watch._since and watch._since.anonymous - watch._loaded.anonymous >= 0.48 * MEGABYTES)
        del held
        mapped = np.memmap(tmp_path / "file", np.uint8, "r")
        assert not mapped.any()
        peak, added = watch.peak, watch.added
    assert before and peak and added
    # a few pages may be given back meanwhile by anything else in the process
    assert 0.98 * MEGABYTES <= peak.anonymous - before.anonymous < 1.3 * MEGABYTES
    assert 0.98 * MEGABYTES <= peak.files - before.files < 1.3 * MEGABYTES
    assert 0.48 * MEGABYTES <= added < 0.8 * MEGABYTES
    assert highest() >= peak.anonymous
