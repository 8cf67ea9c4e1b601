"""Graphs that are loaded side by side, and by the time that they are needed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from weakref import WeakSet

from trt_var.backends.base import Buffer, Graph

NAME = "trt-var-load"
PATIENCE = 60.0  # seconds that a fork waits
SETTLING = 0.2  # seconds more, until an engine's own threads have left that work
LOADERS = 2  # compiling is the work of one core, and hashing of another


class Deferred:
    """A graph that is being loaded; what runs it waits."""

    def __init__(self, loading: Future[Graph]) -> None:
        self._loading = loading
        _loading.add(loading)

    @property
    def failed(self) -> bool:
        """Whether loading it has ended with an error."""
        return self._loading.done() and (self._loading.cancelled() or self._loading.exception() is not None)

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        """As ``Graph.run``; also raises what loading it did."""
        self._loading.result().run(inputs, outputs)


class Loaders:
    """Threads for the graphs of one request, started with the first and gone after the last."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    def begin(self, load: Callable[[], Graph]) -> Deferred:
        """Load a graph in another thread."""
        self._pool = self._pool or ThreadPoolExecutor(LOADERS, thread_name_prefix=NAME)
        return Deferred(self._pool.submit(load))

    def end(self) -> None:
        """Nothing more will be loaded; what was begun goes on."""
        if self._pool:
            self._pool.shutdown(wait=False)


_loading: WeakSet[Future[Graph]] = WeakSet()


def _wait_for_loading() -> None:
    """Before a fork: a child that inherits a half loaded graph may wait for the threads that load it, at its very end."""
    pending = [loading for loading in list(_loading) if not loading.done()]
    if pending and not threading.current_thread().name.startswith(NAME):
        wait(pending, PATIENCE)
        time.sleep(SETTLING)


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(before=_wait_for_loading)
