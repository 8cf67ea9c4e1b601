"""Graphs that are loaded side by side, and by the time that they are needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from trt_var.backends.base import Buffer, Graph

LOADERS = 2  # compiling is the work of one core, and hashing of another


class Deferred:
    """A graph that is being loaded; what runs it waits."""

    def __init__(self, loading: Future[Graph]) -> None:
        self._loading = loading

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
        self._pool = self._pool or ThreadPoolExecutor(LOADERS, thread_name_prefix="trt-var-load")
        return Deferred(self._pool.submit(load))

    def end(self) -> None:
        """Nothing more will be loaded; what was begun goes on."""
        if self._pool:
            self._pool.shutdown(wait=False)
