"""What a command needs of its process, given back when it ends: notebooks and threads call ``main`` too."""

from __future__ import annotations

import io
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import NoReturn

PACKAGES = ("trt_var", "trt_var_export", "trt_var_calibration", "trt_var_training")


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does, so that it removes its unfinished files.

    Only in the main thread, the one that may handle signals; and a program's own handler is left alone.
    """
    mine = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if mine:
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        if mine:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


@contextmanager
def readable_streams() -> Iterator[None]:
    """What the terminal's encoding lacks is written as an escape."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream, errors in zip(streams, before, strict=True):
            with suppress(OSError, ValueError):  # this flushes; a stream that broke or was closed has been dealt with
                stream.reconfigure(errors=errors)


class _Messages:
    """Messages of this project's packages on standard error, from the first command that begins to the last that ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._undo = ExitStack()

    @contextmanager
    def shown(self, verbose: bool) -> Iterator[None]:
        """With ``verbose`` also those that say what is chosen and done.

        Other loggers and the root are left alone; a program that handles messages itself gets these too, once.
        """
        with self._lock:
            if not self._running:
                self._add_handler()
            if verbose:
                self._lower_levels()
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                if not self._running:
                    self._undo.close()

    def _add_handler(self) -> None:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
        for logger in map(logging.getLogger, PACKAGES):
            if not _heard(logger):
                logger.addHandler(handler)
                self._undo.callback(logger.removeHandler, handler)

    def _lower_levels(self) -> None:
        for logger in map(logging.getLogger, PACKAGES):
            self._undo.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.INFO)


def _heard(logger: logging.Logger) -> bool:
    """Whether some handler shows a logger's messages already."""
    handlers = [*logger.handlers, *(logging.getLogger().handlers if logger.propagate else ())]
    return any(not isinstance(handler, logging.NullHandler) for handler in handlers)


messages = _Messages()
