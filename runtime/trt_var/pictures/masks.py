"""Where a picture is redrawn: masks of files and boxes, cropped and resized as the picture is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trt_var.errors import DataError, UsageError
from trt_var.files.paths import AnyPath, expanded
from trt_var.pictures.reading import HALF, fit, opened

if TYPE_CHECKING:
    from PIL.Image import Image

Box = tuple[int, int, int, int]


def read_mask(path: AnyPath, size: tuple[int, int], side: int) -> NDArray[np.bool_]:
    """Read a mask, white where the picture is redrawn, and crop and resize it as the picture of ``size`` was: bool [S, S].

    What is transparent in it counts as black.

    Args:
        path: as of ``read_picture``.
        size: width and height of the picture's file, ``Picture.size``.
        side: S, of the model.

    Raises:
        DataError: as ``read_picture``; its size is neither the picture's nor S × S; or nothing in it is near white.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.NamedTemporaryFile(suffix=".png") as file:
        ...     Image.fromarray(np.tile(np.array([0, 255], np.uint8), (32, 16))).save(file.name)
        ...     int(read_mask(file.name, size=(32, 32), side=32).sum())
        512
    """
    path = expanded(path)
    with opened(path) as (image, _):
        mask = brightness(image)
    if mask.size not in (size, (side, side)):
        raise DataError(
            f"{path} has {mask.width}×{mask.height} pixels; a mask is as large as the picture, {size[0]}×{size[1]}, "
            f"or {side}×{side}"
        )
    brightest = int(np.asarray(mask).max(initial=0))
    if 0 < brightest < HALF:
        raise DataError(f"the brightest pixel of {path} is {brightest}; in a mask, white (255) is redrawn and black is kept")
    return fitted_mask(mask, side)


def brightness(image: Image) -> Image:
    """An upright image of 8 bits in grey; what is transparent counts as black."""
    from PIL import Image

    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
    return image.convert("L")


def fitted_mask(mask: Image, side: int) -> NDArray[np.bool_]:
    """A grey image as a picture of its size is cropped and resized: bool [S, S], True where it is nearer white."""
    from PIL import Image

    return np.array(fit(mask, side, Image.Resampling.NEAREST)) >= HALF


def box_mask(box: Box, size: tuple[int, int], side: int) -> NDArray[np.bool_]:
    """A mask that redraws a box x0, y0, x1, y1 in the pixels of a picture of ``size``: bool [S, S], S the model's ``side``.

    Raises:
        UsageError: the box is empty or leaves the picture.

    Example:
        >>> int(box_mask((0, 0, 30, 60), size=(60, 60), side=32).sum())  # the left half
        512
    """
    from PIL import Image

    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= size[0] and 0 <= y0 < y1 <= size[1]):
        raise UsageError(f"box is {x0},{y0},{x1},{y1}; expected x0 < x1 and y0 < y1 inside the picture, {size[0]}×{size[1]}")
    mask = Image.new("L", size)
    mask.paste(255, box)
    return fitted_mask(mask, side)
