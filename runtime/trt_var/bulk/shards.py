"""Many images into a folder of shards: resumable, and the same whatever interrupted it."""

from __future__ import annotations

import logging
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trt_var.bulk.probing import drawer_of, probe
from trt_var.bulk.recipe import LOCK, RECIPE, Bulk, Form, Recipe, Series, agreed, recipe_of
from trt_var.bundle.manifest import Manifest
from trt_var.decoding.sampling import Sampling
from trt_var.errors import OutputError
from trt_var.files import arrays
from trt_var.files.locking import locked
from trt_var.files.paths import AnyPath, expanded, followed, is_unfinished
from trt_var.files.writing import replacing
from trt_var.pipeline import Pipeline
from trt_var.requests.checking import Run, check_series
from trt_var.requests.results import Generation
from trt_var.schedule import Schedule

log = logging.getLogger(__name__)
Progress = Callable[[int], object]


class Store(Protocol):
    """How a span of images is kept in a folder."""

    form: Form

    def holds(self, index: int, labels: NDArray[np.int64], seeds: NDArray[np.uint64]) -> bool:
        """Whether the span is there, whole; what is not is drawn again."""
        ...

    def write(self, index: int, made: Generation) -> None:
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
        The shards, in order; of a part, its own.

    Raises:
        UsageError: a value out of range; or the folder holds other images, or something else.
        OutputError: another process writes there, or the disk is full; what is finished stays.

    Example:
        >>> import tempfile
        >>> from trt_var import Pipeline, bulk
        >>> with tempfile.TemporaryDirectory() as out, Pipeline.load("digits") as pipeline:
        ...     shards = bulk.sample(pipeline, bulk.Bulk(num=20, shard=16), out)
        ...     [path.name for path in shards], sum(len(images) for images in bulk.read_images(shards))
        (['shard-00000.npz', 'shard-00001.npz'], 20)
    """
    out = expanded(out)
    store = Shards(out, Shape.of(pipeline.manifest))
    fill(pipeline, bulk, out, store, progress)
    return [store.path(index) for index in bulk.own]


def fill(pipeline: Pipeline, bulk: Bulk, out: Path, store: Store, progress: Progress | None = None) -> None:
    """Draw the spans that a store in the folder does not hold yet. Arguments and errors as of ``sample``."""
    checked = check_bulk(pipeline.manifest, bulk)
    with claimed(out):
        wanted = recipe_of(pipeline.manifest, drawer_of(pipeline), bulk, checked, store.form)
        begun = (out / RECIPE).exists()
        recipe = agreed(out, wanted, lambda: probe(pipeline, bulk))
        series = Series(bulk, pipeline.manifest.classes, recipe.order)
        for index in bulk.own:
            labels, seeds = series[index]
            if store.holds(index, labels, seeds):
                if progress:
                    progress(len(seeds))
                continue
            if begun:
                _compare(recipe, probe(pipeline, bulk), out)
                begun = False
            store.write(index, drawn(pipeline, bulk, checked.sampling, labels, seeds, progress))


def check_bulk(manifest: Manifest, bulk: Bulk) -> Run:
    """Check what a series will ask for; the checked batch has its settings.

    Raises:
        UsageError: the first thing that cannot be meant.
    """
    ends = (bulk.seed, bulk.seed + bulk.num - 1)
    return check_series(manifest, ends, bulk.n_draft, bulk.sampling, bulk.batch_size)


def drawn(
    pipeline: Pipeline,
    bulk: Bulk,
    sampling: Sampling | str,
    labels: NDArray[np.int64],
    seeds: NDArray[np.uint64],
    progress: Progress | None = None,
) -> Generation:
    """The images of one shard: the same on any machine that draws the same probe.

    Raises:
        BackendError: the engine failed.
    """
    return pipeline.generate(
        labels.tolist(),
        seeds=seeds.tolist(),
        n_draft=bulk.n_draft,
        sampling=sampling,
        batch_size=bulk.batch_size,
        progress=progress,
    )


def _compare(recipe: Recipe, found: str, out: Path) -> None:
    """One process may go on where rounding differs, as it may with another batch size; it is said, since it may matter."""
    if recipe.probe not in (None, found):
        log.warning(
            "%s was begun where arithmetic rounds otherwise (another machine or device?): the rest of it will not be "
            "byte for byte what that one would have drawn",
            out,
        )


@dataclass(frozen=True)
class Shape:
    """What arrays of images are like.

    Attributes:
        side: pixels of an image.
        length: tokens of an image.
    """

    side: int
    length: int

    @classmethod
    def of(cls, manifest: Manifest) -> Shape:
        """Of what a bundle draws."""
        return cls(manifest.image_side, Schedule(manifest.schedule).length)


class Shards:
    """A span an npz file."""

    form: Form = "shards"

    def __init__(self, out: Path, shape: Shape) -> None:
        self._out, self._shape = out, shape

    def path(self, index: int) -> Path:
        """The file of a span."""
        return self._out / f"shard-{index:05d}.npz"

    def holds(self, index: int, labels: NDArray[np.int64], seeds: NDArray[np.uint64]) -> bool:
        """Whether a shard is there with all its arrays, of the expected labels and seeds."""
        path = self.path(index)
        if not path.exists():
            return False
        fault = self.fault(path, labels, seeds)
        if fault is not None:
            log.warning("%s is damaged (%s) and drawn again", path, fault)
        return fault is None

    def fault(self, path: Path, labels: NDArray[np.int64], seeds: NDArray[np.uint64]) -> object:
        """What is wrong with a file that should hold such a shard, which is read through; None for nothing."""
        count, side = len(seeds), self._shape.side
        expected = {
            "images": ((count, side, side, 3), ("uint8",)),
            "tokens": ((count, self._shape.length), ("uint16",)),
            "labels": ((count,), ("int64",)),
            "seeds": ((count,), ("uint64",)),
        }
        try:
            arrays.check_npz(path, expected)
            with zipfile.ZipFile(path) as archive, np.load(path, allow_pickle=False) as found:
                right = np.array_equal(found["labels"], labels) and np.array_equal(found["seeds"], seeds)
                return None if right and archive.testzip() is None else "not what was written"
        except arrays.UNREADABLE as error:
            return error

    def write(self, index: int, made: Generation) -> None:
        """Write a shard."""
        with replacing(self.path(index)) as file:
            kept = {"images": made.images, "tokens": made.tokens, "labels": made.labels, "seeds": made.seeds}
            np.savez(file, **kept)  # type: ignore[arg-type]  # numpy's stub takes the arrays for a flag


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """The folder for this process alone, cleared of what a killed one left unfinished.

    Raises:
        OutputError: another process writes there; or the folder cannot be written, in the block too.
    """
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
