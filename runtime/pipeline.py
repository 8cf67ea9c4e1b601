"""The Python interface: load a bundle once, generate from any thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from trt_var import backends, labels
from trt_var.backends.base import Backend, Graph
from trt_var.bundle import Bundle
from trt_var.decoding import Chain, Request, Transformer, decode, draw, render, upload
from trt_var.errors import UsageError
from trt_var.manifest import Manifest, Role, default_n_draft
from trt_var.sampling import Sampling, preset, uniforms

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

MAX_IMAGES = 4096
MAX_BATCH = 256
MAX_SEED = 2**63 - 1
Labels = int | str | Sequence[int | str]


@dataclass(frozen=True)
class Generation:
    """Generated images.

    Attributes:
        images: uint8 [n, H, W, 3].
        tokens: uint16 [n, L], every scale's token map, smallest scale first.
        labels: int64 [n].
        seeds: uint64 [n].
    """

    images: NDArray[np.uint8]
    tokens: NDArray[np.uint16]
    labels: NDArray[np.int64]
    seeds: NDArray[np.uint64]

    def to_pil(self) -> list[Image]:
        """The images as Pillow images."""
        from PIL import Image

        return [Image.fromarray(pixels) for pixels in self.images]


@dataclass(frozen=True)
class Preview:
    """The state after one scale.

    Attributes:
        scale: the scale just drawn, from 0.
        scales: how many there are.
        role: the model that drew it.
        images: uint8 [n, H, W, 3], what is known so far; after the last scale, the result.
        tokens: uint16 [n, tokens so far].
    """

    scale: int
    scales: int
    role: Role
    images: NDArray[np.uint8]
    tokens: NDArray[np.uint16]


class Pipeline:
    """A bundle on a backend.

    Safe to use from several threads at once: graphs are shared, everything else belongs to the call. Models are
    loaded when first needed, so the refiner costs nothing while only ``n_draft=K`` is asked for.

    Example:
        >>> with Pipeline.load("engines/d30-d16") as pipeline:
        ...     result = pipeline.generate([207, "otter"], seeds=[0, 1], n_draft=8)
        ...     result.to_pil()[0].save("retriever.png")
    """

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self._bundle: Bundle | None = bundle
        self._backend = backend
        self._lock = threading.Lock()
        self._transformers: dict[Role, Transformer] = {}
        self._graphs: dict[str, Graph] = {}
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
        return cls(bundle, backends.create(backend, bundle))

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
        run = self._prepare(labels, seeds, n_draft, sampling, batch_size, teacher)
        chain = self._chain(run.n_draft)
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
            np.array(run.labels, np.int64),
            np.array(run.seeds, np.uint64),
        )

    def stream(
        self,
        labels: Labels,
        *,
        seeds: int | Sequence[int] = 0,
        n_draft: int | None = None,
        sampling: Sampling | str = "default",
    ) -> Iterator[Preview]:
        """As ``generate``, for one batch, yielding a preview after every scale; each costs one decoder run."""
        run = self._prepare(labels, seeds, n_draft, sampling, MAX_BATCH)
        if len(run.labels) > MAX_BATCH:
            raise UsageError(f"{len(run.labels)} labels; stream takes at most {MAX_BATCH}, one batch")
        return self._stream(run)

    def _stream(self, run: _Run) -> Iterator[Preview]:
        tokens: list[NDArray[np.uint16]] = []
        chain = self._chain(run.n_draft)
        scales = len(chain.manifest.schedule)
        request = run.request(chain.manifest, len(run.labels))
        for scale in decode(chain, run.n_draft, upload(chain, request)):
            tokens.append(self._backend.download(scale.tokens).T.astype(np.uint16))
            images = self._backend.download(render(chain, scale.f_hat))
            yield Preview(scale.index, scales, scale.role, images, np.concatenate(tokens, axis=1))

    def _prepare(
        self,
        wanted: Labels,
        seeds: int | Sequence[int],
        n_draft: int | None,
        sampling: Sampling | str,
        batch_size: int,
        teacher: NDArray[np.integer] | None = None,
    ) -> _Run:
        manifest = self.manifest
        scales = len(manifest.schedule)
        listed = [wanted] if isinstance(wanted, (int, str)) else list(wanted)
        if not 1 <= len(listed) <= MAX_IMAGES:
            raise UsageError(f"{len(listed)} labels; expected 1 to {MAX_IMAGES} a request")
        if not 1 <= batch_size <= MAX_BATCH:
            raise UsageError(f"batch_size is {batch_size}; expected 1 to {MAX_BATCH}")
        numbers = range(seeds, seeds + len(listed)) if isinstance(seeds, int) else seeds
        if len(numbers) != len(listed):
            raise UsageError(
                f"{len(numbers)} seeds for {len(listed)} labels; give one each, or the first of consecutive ones"
            )
        if not all(0 <= seed <= MAX_SEED for seed in numbers):
            raise UsageError(f"seeds must lie in 0 to {MAX_SEED}")
        n_draft = default_n_draft(manifest) if n_draft is None else n_draft
        _check_n_draft(n_draft, manifest)
        chosen = preset(sampling, scales, manifest.vocabulary) if isinstance(sampling, str) else sampling
        chosen.check(scales, manifest.max_top_k)
        _check_teacher(teacher, len(listed), manifest)
        numbered = labels.resolve(listed, self._names, manifest.classes)
        return _Run(tuple(numbered), tuple(numbers), n_draft, chosen, teacher)

    def _chain(self, n_draft: int) -> Chain:
        manifest = self.manifest
        used: dict[Role, bool] = {"drafter": n_draft > 0, "refiner": n_draft < len(manifest.schedule)}
        with self._lock:
            for role in (role for role in used if used[role]):
                if role not in self._transformers:
                    self._transformers[role] = self._load_transformer(role)
            quantiser = tuple(self._load(graph.onnx, exact=True) for graph in manifest.quantiser)
            decoder = self._load(manifest.decoder.onnx)
            return Chain(self._backend, manifest, dict(self._transformers), quantiser, decoder)

    def _load_transformer(self, role: Role) -> Transformer:
        bundle = self._open()
        model = bundle.manifest.models[role]
        conditions = bundle.conditions(role)
        step = self._backend.load(bundle.graph(model.step))
        return Transformer(step, conditions, model.depth, model.heads)

    def _load(self, name: str, exact: bool = False) -> Graph:
        """Load a graph of the VQVAE once; the lock is held."""
        if name not in self._graphs:
            bundle = self._open()
            graphs = {g.onnx: g for g in (*bundle.manifest.quantiser, bundle.manifest.decoder, bundle.manifest.encoder)}
            self._graphs[name] = self._backend.load(bundle.graph(graphs[name]), exact=exact)
        return self._graphs[name]

    def _open(self) -> Bundle:
        if self._bundle is None:
            raise UsageError("this pipeline is closed; load the bundle again")
        return self._bundle


@dataclass(frozen=True)
class _Run:
    """A checked request of any number of images."""

    labels: tuple[int, ...]
    seeds: tuple[int, ...]
    n_draft: int
    sampling: Sampling
    teacher: NDArray[np.integer] | None = None

    def __getitem__(self, images: slice) -> _Run:
        teacher = None if self.teacher is None else self.teacher[images]
        return _Run(self.labels[images], self.seeds[images], self.n_draft, self.sampling, teacher)

    def request(self, manifest: Manifest, batch: int) -> Request:
        """For a batch that may be larger: its last image is then repeated."""
        fill = [min(i, len(self.labels) - 1) for i in range(batch)]
        numbers = uniforms(self.seeds, sum(side**2 for side in manifest.schedule))[:, fill]
        teacher = None if self.teacher is None else self.teacher.T[:, fill]
        return Request(tuple(self.labels[i] for i in fill), numbers, self.n_draft, self.sampling, teacher)


def _check_teacher(teacher: NDArray[np.integer] | None, images: int, manifest: Manifest) -> None:
    if teacher is None:
        return
    expected = (images, sum(side**2 for side in manifest.schedule))
    if teacher.shape != expected or teacher.dtype.kind not in "iu":
        raise UsageError(f"teacher has shape {teacher.shape} {teacher.dtype}; expected whole numbers {expected}")
    if teacher.min() < 0 or teacher.max() >= manifest.vocabulary:
        raise UsageError(f"teacher's tokens must lie in 0 to {manifest.vocabulary - 1}")


def _check_n_draft(n_draft: int, manifest: Manifest) -> None:
    scales = len(manifest.schedule)
    if n_draft in manifest.serves:
        return
    if not 0 <= n_draft <= scales:
        raise UsageError(f"n_draft is {n_draft}; expected 0 to {scales}")
    if "refiner" not in manifest.models:
        raise UsageError(
            f"n_draft is {n_draft}, but this bundle has no refiner; it draws all {scales} scales with the drafter"
        )
    served = ", ".join(map(str, manifest.serves))
    raise UsageError(f"n_draft is {n_draft}, but this pair was fine-tuned for N = {served} and serves no other")
