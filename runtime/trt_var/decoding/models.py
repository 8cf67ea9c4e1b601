"""The models of a bundle on a backend, each loaded when it is first needed."""

from __future__ import annotations

import logging
import threading
import time

import numpy as np
from numpy.typing import NDArray

from trt_var.backends.base import Backend, Graph
from trt_var.bundle.manifest import Graph as Files
from trt_var.bundle.manifest import Manifest, Role
from trt_var.bundle.opening import Bundle
from trt_var.decoding.chain import Chain, Transformer
from trt_var.decoding.deferred import Deferred, Loaders
from trt_var.errors import UsageError

log = logging.getLogger(__name__)


class Models:
    """What a pipeline has loaded; threads may share it.

    Attributes:
        manifest: what the bundle holds, told of after closing, too.
        backend: what runs the graphs.
    """

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.manifest: Manifest = bundle.manifest
        self.backend = backend
        self._bundle: Bundle | None = bundle
        self._lock = threading.Lock()
        self._conditions: dict[Role, NDArray[np.floating]] = {}
        self._graphs: dict[str, Graph] = {}

    def _after_fork(self) -> None:
        """Called in a forked child: the parent's models are of no use there, and its lock may never be given back."""
        self._lock = threading.Lock()
        self._conditions, self._graphs = {}, {}
        if self._bundle:
            self._bundle = Bundle(self._bundle.path, self._bundle.manifest, source=self._bundle.source)

    def close(self) -> None:
        """Release them; passes that are under way finish."""
        with self._lock:
            self._bundle = None
            self._conditions.clear()
            self._graphs.clear()
            self.backend.close()

    @property
    def closed(self) -> bool:
        """Whether they were released."""
        return self._bundle is None

    def open(self) -> Bundle:
        """The bundle.

        Raises:
            UsageError: closed.
        """
        if self._bundle is None:
            raise UsageError("this pipeline is closed; load the bundle again")
        return self._bundle

    def chain(self, n_draft: int, smooth: bool = False, logits: bool = False) -> Chain:
        """The graphs of a decoding. With ``smooth``, or to see ``logits``, they are others, which hold the weights a second
        time if both are used.

        Graphs may still be loading when it is returned; those that turn out damaged raise when they are first run.

        Raises:
            UsageError: closed.
            BundleError: a file that is damaged.
            BackendError: a graph that the backend cannot load.
        """
        bundle, loaders = self.open(), Loaders()
        manifest = bundle.manifest
        used: dict[Role, bool] = {"drafter": n_draft > 0, "refiner": n_draft < len(manifest.schedule)}
        with self._lock:
            loaded = {role: self._transformer(role, smooth or logits, loaders) for role in used if used[role]}
            quantiser = tuple(self._load(graph, loaders, exact=True) for graph in manifest.quantiser)
            decoder = self._decoder(loaders)
            smoothing = tuple(self._load(graph, loaders, exact=True) for graph in manifest.smooth or () if smooth)
            loaders.end()
        return Chain(self.backend, manifest, loaded, quantiser, decoder, smoothing, bundle.source)

    def renderer(self) -> Chain:
        """A chain of the decoder alone. Errors as of ``chain``."""
        with self._lock:
            return Chain(self.backend, self.manifest, {}, (), self._decoder())

    def encoder(self) -> Graph:
        """The encoder. Errors as of ``chain``."""
        with self._lock:
            return self._load(self.manifest.encoder, exact=True)

    def _transformer(self, role: Role, logits: bool, loaders: Loaders) -> Transformer:
        """A model with its class table; the lock is held."""
        bundle = self.open()
        model = bundle.manifest.models[role]
        graph = model.logits if logits and model.logits else model.step
        step = self._load(graph, loaders)
        if role not in self._conditions:
            self._conditions[role] = bundle.conditions(role)
        return Transformer(step, self._conditions[role], model.depth, model.heads)

    def _decoder(self, loaders: Loaders | None = None) -> Graph:
        """In pieces of one image, every piece is as large."""
        return self._load(self.manifest.decoder, loaders, images=1 if self.backend.piece == 1 else None)

    def _load(self, graph: Files, loaders: Loaders | None = None, exact: bool = False, images: int | None = None) -> Graph:
        """Load a graph once, in another thread where the backend bears that; the lock is held."""
        found = self._graphs.get(graph.onnx)
        if found is None or (isinstance(found, Deferred) and found.failed):
            bundle, backend = self.open(), self.backend

            def load() -> Graph:
                started = time.monotonic()
                loaded = backend.load(bundle.graph(graph), exact=exact, images=images)
                log.debug("%s loaded in %.2f s", graph.onnx, time.monotonic() - started)
                return loaded

            found = loaders.begin(load) if loaders and backend.loads_aside else load()
            self._graphs[graph.onnx] = found
        return found
