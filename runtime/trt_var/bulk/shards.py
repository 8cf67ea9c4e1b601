"""Many images into a folder of shards: resumable, and the same whatever interrupted it."""

from __future__ import annotations

import hashlib
import logging
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from trt_var.bundle import manifest as manifests
from trt_var.bundle.manifest import Manifest
from trt_var.decoding.numbers import whole
from trt_var.decoding.sampling import Sampling
from trt_var.errors import OutputError, UsageError
from trt_var.files import arrays
from trt_var.files.writing import replacing
from trt_var.pipeline import Pipeline
from trt_var.requests.checking import MAX_IMAGES, Run, check_series

log = logging.getLogger(__name__)
RECIPE, LOCK = "recipe.json", ".lock"
MAX_NUM = 1_000_000
Progress = Callable[[int], object]


@dataclass(frozen=True)
class Bulk:
    """What to draw: image i has seed S + i; classes in order, of each as many images as of any other, or one more.

    Attributes:
        num: how many images.
        seed: of the first.
        n_draft: how many scales the drafter draws; see ``Pipeline.generate``.
        sampling: settings, or a preset's name.
        batch_size: images drawn together.
        shard: images a file.
    """

    num: int
    seed: int = 0
    n_draft: int | None = None
    sampling: Sampling | str = "default"
    batch_size: int = 8
    shard: int = 256

    def __post_init__(self) -> None:
        for name in ("seed", "num", "shard"):
            object.__setattr__(self, name, whole(getattr(self, name), name))  # NumPy's would overflow
        if not 1 <= self.num <= MAX_NUM:
            raise UsageError(f"num is {self.num}; expected 1 to {MAX_NUM}")
        if not 1 <= self.shard <= MAX_IMAGES:
            raise UsageError(f"shard is {self.shard}; expected 1 to {MAX_IMAGES} images a file")

    def labels(self, classes: int) -> NDArray[np.int64]:
        """The class of every image [num]."""
        return np.arange(self.num, dtype=np.int64) * classes // self.num

    def spans(self) -> list[slice]:
        """The images of every shard."""
        return [slice(start, min(start + self.shard, self.num)) for start in range(0, self.num, self.shard)]


class Recipe(msgspec.Struct, frozen=True):
    """What makes the images of a folder what they are; a run goes on only where all of it is the same.

    ``batch_size`` is there where rounding depends on it: everywhere but in float32, or where images are drawn alone.
    """

    num: int
    seed: int
    n_draft: int | None
    sampling: Sampling | str
    shard: int
    bundle: str
    backend: str
    batch_size: int | None = None
    batch_invariant: bool = False


def sample(pipeline: Pipeline, bulk: Bulk, out: Path, progress: Progress | None = None) -> list[Path]:
    """Draw what is not there yet: ``shard-00000.npz`` … with images, tokens, labels and seeds, each whole or absent.

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
    manifest, ends = pipeline.manifest, (bulk.seed, bulk.seed + bulk.num - 1)
    checked = check_series(manifest, ends, bulk.n_draft, bulk.sampling, bulk.batch_size)
    with _claimed(out):
        _check_recipe(pipeline, bulk, checked, out)
        labels, paths = bulk.labels(manifest.classes), []
        for index, span in enumerate(bulk.spans()):
            paths.append(out / f"shard-{index:05d}.npz")
            seeds = range(bulk.seed + span.start, bulk.seed + span.stop)
            if _is_whole(paths[-1], manifest, labels[span], np.array(seeds, np.uint64)):
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
            with replacing(paths[-1]) as file:
                arrays = {"images": drawn.images, "tokens": drawn.tokens, "labels": drawn.labels, "seeds": drawn.seeds}
                np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the arrays for a flag
        return paths


def read_images(shards: list[Path]) -> Iterator[NDArray[np.uint8]]:
    """The images of shards, one shard at a time: uint8 [n, H, W, 3]."""
    for path in shards:
        with np.load(path, allow_pickle=False) as arrays:
            yield arrays["images"]


def _is_whole(path: Path, manifest: Manifest, labels: NDArray[np.int64], seeds: NDArray[np.uint64]) -> bool:
    """Whether a shard is there with all its arrays, of the expected labels and seeds; what is not is drawn again."""
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


def _check_recipe(pipeline: Pipeline, bulk: Bulk, checked: Run, out: Path) -> None:
    recipe = Recipe(
        bulk.num,
        bulk.seed,
        checked.n_draft,
        checked.sampling,
        bulk.shard,
        hashlib.sha256(manifests.encode(pipeline.manifest)).hexdigest(),
        pipeline.engine,
        None if pipeline.exact or pipeline.batch_invariant else bulk.batch_size,
        pipeline.batch_invariant,
    )
    data = msgspec.json.encode(recipe, enc_hook=lambda number: number.item())  # NumPy's numbers
    recipe = msgspec.json.decode(data, type=Recipe)
    path = out / RECIPE
    if not path.exists():
        strangers = [found.name for found in out.iterdir() if found.name != LOCK and not found.name.startswith(f".{RECIPE}")]
        if strangers:
            raise UsageError(f"{out} holds {strangers[0]} and no {RECIPE}; choose an empty or a new folder")
        with replacing(path) as file:
            file.write(msgspec.json.format(data) + b"\n")
        return
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Recipe)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not a valid recipe ({error}); choose another folder") from error
    pairs = [(name, getattr(found, name), getattr(recipe, name)) for name in recipe.__struct_fields__]
    different = [f"{name} {there} there, {asked} asked for" for name, there, asked in pairs if there != asked]
    if different:
        raise UsageError(f"{out} holds other images: {'; '.join(different)}; choose another folder")


@contextmanager
def _claimed(out: Path) -> Iterator[None]:
    """The folder for this process alone, cleared of what a killed one left unfinished."""
    try:
        import fcntl
    except ImportError as error:
        raise OutputError(f"bulk sampling needs file locks, which this system lacks ({error})") from error
    try:
        out.mkdir(parents=True, exist_ok=True)
        with (out / LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OutputError(f"another process is writing to {out}; wait for it, or choose another folder") from error
            for partial in out.glob(".shard-*"):
                partial.unlink()
            yield
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror or error}") from error
