"""Mapped files leave the process's memory, and can still be read."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest

from trt_var.backends.openvino import pages

SIZE = 8 << 20


def resident(path: Path) -> int:
    """Bytes of a file that are mapped and counted as this process's."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    starts = [i for i, line in enumerate(lines) if line.endswith(str(path))]
    return sum(int(lines[i + 2 :][0].split()[1]) << 10 if "Rss" in lines[i + 2] else _rss(lines, i) for i in starts)


def _rss(lines: list[str], start: int) -> int:
    return next(int(line.split()[1]) << 10 for line in lines[start:] if line.startswith("Rss:"))


@pytest.mark.skipif(sys.platform != "linux", reason="Linux counts so")
def test_given_back(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(256)) * (SIZE >> 8))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[:: mmap.PAGESIZE]) == 0
        assert resident(path) == SIZE
        pages.give_back([path])
        assert resident(path) == 0
        assert mapped[1000:1003] == bytes([1000 % 256, 1001 % 256, 1002 % 256])


@pytest.mark.skipif(sys.platform != "linux", reason="Linux counts so")
def test_what_is_written_to_stays(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(SIZE))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        mapped[5] = 7
        pages.give_back([path])
        assert mapped[5] == 7


def test_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "MAPS", tmp_path / "none")
    pages.give_back([tmp_path])
