"""The Python interface: load a bundle once, generate from any thread."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trt_var.backends import choosing as backends
from trt_var.backends.base import Wishes
from trt_var.backends.failures import starving
from trt_var.bundle.memory import DECODER_BATCH, MAX_BATCH
from trt_var.bundle.opening import Bundle
from trt_var.decoding.editing import psnr
from trt_var.decoding.loop import render
from trt_var.decoding.sampling import Sampling
from trt_var.errors import UsageError
from trt_var.opened import Opened
from trt_var.pictures.given import as_images
from trt_var.reopening import Origin, reduce
from trt_var.requests.batches import draw_all, draw_scales, score_all
from trt_var.requests.checking import Labels, Run, Seeds, check_batch_size, prepare_scoring
from trt_var.requests.provenance import provenance_of
from trt_var.requests.results import Generation, Preview, Reconstruction, Scores

if TYPE_CHECKING:
    from trt_var.pictures.given import ImageLike

log = logging.getLogger(__name__)


class Pipeline(Opened):
    """A bundle on a backend.

    Safe to use from several threads at once: graphs are shared, everything else belongs to the call. Models are
    loaded when first needed, so the refiner costs nothing while only ``n_draft=K`` is asked for.

    In a forked child they are loaded again. Pickled or copied, a pipeline is opened again from its path (docs/embedding.md).

    Example:
        >>> with Pipeline.load("digits") as pipeline:
        ...     pipeline.generate([7, "eight"], seeds=[0, 1], n_draft=4).to_pil()[0].size
        (32, 32)
    """

    _origin: Origin | None = None

    @classmethod
    def load(
        cls,
        path: str | Path,
        backend: str = "auto",
        *,
        batch_invariant: bool = False,
        threads: int | None = None,
        keep_compiled: bool = False,
        warm: tuple[int | None, int] | None = None,
        verify: bool = False,
    ) -> Pipeline:
        """Open a bundle and check it.

        Args:
            path: the bundle's folder, or ``digits`` for the one inside the package; or an address on the Hugging Face hub,
                ``hf://owner/name``, ``hf://owner/name@revision`` or ``hf://owner/name@revision/folder``: what its manifest
                names is fetched into the hub's cache (extra ``hub``; docs/bundle.md).
            backend: ``auto``, ``tensorrt``, ``openvino`` or ``onnxruntime``; or ``exact``, float32 arithmetic on ONNX
                Runtime's CPU provider, what the golden vectors of the published models are compared with.
            batch_invariant: draw every image by itself, so that it is the same whatever is asked for beside it, in any
                order and number, in any arithmetic (docs/decoding.md). Slower where there are several.
            threads: that an engine on a CPU is given; all that the process may use if not given.
            keep_compiled: keep what OpenVINO compiles in the user's cache: later starts are shorter, for as much disk as the
                weights take (docs/backends.md).
            warm: ``n_draft`` and batch size of the requests to come, to be prepared for at once (see ``warm``).
            verify: hash large files even if they are as they were when they were last found whole.

        Raises:
            UsageError: a number out of range.
            BundleError: missing, damaged or newer bundle, or one that cannot be fetched.
            BackendError: the backend is not usable here, or not exact for this bundle.

        Example:
            >>> Pipeline.load("digits", "exact").class_names[7]
            'seven'
        """
        bundle = Bundle.open(path, verify=verify)
        wishes = Wishes(threads, keep_compiled)
        pipeline = cls(bundle, backends.create(backend, bundle, wishes), batch_invariant=batch_invariant)
        pipeline._origin = Origin.of(bundle, backend, batch_invariant, wishes)
        log.info("%s on %s", bundle.source or path, pipeline.backend)
        if warm is not None:
            pipeline.warm(*warm)
        return pipeline

    def __reduce__(self) -> tuple[Any, ...]:
        return reduce(type(self), self._origin, closed=self._models.closed)

    def warm(self, n_draft: int | None = None, batch_size: int = 1) -> None:
        """Load and compile what such requests need, and draw one for nothing: the next is as fast as any after it.

        Raises:
            UsageError: a value out of range.
            BundleError, BackendError: see ``generate``.
        """
        started = time.monotonic()
        self.generate([-1] * check_batch_size(batch_size), n_draft=n_draft, batch_size=batch_size)
        log.info("ready for batches of %d after %.1f s", batch_size, time.monotonic() - started)

    def generate(
        self,
        labels: Labels,
        *,
        seeds: Seeds = 0,
        n_draft: int | None = None,
        sampling: Sampling | str = "default",
        batch_size: int = 8,
        teacher: NDArray[np.integer] | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Generation:
        """Generate one image a label.

        An image depends on its own label, seed and the settings: in float32 its tokens do not depend on the batch that it is
        in, and its pixels by one step of 255 at most. In other arithmetic, rounding may depend on the size of the batch, and
        tokens with it, unless the pipeline is ``batch_invariant``.

        Args:
            labels: class numbers, Python's, NumPy's or a tensor's, or unambiguous names; -1 is no class in particular.
            seeds: one for each image, or the first of consecutive ones, 0 to 2^64 − 1; -1 for one drawn at random, which the
                result says.
            n_draft: how many scales the drafter draws, 0 (plain refiner) to K (plain drafter); all but two if not given.
            sampling: settings, or the name of a preset (``default``, ``code``, ``var``, ``cca``, ``ddo``).
            batch_size: how many images are drawn together.
            teacher: tokens [n, L] that later scales and the image are made of in place of the drawn ones, to compare
                backends or precisions on equal input; ``tokens`` of the result are still the drawn ones.
            progress: called with the number of images finished at once.

        Raises:
            UsageError: a value out of range; nothing has been computed.
            BackendError: the engine failed.

        Example:
            >>> drawn = Pipeline.load("digits").generate(["seven", 8], seeds=[1, 2], n_draft=4, sampling="code")
            >>> drawn.images.shape, drawn.tokens.shape, drawn.labels.tolist()
            ((2, 32, 32, 3), (2, 130), [7, 8])
        """
        run = self.prepare(labels, seeds=seeds, n_draft=n_draft, sampling=sampling, batch_size=batch_size, teacher=teacher)
        return self._draw(run, batch_size, progress)

    def inpaint(
        self,
        image: ImageLike,
        mask: ImageLike,
        labels: Labels,
        *,
        seeds: Seeds = 0,
        n_draft: int | None = None,
        sampling: Sampling | str = "default",
        batch_size: int = 8,
        raw: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> Generation:
        """Redraw a region of an image, once a label; of another class than the image's, that is editing.

        After every scale, f_hat outside the region is put back to the image's own (the VAR paper, zero-shot editing).

        Args:
            image: uint8 [H, W, 3] of the model's size, in an array, a tensor or lists; or a Pillow image or a file, which is
                centre-cropped and resized.
            mask: where the image is redrawn [H, W]: True, 1, 128 to 255, or 0.5 to 1.0; or a Pillow image or a file as large
                as the image, white where redrawn.
            labels, seeds, n_draft, sampling, batch_size, progress: see ``generate``.
            raw: return the decoder's pixels everywhere; else those outside the region are the image's own.

        Raises:
            UsageError: a value out of range; nothing has been computed.
            DataError: a file that cannot be read.
            BackendError: the engine failed.

        Example:
            >>> pipeline, right = Pipeline.load("digits"), np.arange(32) >= 16
            >>> seven = pipeline.generate(7).images[0]
            >>> redrawn = pipeline.inpaint(seven, np.tile(right, (32, 1)), labels=[7, 7], seeds=3).images
            >>> redrawn.shape, bool((redrawn[:, :, :16] == seven[:, :16]).all())
            ((2, 32, 32, 3), True)
        """
        run = self.prepare(labels, seeds=seeds, n_draft=n_draft, sampling=sampling, batch_size=batch_size)
        kept = self.kept(image, mask)
        drawn = self._draw(replace(run, region=kept.region), batch_size, progress)
        return drawn if raw else replace(drawn, images=kept.over(drawn.images))

    @starving("reconstructing failed")
    def reconstruct(self, images: ImageLike | Sequence[ImageLike]) -> Reconstruction:
        """Encode images and decode them again: the best that any tokens can do.

        Args:
            images: any number, uint8 [n, H, W, 3] of the model's size in an array, a tensor or lists; or Pillow images or
                files, which are centre-cropped and resized. A few at a time are computed; only the result grows with them.

        Raises:
            UsageError: images of another shape or type, or none.
            DataError: a file that cannot be read.
            BackendError: the engine failed.

        Example:
            >>> pipeline = Pipeline.load("digits")
            >>> bool((pipeline.reconstruct(pipeline.generate([7, 8]).images).psnr > 15).all())  # dB
            True
        """
        pixels = as_images(images, self.manifest.image_side)
        chain = self._models.renderer()
        redrawn, tokens = np.empty_like(pixels), []
        size = 1 if self._alone else min(DECODER_BATCH, self._backend.padded(DECODER_BATCH))
        for piece in (slice(start, start + size) for start in range(0, len(pixels), size)):
            drawn, f_hats = self._encode(pixels[piece])
            count = len(pixels[piece])
            redrawn[piece] = self._backend.download(render(chain, self._backend.upload(f_hats[-1])))[:count]
            tokens.append(drawn.T[:count])
        return Reconstruction(redrawn, np.concatenate(tokens).astype(np.uint16), psnr(redrawn, pixels))

    @starving("scoring failed")
    def score(
        self,
        images: ImageLike | Sequence[ImageLike],
        labels: Labels | None = None,
        *,
        n_draft: int | None = None,
        batch_size: int = 8,
        progress: Callable[[int], object] | None = None,
    ) -> Scores:
        """The log-likelihood of pictures under classes: a classifier, or a sieve for data.

        Pictures go through the encoder; their tokens are then judged without guidance, each scale given those before it, by
        the drafter's first ``n_draft`` scales and the refiner's others.

        Args:
            images: see ``reconstruct``.
            labels: the classes, numbers or names; all that the bundle has if not given.
            n_draft, batch_size: see ``generate``; a batch holds pairs of a picture and a class.
            progress: called with the number of pairs finished at once.

        Raises:
            UsageError: a value out of range, or a quantised bundle, whose graphs return no logits.
            DataError: a file that cannot be read.
            BackendError: the engine failed.

        Example:
            >>> pipeline = Pipeline.load("digits")
            >>> pipeline.score(pipeline.generate(["seven", "eight"]).images).likeliest.tolist()
            [7, 8]
        """
        run = prepare_scoring(self.manifest, self._names, labels, n_draft, batch_size)
        pixels = as_images(images, self.manifest.image_side)
        tokens = [self._encode(pixels[i : i + 1])[0][:, 0] for i in range(len(pixels))]
        chain = self._models.chain(run.n_draft, logits=True)
        nats = score_all(chain, run, np.stack(tokens, 1), 1 if self._alone else batch_size, progress)
        return Scores(np.array(run.labels, np.int64), nats, np.stack(tokens).astype(np.uint16))

    def _draw(self, run: Run, batch_size: int, progress: Callable[[int], object] | None) -> Generation:
        batch_size = 1 if self._alone else check_batch_size(batch_size)
        chain = self.chain_of(run)
        images, tokens = draw_all(chain, run, batch_size, self._alone, progress)
        return Generation(images, tokens, *run.numbers, provenance_of(chain, run, batch_size, self._alone))

    def stream(
        self,
        labels: Labels,
        *,
        seeds: Seeds = 0,
        n_draft: int | None = None,
        sampling: Sampling | str = "default",
    ) -> Iterator[Preview]:
        """As ``generate``, for one batch, yielding a preview after every scale; each costs one decoder run.

        Raises:
            UsageError: a value out of range, or more labels than one batch holds.
            BackendError: the engine failed.

        Example:
            >>> [(preview.role, preview.tokens.shape[1]) for preview in Pipeline.load("digits").stream(7, n_draft=4)]
            [('drafter', 1), ('drafter', 5), ('drafter', 14), ('drafter', 30), ('refiner', 66), ('refiner', 130)]
        """
        run = self.prepare(labels, seeds=seeds, n_draft=n_draft, sampling=sampling, batch_size=MAX_BATCH)
        if len(run.labels) > MAX_BATCH:
            raise UsageError(f"{len(run.labels)} labels; stream takes at most {MAX_BATCH}, one batch")
        return self._stream(run)

    def _stream(self, run: Run) -> Iterator[Preview]:
        chain = self.chain_of(run)
        provenance = provenance_of(chain, run, 1 if self._alone else len(run.labels), self._alone)
        scales, tokens = run.scales(chain.manifest), np.empty((len(run.labels), 0), np.uint16)
        for scale, images, drawn in draw_scales(chain, run, self._alone):
            tokens = np.concatenate([tokens, drawn], axis=1)
            yield Preview(scale.index, scales, scale.role, images, tokens, *run.numbers, provenance)
