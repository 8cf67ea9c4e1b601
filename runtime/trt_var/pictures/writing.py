"""Writing results: picture files, grids and npz, beside the target first and renamed when complete."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from trt_var.errors import OutputError
from trt_var.files.outputs import LARGEST, picture_format
from trt_var.files.paths import expanded
from trt_var.files.writing import appearing, replacing, scratch
from trt_var.pictures.encoding import with_record

GREY, ROW, GAP = 128, 10, 2
STEP_MS, LAST_MS = 400, 2000
# what Pillow's writers raise for pictures that a format does not take
UNWRITABLE = (ValueError, LookupError, OverflowError, TypeError, SyntaxError, SystemError, struct.error)


def grid_size(count: int, side: int, columns: int | None = None) -> tuple[int, int]:
    """Width and height of a ``grid`` of square images."""
    columns = columns or math.ceil(math.sqrt(count))
    return columns * (side + GAP) - GAP, math.ceil(count / columns) * (side + GAP) - GAP


def check_size(path: Path, size: tuple[int, int]) -> None:
    """Refuse a picture that its format cannot hold, before anything is computed.

    Raises:
        OutputError: more pixels on a side than the format takes.
    """
    kind = picture_format(path, moving=True)
    if max(size) > LARGEST[kind]:
        raise OutputError(
            f"cannot write {path}: {size[0]}×{size[1]} pixels, and a {kind} picture has at most {LARGEST[kind]} a side; "
            "use .png, or fewer images"
        )


def grid(images: NDArray[np.uint8], columns: int | None = None, gap: int = GAP) -> NDArray[np.uint8]:
    """Images [n, H, W, 3] side by side, white between them, in a nearly square grid or with so many columns."""
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def beside(image: NDArray[np.uint8], mask: NDArray[np.bool_], results: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An input [H, W, 3], itself with the region of ``mask`` [H, W] in grey, and results [n, H, W, 3], in rows of ten."""
    marked = np.where(mask[:, :, None], np.uint8(GREY), image)
    return grid(np.concatenate([image[None], marked[None], results]), columns=min(len(results) + 2, ROW))


def save_steps(path: Path, frames: list[NDArray[np.uint8]], record: str | None = None) -> None:
    """Write what is known after every scale, frames [n, H, W, 3]: an animation, or a row an image in any other format.

    Raises:
        OutputError: unknown suffix, no such folder, disk full, too large for the format.
    """
    from PIL import Image

    if picture_format(path, moving=True) != "GIF":
        rows = np.stack(frames, 1).reshape(-1, *frames[0].shape[1:])
        save_picture(path, grid(rows, columns=len(frames)), record)
        return
    sheets = [Image.fromarray(grid(frame)) for frame in frames]
    shown = [STEP_MS] * (len(sheets) - 1) + [LAST_MS]
    options: dict[str, Any] = {"format": "GIF", "save_all": True, "append_images": sheets[1:], "duration": shown, "loop": 0}
    options |= with_record("GIF", record)
    _save(path, lambda file: sheets[0].save(file, **options))


def save_picture(path: Path, pixels: NDArray[np.uint8], record: str | None = None) -> None:
    """Write an [H, W, 3] array in the format of the file's suffix, with a record of how it was made, if there is one.

    Raises:
        OutputError: unknown suffix, no such folder, disk full, too large for the format.
    """
    from PIL import Image

    kind = picture_format(path)
    _save(path, lambda file: Image.fromarray(pixels).save(file, format=kind, **with_record(kind, record)))


def save_npz(path: Path, **arrays: NDArray[Any]) -> None:
    """Write arrays as a compressed npz.

    Raises:
        OutputError: no such folder, disk full.
    """
    with replacing(path) as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the file for a flag


def save_folder(
    folder: Path,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    seeds: NDArray[np.uint64],
    records: Sequence[str] | None = None,
) -> None:
    """Write one PNG for each of images [n, H, W, 3], named by position, label and seed; they appear when all are written.

    ``records`` are what each file carries of how it was made.

    Raises:
        OutputError: the folder cannot be made or written.
    """
    folder = expanded(folder)
    if not folder.exists():
        with appearing(folder) as fresh:
            _save_each(fresh, images, labels, seeds, records)
        return
    with scratch(folder) as partial:
        _save_each(partial, images, labels, seeds, records)
        for path in sorted(partial.iterdir()):
            path.replace(folder / path.name)


def picture_name(position: int, label: int, seed: int) -> str:
    """The name of a picture in a folder of results."""
    return f"{position:05d}-class{label}-seed{seed}.png"


def _save_each(
    folder: Path,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    seeds: NDArray[np.uint64],
    records: Sequence[str] | None,
) -> None:
    for i, (pixels, label, seed) in enumerate(zip(images, labels, seeds, strict=True)):
        carried = {} if records is None else {"record": records[i]}
        save_picture(folder / picture_name(i, label, seed), pixels, **carried)


def _save(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    try:
        with replacing(path) as file:
            write(file)
    except UNWRITABLE as error:
        raise OutputError(f"cannot write {path}: {error}") from error
