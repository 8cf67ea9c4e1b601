"""What the process is given: memory, signals, loggers."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import Any

import pytest

from trt_var.serving import server


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
