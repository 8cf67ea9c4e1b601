"""Samples for published evaluators: series of labels and seeds, and the ADM evaluator's file."""

from __future__ import annotations

import math
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trt_var.decoding.numbers import whole
from trt_var.decoding.sampling import Sampling
from trt_var.errors import OutputError, UsageError
from trt_var.files.writing import replacing
from trt_var.pipeline import Pipeline
from trt_var.requests.checking import check_series
from trt_var.requests.mixing import mixed
from trt_var.requests.results import Generation

Progress = Callable[[int], object]
PIECE = 512  # images in memory at a time
MAX_SERIES = 1_000_000


@dataclass(frozen=True)
class Series:
    """Images of every class in turn, with consecutive seeds.

    Attributes:
        n_draft: how many scales the drafter draws.
        per_class: images of each class.
        seed: of the first image.
        sampling: settings.
        batch_size: images drawn together.
    """

    n_draft: int
    per_class: int
    seed: int = 0
    sampling: Sampling | str = "default"
    batch_size: int = 50

    def __post_init__(self) -> None:
        for name in ("per_class", "batch_size", "seed"):
            object.__setattr__(self, name, whole(getattr(self, name), name))  # NumPy's would overflow
        if self.per_class < 1 or self.batch_size < 1:
            raise UsageError(f"per_class is {self.per_class}, batch_size is {self.batch_size}; expected 1 or more")

    def check(self, pipeline: Pipeline, rounds: int = 1) -> None:
        """Look at all that ``draw`` will ask for, and at the seeds of further rounds, without drawing.

        Raises:
            UsageError: the first value that cannot be meant.
        """
        last = self.seed + rounds * len(self.labels(pipeline)) - 1
        check_series(pipeline.manifest, (self.seed, last), self.n_draft, self.sampling, self.batch_size)

    def labels(self, pipeline: Pipeline) -> NDArray[np.int64]:
        """The class of every image.

        Raises:
            UsageError: more images than a series may have.
        """
        total = self.per_class * pipeline.manifest.classes
        if total > MAX_SERIES:
            raise UsageError(f"{self.per_class} images of every class are {total}; expected at most {MAX_SERIES}")
        return np.repeat(np.arange(pipeline.manifest.classes), self.per_class)

    def draw(
        self, pipeline: Pipeline, progress: Progress | None = None, order: NDArray[np.int64] | None = None
    ) -> Iterator[Generation]:
        """In pieces that fit in memory, the images in turn or in another order, given as their positions in the series."""
        labels, batch = self.labels(pipeline), self.batch_size
        size = max(1, PIECE // batch) * batch
        order = np.arange(len(labels)) if order is None else order
        for start in range(0, len(labels), size):
            positions = order[start : start + size]
            yield pipeline.generate(
                labels[positions].tolist(),
                seeds=[self.seed + position for position in positions.tolist()],
                n_draft=self.n_draft,
                sampling=self.sampling,
                batch_size=batch,
                progress=progress,
            )


def write_adm(path: Path, pipeline: Pipeline, series: Series, progress: Progress | None = None) -> None:
    """Write the file that ADM's evaluator takes: ``arr_0``, uint8 [n, H, W, 3], streamed, so that 50 000 fit.

    The images come in the order of ``requests.mixing``: the evaluator takes its Inception Score over runs of 5000, which
    hold few classes when they are sorted. VAR's and CoDe's protocols are 50 images of each of ImageNet's 1000 classes under
    ``--preset var`` and ``code``.

    Raises:
        OutputError: the file cannot be written; nothing is left behind.
    """
    num = len(series.labels(pipeline))
    drawn = (piece.images for piece in series.draw(pipeline, progress, mixed(num, pipeline.manifest.classes)))
    write_images(path, num, pipeline.manifest.image_side, drawn)


def write_images(path: Path, num: int, side: int, pieces: Iterable[NDArray[np.uint8]]) -> None:
    """Write ``num`` images that come in pieces [n, side, side, 3] as ``arr_0`` of an npz, one piece in memory at a time.

    Raises:
        OutputError: there is no room for it, told before the first piece; the file cannot be written, or other images came
            than ``num`` of that size; nothing is left behind.
    """
    shape, written = (num, side, side, 3), 0
    check_room(path, math.prod(shape))
    with (
        replacing(path) as file,
        zipfile.ZipFile(file, "w") as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as array,
    ):
        np.lib.format.write_array_header_1_0(array, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for images in pieces:
            if images.dtype != np.uint8 or images.shape[1:] != shape[1:]:
                raise OutputError(
                    f"cannot write {path}: images of shape {images.shape} {images.dtype}, expected {shape} uint8"
                )
            array.write(np.ascontiguousarray(images).data)
            written += len(images)
        if written != num:
            raise OutputError(f"cannot write {path}: {written} images came, expected {num}")


def check_room(path: Path, size: int) -> None:
    """Refuse a file of ``size`` bytes that the file system of ``path`` has no room for.

    Raises:
        OutputError: there is less.
    """
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError:  # no such folder, not permitted: writing says so
        return
    if free < size:
        raise OutputError(f"cannot write {path}: it takes {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free there")
