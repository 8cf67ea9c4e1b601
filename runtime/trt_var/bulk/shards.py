"""Many images into a folder of shards: resumable, and the same whatever interrupted it."""

from __future__ import annotations

import logging
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trt_var.bulk.recipe import LOCK, Bulk, Form, agreed_positions
from trt_var.bundle.manifest import Manifest
from trt_var.errors import OutputError
from trt_var.files import arrays
from trt_var.files.locking import locked
from trt_var.files.paths import AnyPath, expanded, followed, is_unfinished
from trt_var.files.writing import replacing
from trt_var.pipeline import Pipeline
from trt_var.requests.checking import check_series
from trt_var.requests.mixing import by_class
from trt_var.requests.results import Generation

log = logging.getLogger(__name__)
Progress = Callable[[int], object]


class Store(Protocol):
    """How a span of images is kept in a folder."""

    form: Form

    def holds(self, index: int, labels: NDArray[np.int64], seeds: NDArray[np.uint64]) -> bool:
        """Whether the span is there, whole; what is not is drawn again."""
        ...

    def write(self, index: int, drawn: Generation) -> None:
        """Keep a span, whole or not at all."""
        ...


def sample(pipeline: Pipeline, bulk: Bulk, out: AnyPath, progress: Progress | None = None) -> list[Path]:
    """Draw what is not there yet: ``shard-00000.npz`` … with images, tokens, labels and seeds, each whole or absent.

    A folder that an earlier version began, sorted by class, is finished in that order.

    Args:
        pipeline: draws them.
        bulk: what.
        out: a folder, new or of an earlier run of the same.
        progress: called with the number of images that are there, then with those finished at once.

    Returns:
        The shards, in order.

    Raises:
        UsageError: a value out of range; or the folder holds other images, or something else.
        OutputError: another process writes there, or the disk is full; what is finished stays.
    """
    out = expanded(out)
    store = Shards(out, pipeline.manifest)
    fill(pipeline, bulk, out, store, progress)
    return [store.path(index) for index in range(len(bulk.spans()))]


def fill(pipeline: Pipeline, bulk: Bulk, out: Path, store: Store, progress: Progress | None = None) -> None:
    """Draw the spans that a store in the folder does not hold yet. Arguments and errors as of ``sample``."""
    ends = (bulk.seed, bulk.seed + bulk.num - 1)
    checked = check_series(pipeline.manifest, ends, bulk.n_draft, bulk.sampling, bulk.batch_size)
    with _claimed(out):
        positions = agreed_positions(pipeline, bulk, checked, store.form, out)
        labels = by_class(bulk.num, pipeline.manifest.classes)[positions]
        for index, span in enumerate(bulk.spans()):
            seeds = [bulk.seed + place for place in positions[span].tolist()]
            if store.holds(index, labels[span], np.array(seeds, np.uint64)):
                if progress:
                    progress(len(seeds))
                continue
            drawn = pipeline.generate(
                labels[span].tolist(),
                seeds=seeds,
                n_draft=bulk.n_draft,
                sampling=checked.sampling,
                batch_size=bulk.batch_size,
                progress=progress,
            )
            store.write(index, drawn)


class Shards:
    """A span an npz file."""

    form: Form = "shards"

    def __init__(self, out: Path, manifest: Manifest) -> None:
        self._out, self._manifest = out, manifest

    def path(self, index: int) -> Path:
        """The file of a span."""
        return self._out / f"shard-{index:05d}.npz"

    def holds(self, index: int, labels: NDArray[np.int64], seeds: NDArray[np.uint64]) -> bool:
        """Whether a shard is there with all its arrays, of the expected labels and seeds."""
        path, manifest = self.path(index), self._manifest
        if not path.exists():
            return False
        count, side, length = len(seeds), manifest.image_side, sum(side**2 for side in manifest.schedule)
        expected = {
            "images": ((count, side, side, 3), ("uint8",)),
            "tokens": ((count, length), ("uint16",)),
            "labels": ((count,), ("int64",)),
            "seeds": ((count,), ("uint64",)),
        }
        reason: object = "not what was written"
        try:
            arrays.check_npz(path, expected)
            with zipfile.ZipFile(path) as archive, np.load(path, allow_pickle=False) as found:
                right = np.array_equal(found["labels"], labels) and np.array_equal(found["seeds"], seeds)
                if right and archive.testzip() is None:
                    return True
        except arrays.UNREADABLE as error:
            reason = error
        log.warning("%s is damaged (%s) and drawn again", path, reason)
        return False

    def write(self, index: int, drawn: Generation) -> None:
        """Write a shard."""
        with replacing(self.path(index)) as file:
            kept = {"images": drawn.images, "tokens": drawn.tokens, "labels": drawn.labels, "seeds": drawn.seeds}
            np.savez(file, **kept)  # type: ignore[arg-type]  # numpy's stub takes the arrays for a flag


@contextmanager
def _claimed(out: Path) -> Iterator[None]:
    """The folder for this process alone, cleared of what a killed one left unfinished."""
    try:
        followed(out).mkdir(parents=True, exist_ok=True)
        with locked(out / LOCK):
            for partial in out.iterdir():
                if partial.is_dir() and is_unfinished(partial.name):
                    shutil.rmtree(partial, ignore_errors=True)
                elif partial.name.startswith(".shard-"):
                    partial.unlink()
            yield
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror or error}") from error
