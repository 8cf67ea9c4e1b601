"""The Python interface: load a bundle once, generate from any thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_var.backends import choosing as backends
from trt_var.backends import forks
from trt_var.backends.base import Backend, Graph
from trt_var.bundle.manifest import Manifest, Role
from trt_var.bundle.memory import DECODER_BATCH, MAX_BATCH
from trt_var.bundle.opening import Bundle
from trt_var.decoding.editing import check_images, check_mask, encode, psnr, region
from trt_var.decoding.loop import Chain, Transformer, decode, draw, render, upload
from trt_var.decoding.sampling import Sampling
from trt_var.errors import UsageError
from trt_var.reopening import Origin, reduce
from trt_var.requests.checking import Labels, Run, prepare
from trt_var.requests.results import Generation, Preview, Reconstruction

log = logging.getLogger(__name__)


class Pipeline:
    """A bundle on a backend.

    Safe to use from several threads at once: graphs are shared, everything else belongs to the call. Models are
    loaded when first needed, so the refiner costs nothing while only ``n_draft=K`` is asked for.

    In a forked child they are loaded again. Pickled or copied, a pipeline is opened again from its path (docs/embedding.md).

    Example:
        >>> with Pipeline.load("engines/d30-d16") as pipeline:
        ...     result = pipeline.generate([207, "otter"], seeds=[0, 1], n_draft=8)
        ...     result.to_pil()[0].save("retriever.png")
    """

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self._bundle: Bundle | None = bundle
        self._backend = backend
        self._lock = threading.Lock()
        self._transformers: dict[tuple[Role, bool], Transformer] = {}
        self._graphs: dict[str, Graph] = {}
        self._origin: Origin | None = None
        forks.follow(self)
        self._names = bundle.class_names()

    @classmethod
    def load(cls, path: str | Path, backend: str = "auto") -> Pipeline:
        """Open a bundle and check it.

        Args:
            path: the bundle's folder, or ``digits`` for the one inside the package.
            backend: ``auto``, ``tensorrt``, ``openvino`` or ``onnxruntime``.

        Raises:
            BundleError: missing, damaged or newer bundle.
            BackendError: the backend is not usable here.
        """
        bundle = Bundle.open(path)
        pipeline = cls(bundle, backends.create(backend, bundle))
        pipeline._origin = Origin.of(bundle, backend)
        return pipeline

    def __reduce__(self) -> tuple[Any, ...]:
        return reduce(type(self), self._origin, closed=self._bundle is None)

    def _after_fork(self) -> None:
        """Called in a forked child: the parent's models are of no use there, and its lock may never be given back."""
        self._lock = threading.Lock()
        self._transformers, self._graphs = {}, {}
        if self._bundle:
            self._bundle = Bundle(self._bundle.path, self._bundle.manifest)

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Release the loaded models; calls that are under way finish."""
        with self._lock:
            self._bundle = None
            self._transformers.clear()
            self._graphs.clear()
            self._backend.close()

    @property
    def manifest(self) -> Manifest:
        """What the bundle holds."""
        return self._open().manifest

    @property
    def backend(self) -> str:
        """Engine, version, device and precision in use."""
        return self._backend.description

    def free_memory(self) -> int | None:
        """Bytes that can still be allocated on the device; None for the host, and where the engine does not tell."""
        return self._backend.free_memory()

    def generate(
        self,
        labels: Labels,
        *,
        seeds: int | Sequence[int] = 0,
        n_draft: int | None = None,
        sampling: Sampling | str = "default",
        batch_size: int = 8,
        teacher: NDArray[np.integer] | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Generation:
        """Generate one image a label.

        An image depends on its own label, seed and the settings alone, never on the batch that it is in.

        Args:
            labels: class numbers or unambiguous names.
            seeds: one for each image, or the first of consecutive ones.
            n_draft: how many scales the drafter draws, 0 (plain refiner) to K (plain drafter); all but two if not given.
            sampling: settings, or the name of a preset (``default``, ``code``, ``var``).
            batch_size: how many images are drawn together.
            teacher: tokens [n, L] that later scales and the image are made of in place of the drawn ones, to compare
                backends or precisions on equal input; ``tokens`` of the result are still the drawn ones.
            progress: called with the number of images finished at once.

        Raises:
            UsageError: a value out of range; nothing has been computed.
            BackendError: the engine failed.
        """
        run = prepare(self.manifest, self._names, labels, seeds, n_draft, sampling, batch_size, teacher)
        return self._draw(run, batch_size, progress)

    def inpaint(
        self,
        image: NDArray[np.uint8],
        mask: NDArray[np.bool_],
        labels: Labels,
        *,
        seeds: int | Sequence[int] = 0,
        n_draft: int | None = None,
        sampling: Sampling | str = "default",
        batch_size: int = 8,
        raw: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> Generation:
        """Redraw a region of an image, once a label; of another class than the image's, that is editing.

        After every scale, f_hat outside the region is put back to the image's own (the VAR paper, zero-shot editing).

        Args:
            image: uint8 [H, W, 3] of the model's size; ``trt_var.pictures.reading.read_picture`` makes it of a file.
            mask: bool [H, W], True where the image is redrawn.
            labels, seeds, n_draft, sampling, batch_size, progress: see ``generate``.
            raw: return the decoder's pixels everywhere; else those outside the region are the image's own.

        Raises:
            UsageError: a value out of range; nothing has been computed.
            BackendError: the engine failed.
        """
        run = prepare(self.manifest, self._names, labels, seeds, n_draft, sampling, batch_size)
        check_images(image[None], self.manifest)
        check_mask(mask, self.manifest)
        _, f_hats = self._encode(image[None])
        drawn = self._draw(replace(run, region=region(mask, f_hats[:, 0], self.manifest)), batch_size, progress)
        return drawn if raw else replace(drawn, images=np.where(mask[:, :, None], drawn.images, image))

    def reconstruct(self, images: NDArray[np.uint8]) -> Reconstruction:
        """Encode images uint8 [n, H, W, 3] of the model's size and decode them again: the best that any tokens can do.

        Raises:
            UsageError: images of another shape or type, or more than a request may have.
            BackendError: the engine failed.
        """
        check_images(images, self.manifest)
        with self._lock:
            chain = Chain(self._backend, self.manifest, {}, (), self._load(self.manifest.decoder.onnx))
        found, tokens = [], []
        size = min(DECODER_BATCH, self._backend.padded(DECODER_BATCH))
        for start in range(0, len(images), size):
            piece = images[start : start + size]
            drawn, f_hats = self._encode(piece)
            pictures = self._backend.download(render(chain, self._backend.upload(f_hats[-1])))
            tokens.append(drawn.T[: len(piece)])
            found.append(pictures[: len(piece)])
        redrawn = np.concatenate(found)
        return Reconstruction(redrawn, np.concatenate(tokens).astype(np.uint16), psnr(redrawn, images))

    def _encode(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Tokens and f_hats of images; the last is repeated where the backend's batches are larger."""
        with self._lock:
            encoder = self._load(self.manifest.encoder.onnx, exact=True)
        fill = [min(i, len(images) - 1) for i in range(self._backend.padded(len(images)))]
        return encode(self._backend, encoder, self.manifest, images[fill])

    def _draw(self, run: Run, batch_size: int, progress: Callable[[int], object] | None) -> Generation:
        chain = self.chain(run.n_draft, run.sampling.more_smooth)
        images, tokens = [], []
        remaining = run
        while remaining.labels:
            batch = self._backend.padded(min(batch_size, len(remaining.labels)))
            size = min(batch, batch_size)
            chunk, remaining = remaining[:size], remaining[size:]
            drawn, pictures = draw(chain, chunk.request(chain.manifest, batch))
            tokens.append(drawn.T[: len(chunk.labels)])
            images.append(pictures[: len(chunk.labels)])
            if progress:
                progress(len(chunk.labels))
        return Generation(
            np.concatenate(images),
            np.concatenate(tokens).astype(np.uint16),
            *run.numbers,
        )

    def stream(
        self,
        labels: Labels,
        *,
        seeds: int | Sequence[int] = 0,
        n_draft: int | None = None,
        sampling: Sampling | str = "default",
    ) -> Iterator[Preview]:
        """As ``generate``, for one batch, yielding a preview after every scale; each costs one decoder run.

        Raises:
            UsageError: a value out of range, or more labels than one batch holds.
            BackendError: the engine failed.
        """
        run = prepare(self.manifest, self._names, labels, seeds, n_draft, sampling, MAX_BATCH)
        if len(run.labels) > MAX_BATCH:
            raise UsageError(f"{len(run.labels)} labels; stream takes at most {MAX_BATCH}, one batch")
        return self._stream(run)

    def _stream(self, run: Run) -> Iterator[Preview]:
        tokens: list[NDArray[np.uint16]] = []
        chain = self.chain(run.n_draft, run.sampling.more_smooth)
        scales, images_wanted = len(chain.manifest.schedule), len(run.labels)
        batch = self._backend.padded(images_wanted)
        if batch < images_wanted:
            raise UsageError(f"{images_wanted} labels; these engines take {batch} at once, and stream draws one batch")
        self._backend.check_room(run.n_draft, batch)
        for scale in decode(chain, run.n_draft, upload(chain, run.request(chain.manifest, batch))):
            tokens.append(self._backend.download(scale.tokens).T[:images_wanted].astype(np.uint16))
            images = self._backend.download(render(chain, scale.f_hat))[:images_wanted]
            seen = np.concatenate(tokens, axis=1)
            yield Preview(scale.index, scales, scale.role, images, seen, *run.numbers)

    def chain(self, n_draft: int, smooth: bool = False) -> Chain:
        """The loaded graphs of a decoding, for loops of one's own over ``trt_var.decoding.loop.decode``.

        With ``smooth`` they are others, which hold the weights a second time if both are used.
        """
        manifest = self.manifest
        used: dict[Role, bool] = {"drafter": n_draft > 0, "refiner": n_draft < len(manifest.schedule)}
        with self._lock:
            for role in (role for role in used if used[role]):
                if (role, smooth) not in self._transformers:
                    self._transformers[role, smooth] = self._load_transformer(role, smooth)
            quantiser = tuple(self._load(graph.onnx, exact=True) for graph in manifest.quantiser)
            decoder = self._load(manifest.decoder.onnx)
            smoothing = tuple(self._load(graph.onnx, exact=True) for graph in manifest.smooth or () if smooth)
            loaded = {role: model for (role, logits), model in self._transformers.items() if logits == smooth}
            return Chain(self._backend, manifest, loaded, quantiser, decoder, smoothing)

    def _load_transformer(self, role: Role, smooth: bool) -> Transformer:
        bundle = self._open()
        model = bundle.manifest.models[role]
        conditions = bundle.conditions(role)
        step = self._backend.load(bundle.graph(model.logits if smooth and model.logits else model.step))
        return Transformer(step, conditions, model.depth, model.heads)

    def _load(self, name: str, exact: bool = False) -> Graph:
        """Load a graph of the VQVAE once; the lock is held."""
        if name not in self._graphs:
            bundle = self._open()
            manifest = bundle.manifest
            vqvae = (*manifest.quantiser, *(manifest.smooth or ()), manifest.decoder, manifest.encoder)
            graphs = {graph.onnx: graph for graph in vqvae}
            self._graphs[name] = self._backend.load(bundle.graph(graphs[name]), exact=exact)
        return self._graphs[name]

    def _open(self) -> Bundle:
        if self._bundle is None:
            raise UsageError("this pipeline is closed; load the bundle again")
        return self._bundle
