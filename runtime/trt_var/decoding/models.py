"""The models of a bundle on a backend, each loaded when it is first needed."""

from __future__ import annotations

import threading

from trt_var.backends.base import Backend, Graph
from trt_var.bundle.manifest import Manifest, Role
from trt_var.bundle.opening import Bundle
from trt_var.decoding.loop import Chain, Transformer
from trt_var.errors import UsageError


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
        self._transformers: dict[tuple[Role, bool], Transformer] = {}
        self._graphs: dict[str, Graph] = {}

    def _after_fork(self) -> None:
        """Called in a forked child: the parent's models are of no use there, and its lock may never be given back."""
        self._lock = threading.Lock()
        self._transformers, self._graphs = {}, {}
        if self._bundle:
            self._bundle = Bundle(self._bundle.path, self._bundle.manifest)

    def close(self) -> None:
        """Release them; passes that are under way finish."""
        with self._lock:
            self._bundle = None
            self._transformers.clear()
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

    def chain(self, n_draft: int, smooth: bool = False) -> Chain:
        """The graphs of a decoding. With ``smooth`` they are others, which hold the weights a second time if both are used.

        Raises:
            UsageError: closed.
            BundleError: a file that is damaged.
            BackendError: a graph that the backend cannot load.
        """
        manifest = self.open().manifest
        used: dict[Role, bool] = {"drafter": n_draft > 0, "refiner": n_draft < len(manifest.schedule)}
        with self._lock:
            for role in (role for role in used if used[role]):
                if (role, smooth) not in self._transformers:
                    self._transformers[role, smooth] = self._load_transformer(role, smooth)
            quantiser = tuple(self._load(graph.onnx, exact=True) for graph in manifest.quantiser)
            decoder = self._load(manifest.decoder.onnx)
            smoothing = tuple(self._load(graph.onnx, exact=True) for graph in manifest.smooth or () if smooth)
            loaded = {role: model for (role, logits), model in self._transformers.items() if logits == smooth}
            return Chain(self.backend, manifest, loaded, quantiser, decoder, smoothing)

    def renderer(self) -> Chain:
        """A chain of the decoder alone. Errors as of ``chain``."""
        with self._lock:
            return Chain(self.backend, self.manifest, {}, (), self._load(self.manifest.decoder.onnx))

    def encoder(self) -> Graph:
        """The encoder. Errors as of ``chain``."""
        with self._lock:
            return self._load(self.manifest.encoder.onnx, exact=True)

    def _load_transformer(self, role: Role, smooth: bool) -> Transformer:
        bundle = self.open()
        model = bundle.manifest.models[role]
        conditions = bundle.conditions(role)
        step = self.backend.load(bundle.graph(model.logits if smooth and model.logits else model.step))
        return Transformer(step, conditions, model.depth, model.heads)

    def _load(self, name: str, exact: bool = False) -> Graph:
        """Load a graph of the VQVAE once; the lock is held."""
        if name not in self._graphs:
            bundle = self.open()
            manifest = bundle.manifest
            vqvae = (*manifest.quantiser, *(manifest.smooth or ()), manifest.decoder, manifest.encoder)
            graphs = {graph.onnx: graph for graph in vqvae}
            self._graphs[name] = self.backend.load(bundle.graph(graphs[name]), exact=exact)
        return self._graphs[name]
