"""What the process is given: memory, signals, loggers."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import signal
import sys
from typing import Any

import pytest

from trt_var.serving import server


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_memory_is_bounded_where_the_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[int, int]] = []

    class Library:
        @staticmethod
        def mallopt(option: int, value: int) -> int:
            given.append((option, value))
            return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Library())
    server.steady_memory()
    assert given == list(server.MALLOC.items())
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())  # musl's has none
    server.steady_memory()
    assert len(given) == len(server.MALLOC)


def test_signals_where_loops_take_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows."""
    before, heard = signal.getsignal(signal.SIGUSR1), asyncio.Event()

    async def listen() -> None:
        loop = asyncio.get_running_loop()

        def refuse(*_: Any) -> None:
            raise NotImplementedError

        monkeypatch.setattr(loop, "add_signal_handler", refuse)
        server._listen(loop, signal.SIGUSR1, heard.set)
        signal.raise_signal(signal.SIGUSR1)
        await asyncio.wait_for(heard.wait(), 10)

    try:
        asyncio.run(listen())
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_what_clients_send_is_no_line_of_a_parser(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("trt_var", "uvicorn", "python_multipart")
    kept = {name: (logging.getLogger(name).handlers, logging.getLogger(name).propagate) for name in names}
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        server.log_to_stderr(True, logging.INFO)
        logging.getLogger("python_multipart.multipart").warning("Skipping 1 bytes after last boundary")
        logging.getLogger("trt_var.serving").info("ready")
    finally:
        for name in names:
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = kept[name]
            logger.setLevel(levels[name])
    told = capsys.readouterr().err
    assert "Skipping" not in told and '"message":"ready"' in told
