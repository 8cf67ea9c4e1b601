"""Writing results: picture files, grids and npz, beside the target first and renamed when complete."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from trt_var.errors import OutputError
from trt_var.files import replacing

if TYPE_CHECKING:
    from trt_var.results import Generation

GREY, ROW = 128, 10
STEP_MS, LAST_MS = 400, 2000


def grid(images: NDArray[np.uint8], columns: int | None = None, gap: int = 2) -> NDArray[np.uint8]:
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


def picture_format(path: Path) -> str:
    """Pillow's format for a file name.

    Raises:
        OutputError: a suffix that is no picture format.
    """
    from PIL import Image

    known = Image.registered_extensions()
    if path.suffix.lower() not in known:
        raise OutputError(f"cannot write {path}: {path.suffix!r} is no picture format; use .png, .jpg or .webp")
    return known[path.suffix.lower()]


def save_steps(path: Path, frames: list[NDArray[np.uint8]]) -> None:
    """Write what is known after every scale, frames [n, H, W, 3]: an animation, or a row an image in any other format.

    Raises:
        OutputError: unknown suffix, no such folder, disk full.
    """
    from PIL import Image

    if picture_format(path) != "GIF":
        rows = np.stack(frames, 1).reshape(-1, *frames[0].shape[1:])
        save_picture(path, grid(rows, columns=len(frames)))
        return
    sheets = [Image.fromarray(grid(frame)) for frame in frames]
    shown = [STEP_MS] * (len(sheets) - 1) + [LAST_MS]
    with replacing(path) as file:
        sheets[0].save(file, format="GIF", save_all=True, append_images=sheets[1:], duration=shown, loop=0)


def check_target(path: Path, picture: bool = True) -> None:
    """Refuse what cannot be written before anything is computed.

    Raises:
        OutputError: no such folder, or a suffix that is no picture format.
    """
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: there is no folder {path.parent}")
    if picture:
        picture_format(path)


def save_picture(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write an [H, W, 3] array in the format of the file's suffix.

    Raises:
        OutputError: unknown suffix, no such folder, disk full.
    """
    from PIL import Image

    kind = picture_format(path)
    with replacing(path) as file:
        Image.fromarray(pixels).save(file, format=kind)


def save_npz(path: Path, **arrays: NDArray[Any]) -> None:
    """Write arrays as a compressed npz.

    Raises:
        OutputError: no such folder, disk full.
    """
    with replacing(path) as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the file for a flag


def save_folder(folder: Path, result: Generation) -> None:
    """Write one PNG an image, named by position, label and seed.

    Raises:
        OutputError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}") from error
    for i, (pixels, label, seed) in enumerate(zip(result.images, result.labels, result.seeds, strict=True)):
        save_picture(folder / f"{i:05d}-class{label}-seed{seed}.png", pixels)
