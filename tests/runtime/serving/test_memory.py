"""What a serving process does about its memory."""

from __future__ import annotations

import ctypes
import gc
import sys

import pytest

from trt_var.serving import memory


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_memory_is_bounded_where_the_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[int, int]] = []

    class Library:
        @staticmethod
        def mallopt(option: int, value: int) -> int:
            given.append((option, value))
            return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Library())
    memory.steady()
    assert given == list(memory.MALLOC.items())
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())  # musl's has none
    memory.steady()
    assert len(given) == len(memory.MALLOC)


def test_what_the_collector_was_told_is_taken_back() -> None:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    with pytest.raises(KeyError), memory.seldom_searched():
        assert gc.get_threshold() == memory.SELDOM and gc.get_freeze_count() > frozen
        raise KeyError
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)
