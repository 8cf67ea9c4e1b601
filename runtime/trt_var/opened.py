"""A bundle on a backend: what it is and whether it is open, whatever is asked of it."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from trt_var.backends import forks
from trt_var.backends.base import Backend, described
from trt_var.bundle.manifest import Manifest
from trt_var.bundle.opening import Bundle
from trt_var.decoding.chain import Chain
from trt_var.decoding.editing import encode, region
from trt_var.decoding.models import Models
from trt_var.decoding.sampling import Sampling
from trt_var.pictures.given import as_image, as_mask
from trt_var.requests.checking import Kept, Labels, Run, Seeds, prepare
from trt_var.requests.provenance import is_exact, promise

if TYPE_CHECKING:
    from trt_var.pictures.given import ImageLike

Self = TypeVar("Self", bound="Opened")


class Opened:
    """Base of the pipeline."""

    def __init__(self, bundle: Bundle, backend: Backend, *, batch_invariant: bool = False) -> None:
        self._models, self._backend, self._alone = Models(bundle, backend), backend, batch_invariant
        forks.follow(self._models)
        self._names = tuple(bundle.class_names())

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Release the loaded models; calls that are under way finish."""
        self._models.close()

    @property
    def manifest(self) -> Manifest:
        """What the bundle holds."""
        return self._models.open().manifest

    @property
    def backend(self) -> str:
        """Engine, device, arithmetic and threads in use, and what may make an image differ from one batch to another."""
        return f"{described(self._backend)}; {promise(self._alone, self.exact)}"

    @property
    def class_names(self) -> tuple[str, ...]:
        """One line of comma-separated names a class, or nothing."""
        return self._names

    @property
    def engine(self) -> str:
        """Engine, version, device and arithmetic in use."""
        return self._backend.description

    @property
    def threads(self) -> int | None:
        """That the engine was given, on a CPU."""
        return self._backend.threads

    @property
    def backend_name(self) -> str:
        """As given to ``load``; which one ``auto`` took."""
        return self._backend.name

    @property
    def exact(self) -> bool:
        """Whether everything is computed in float32."""
        return is_exact(self._models.manifest, self.engine)

    @property
    def batch_invariant(self) -> bool:
        """Whether every image is drawn by itself."""
        return self._alone

    def free_memory(self) -> int | None:
        """Bytes that can still be allocated on the device; None for the host, and where the engine does not tell."""
        return self._backend.free_memory()

    def chain(self, n_draft: int, smooth: bool = False) -> Chain:
        """The loaded graphs for N = ``n_draft``, for loops of one's own over ``trt_var.decoding.loop.decode``.

        With ``smooth`` they are others, which hold the weights a second time if both are used.

        Example:
            >>> from trt_var import Pipeline
            >>> chain = Pipeline.load("digits").chain(n_draft=4)
            >>> sorted(chain.transformers), len(chain.quantiser)
            (['drafter', 'refiner'], 6)
        """
        return self._models.chain(n_draft, smooth)

    def prepare(
        self,
        labels: Labels,
        *,
        seeds: Seeds = 0,
        n_draft: int | None = None,
        sampling: Sampling | str = "default",
        batch_size: int = 8,
        teacher: NDArray[np.integer] | None = None,
    ) -> Run:
        """Check a request and draw nothing: for programs that gather requests first. Arguments: see ``Pipeline.generate``.

        Raises:
            UsageError: a value out of range.

        Example:
            >>> from trt_var import Pipeline
            >>> run = Pipeline.load("digits").prepare([7, "eight"], seeds=5)
            >>> run.labels, run.seeds, run.n_draft
            ((7, 8), (5, 6), 4)
        """
        return prepare(self.manifest, self._names, labels, seeds, n_draft, sampling, batch_size, teacher)

    def kept(self, image: ImageLike, mask: ImageLike) -> Kept:
        """What inpainting keeps of an image. Arguments and errors: see ``Pipeline.inpaint``.

        Example:
            >>> import numpy as np
            >>> from trt_var import Pipeline
            >>> kept = Pipeline.load("digits").kept(np.zeros((32, 32, 3), np.uint8), np.eye(32, dtype=bool))
            >>> int(kept.redrawn.sum()), kept.pixels.shape
            (32, (32, 32, 3))
        """
        side = self.manifest.image_side
        pixels, size = as_image(image, side)
        redrawn = as_mask(mask, size, side)
        _, f_hats = self._encode(pixels[None])
        return Kept(region(redrawn, f_hats[:, 0], self.manifest), redrawn, pixels)

    def chain_of(self, run: Run) -> Chain:
        """What ``run``, a checked request, needs: the refiner not at all where drawing ends before it would begin."""
        scales = len(self.manifest.schedule)
        early = run.n_draft >= run.scales(self.manifest)
        return self.chain(scales if early else run.n_draft, run.sampling.more_smooth)

    def _encode(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Tokens and f_hats of images; the last is repeated where the backend's batches are larger."""
        fill = [min(i, len(images) - 1) for i in range(self._backend.padded(len(images)))]
        return encode(self._backend, self._models.encoder(), self.manifest, images[fill])
