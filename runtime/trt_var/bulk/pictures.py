"""Many images into a folder of picture files, for evaluators that read those: resumable as shards are."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trt_var.bulk.recipe import Bulk, Form
from trt_var.bulk.shards import Progress, fill
from trt_var.errors import DataError, OutputError, UsageError
from trt_var.pictures.reading import probe
from trt_var.pictures.writing import picture_name, save_folder
from trt_var.pipeline import Pipeline
from trt_var.requests.results import Generation

log = logging.getLogger(__name__)
SPAN = 400  # images that are lost at most when a run is killed; whole batches of all usual sizes


def sample_pictures(pipeline: Pipeline, bulk: Bulk, out: Path, progress: Progress | None = None) -> int:
    """Draw what is not there yet, one PNG an image, named by position, label and seed.

    Args:
        pipeline: draws them.
        bulk: what; ``shard`` means nothing here.
        out: a folder, new or of an earlier run of the same.
        progress: as of ``sample``.

    Returns:
        How many pictures lie in the folder: all that were asked for.

    Raises:
        UsageError: a value out of range; or the folder holds other images, or something else.
        OutputError: another process writes there, or the disk is full; what is finished stays. Or other pictures lie there.

    Example:
        >>> import tempfile
        >>> from trt_var import bulk
        >>> with tempfile.TemporaryDirectory() as out, Pipeline.load("digits") as pipeline:
        ...     bulk.sample_pictures(pipeline, bulk.Bulk(num=12), Path(out))
        12
    """
    if bulk.part is not None:
        raise UsageError("part is of shards; pictures are drawn all")
    fill(pipeline, replace(bulk, shard=SPAN), out, Pictures(out), progress)
    found = sum(1 for _ in out.glob("*.png"))
    if found != bulk.num:
        raise OutputError(f"{out} holds {found} pictures, {bulk.num} were drawn; take out what is not of them")
    return found


class Pictures:
    """A span some picture files."""

    form: Form = "pictures"

    def __init__(self, out: Path) -> None:
        self._out = out

    def holds(self, index: int, labels: NDArray[np.int64], seeds: NDArray[np.uint64]) -> bool:
        """Whether all pictures of a span are there and whole."""
        paths = [self._out / picture_name(i, *numbers) for i, numbers in enumerate(zip(labels, seeds, strict=True))]
        try:
            return all(path.exists() and probe(path) for path in paths)
        except DataError as error:
            log.warning("%s; it is drawn again", error)
            return False

    def write(self, index: int, made: Generation) -> None:
        """Write the pictures of a span."""
        save_folder(self._out, made.images, made.labels, made.seeds)
