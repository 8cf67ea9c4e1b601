"""The images of shards, a few in memory at a time."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trt_var.requests.mixing import mixed

PIECE = 256  # images in memory at a time
LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip member: the lengths of its name and of what else comes before the data


def read_images(shards: list[Path]) -> Iterator[NDArray[np.uint8]]:
    """The images of shards as they lie there, one shard at a time: uint8 [n, H, W, 3]; ``bulk.sample`` has an example.

    Args:
        shards: paths, as ``bulk.sample`` returns them.
    """
    for path in shards:
        with np.load(path, allow_pickle=False) as arrays:
            yield arrays["images"]


def read_mixed(shards: list[Path], classes: int) -> Iterator[NDArray[np.uint8]]:
    """The images of all shards of a folder for an evaluator that looks at stretches of them: uint8 [n, H, W, 3].

    They come as they lie there, but where an earlier version sorted them by class: then in the order of
    ``requests.mixing``, in which a new folder holds them.

    Args:
        shards: all of a folder, in order.
        classes: how many the bundle has.

    Example:
        >>> import tempfile
        >>> from trt_var import Pipeline, bulk
        >>> with tempfile.TemporaryDirectory() as out, Pipeline.load("digits") as pipeline:
        ...     shards = bulk.sample(pipeline, bulk.Bulk(num=20, shard=16), out)
        ...     sum(len(images) for images in bulk.read_mixed(shards, pipeline.manifest.classes))
        20
    """
    labels = [_labels(path) for path in shards]
    joined = np.concatenate(labels)
    if (np.diff(joined) < 0).any():
        yield from read_images(shards)
        return
    lengths = [len(found) for found in labels]
    shard_of, row_of = np.repeat(np.arange(len(shards)), lengths), np.concatenate([np.arange(count) for count in lengths])
    places = np.stack((shard_of, row_of), 1)[mixed(len(joined), classes)]
    for start in range(0, len(places), PIECE):
        yield _gathered(shards, places[start : start + PIECE])


def _labels(path: Path) -> NDArray[np.int64]:
    with np.load(path, allow_pickle=False) as arrays:
        found: NDArray[np.int64] = arrays["labels"]
        return found


def _gathered(shards: list[Path], places: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Images by shard and row, each shard opened once and only those rows read."""
    pieces: dict[int, NDArray[np.uint8]] = {}
    for shard in np.unique(places[:, 0]):
        wanted = np.flatnonzero(places[:, 0] == shard)
        images = _rows(shards[shard], places[wanted, 1])
        pieces.update(zip(wanted.tolist(), images, strict=True))
    return np.stack([pieces[position] for position in range(len(places))])


def _rows(path: Path, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Rows of a shard's images, read at their places in the file, whose members are not compressed."""
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("images.npy")
    if member.compress_type != zipfile.ZIP_STORED:  # packed again by somebody
        with np.load(path, allow_pickle=False) as arrays:
            packed: NDArray[np.uint8] = arrays["images"][rows]
            return packed
    with path.open("rb") as file:
        file.seek(member.header_offset)
        file.seek(sum(LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))), 1)
        np.lib.format.read_magic(file)
        (_, *shape), _, _ = np.lib.format.read_array_header_1_0(file)
        begin, size, found = file.tell(), int(np.prod(shape)), []
        for row in rows:
            file.seek(begin + int(row) * size)
            found.append(np.frombuffer(file.read(size), np.uint8).reshape(shape))
    return np.stack(found)
