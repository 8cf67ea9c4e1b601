"""Pictures and masks as callers hold them: files, Pillow images, arrays, tensors, lists; all become arrays of one kind."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trt_var.errors import DataError, UsageError
from trt_var.pictures.masks import brightness, fitted_mask, read_mask
from trt_var.pictures.reading import (
    HALF,
    MODES,
    UNREADABLE,
    read_picture,
    take_picture,
    upright,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    ImageLike = str | Path | Image | ArrayLike

log = logging.getLogger(__name__)
Size = tuple[int, int]
BRIGHTEST, COLOURS = 255, 3


def as_images(images: Any, side: int) -> NDArray[np.uint8]:
    """One image or several as uint8 [n, S, S, 3].

    Args:
        images: whole numbers from 0 to 255 [n, S, S, 3] or [S, S, 3], or with the colours first as tensors have them, in
            arrays, tensors or lists; or files and Pillow images, which are centre-cropped and resized.
        side: S, the model's.

    Raises:
        UsageError: of another shape or type.
        DataError: a file that cannot be read.
    """
    several = not _is_picture(images) and isinstance(images, Sequence) and any(map(_is_picture, images))
    if several or _is_picture(images):
        return np.stack([as_image(one, side)[0] for one in (images if several else [images])])
    array, expected = _array(images, "images"), f"expected uint8 [n, {side}, {side}, {COLOURS}]"
    if array.ndim == COLOURS:
        array = array[None]
    if array.ndim == 4 and array.shape[1:] == (COLOURS, side, side) != (side, side, COLOURS):
        array = array.transpose(0, 2, 3, 1)
    if array.ndim != 4 or array.shape[1:] != (side, side, COLOURS) or not len(array):
        raise UsageError(
            f"images have shape {array.shape} {array.dtype}; {expected} (Pillow images and files are brought to that size)"
        )
    if array.dtype.kind not in "iu":
        raise UsageError(f"images are {array.dtype}; {expected}, from 0 to {BRIGHTEST}")
    if array.dtype != np.uint8 and not 0 <= array.min() <= array.max() <= BRIGHTEST:
        raise UsageError(f"images have values from {array.min()} to {array.max()}; {expected}, from 0 to {BRIGHTEST}")
    return np.ascontiguousarray(array.astype(np.uint8))


def as_image(image: Any, side: int) -> tuple[NDArray[np.uint8], Size]:
    """One image as uint8 [S, S, 3], and the width and height that it was given in.

    Raises:
        UsageError, DataError: as ``as_images``; or several images.
    """
    if isinstance(image, (str, Path)):
        picture = read_picture(Path(image), side)
        return picture.pixels, picture.size
    if _is_picture(image):
        picture = take_picture(_checked(image), side)
        for change in picture.changes:
            log.info("image: %s", change)
        return picture.pixels, picture.size
    images = as_images(image, side)
    if len(images) > 1:
        raise UsageError(f"{len(images)} images; expected one, uint8 [{side}, {side}, {COLOURS}]")
    return images[0], (side, side)


def as_mask(mask: Any, size: Size, side: int) -> NDArray[np.bool_]:
    """A mask as bool [S, S], True where the image is redrawn.

    Args:
        mask: truth values, 0 and 1, 0 to 255 (redrawn from 128 on), or 0.0 to 1.0 (from 0.5 on), [S, S] or with more axes of
            one; or a file or a Pillow image of the image's size or the model's, white where redrawn.
        size: width and height of the image that it belongs to, as given.
        side: S, the model's.

    Raises:
        UsageError: of another shape, type or range.
        DataError: a file that cannot be read.
    """
    if isinstance(mask, (str, Path)):
        return read_mask(Path(mask), size, side)
    if _is_picture(mask):
        return _mask_of_picture(mask, size, side)
    array, expected = _array(mask, "mask"), f"expected bool ({side}, {side}), True where redrawn"
    array = array.reshape([length for length in array.shape if length != 1 or side == 1])
    if array.shape != (side, side) or array.dtype.kind not in "biuf":
        raise UsageError(f"mask has shape {array.shape} {array.dtype}; {expected}")
    if array.dtype.kind == "b":
        return array.astype(np.bool_)
    largest = 1 if array.dtype.kind == "f" else BRIGHTEST
    if not (array.min() >= 0 and array.max() <= largest):  # NaN is in no range
        raise UsageError(f"mask has values from {array.min()} to {array.max()}; {expected}, or numbers from 0 to {largest}")
    half = 0.5 if largest == 1 else 1 if array.max() <= 1 else HALF
    return array >= half


def _mask_of_picture(mask: Image, size: Size, side: int) -> NDArray[np.bool_]:
    whole = upright(_checked(mask), {})
    if whole.size not in (size, (side, side)):
        raise UsageError(
            f"mask is of {whole.width}×{whole.height} pixels; a mask is as large as the image, {size[0]}×{size[1]}, "
            f"or {side}×{side}"
        )
    return fitted_mask(brightness(whole), side)


def _is_picture(value: object) -> bool:
    """Whether it is a file's name or a Pillow image; NumPy's arrays and tensors have no bands."""
    return isinstance(value, (str, Path)) or (hasattr(value, "getbands") and hasattr(value, "convert"))


def _checked(image: Image) -> Image:
    """A Pillow image whose pixels are there, of a kind that converts exactly."""
    if image.mode not in MODES:
        raise UsageError(f"the image has pixels of mode {image.mode}; expected 8 bits a channel: convert it to RGB")
    try:
        image.load()
    except UNREADABLE as error:  # a file is read when its pixels are first asked for
        raise DataError(f"the image cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return image


def _array(values: Any, name: str) -> NDArray[Any]:
    """Anything that NumPy makes an array of, tensors too."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists; tensors on a device, or with a gradient
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{name} cannot be taken as an array of the host: {reason}") from error
    if array.dtype.kind not in "biuf" or not array.ndim:
        raise UsageError(f"{name} are {type(values).__name__}; expected an array, a list, a Pillow image or a file")
    return array
