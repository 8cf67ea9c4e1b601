"""Reading given pictures: any size becomes the model's, and what is refused is refused before it is decoded."""

from __future__ import annotations

import logging
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trt_var.errors import DataError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image, Resampling

log = logging.getLogger(__name__)
FORMATS = ("PNG", "JPEG", "WEBP")
MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr"}  # of 8 bits, which convert exactly
MAX_PIXELS = 64_000_000
LIMIT = f"{MAX_PIXELS / 1e6:g} million pixels"
HALF = 128
TAIL = 64  # bytes at the end of a file
# what Pillow's readers raise for damaged files and damaged EXIF
UNREADABLE = (
    ArithmeticError, AttributeError, EOFError, LookupError, OSError, SyntaxError, TypeError, ValueError, struct.error
)  # fmt: skip

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Picture:
    """A picture of the model's size.

    Attributes:
        pixels: uint8 [S, S, 3].
        clear: bool [S, S], True where the file is more transparent than not; None if it has no transparency.
        size: width and height of the file.
        changes: what was done to it, for people; empty if it was taken as it is.
    """

    pixels: NDArray[np.uint8]
    clear: NDArray[np.bool_] | None
    size: tuple[int, int]
    changes: tuple[str, ...]


def read_picture(path: Path, side: int) -> Picture:
    """Read a PNG, JPEG or WebP file: turned as its EXIF says, centre-cropped to a square, resized to the model's side.

    Of an animation, the first frame.

    Raises:
        DataError: no such file, not a picture of these formats, damaged, larger than MAX_PIXELS, or not of 8 bits.
    """
    from PIL import Image, ImageOps

    with _opened(path) as opened:
        frames = getattr(opened, "n_frames", 1)
        image = ImageOps.exif_transpose(opened)
        see_through = image.has_transparency_data
        fitted = _fit(image.convert("RGBA" if see_through else "RGB"), side, Image.Resampling.LANCZOS)
    array = np.array(fitted)
    clear = array[:, :, 3] < HALF if see_through else None
    return Picture(np.ascontiguousarray(array[:, :, :3]), clear, image.size, tuple(_changes(image, frames, side)))


def read_mask(path: Path, size: tuple[int, int], side: int) -> NDArray[np.bool_]:
    """Read a mask, white where the picture is redrawn, and crop and resize it as the picture of ``size`` was: bool [S, S].

    What is transparent in it counts as black.

    Raises:
        DataError: as ``read_picture``; or its size is neither the picture's nor S × S.
    """
    from PIL import Image, ImageOps

    with _opened(path) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
        mask = image.convert("L")
    if mask.size not in (size, (side, side)):
        raise DataError(
            f"{path} has {mask.width}×{mask.height} pixels; a mask is as large as the picture, {size[0]}×{size[1]}, "
            f"or {side}×{side}"
        )
    return np.array(_fit(mask, side, Image.Resampling.NEAREST)) >= HALF


def box_mask(box: Box, size: tuple[int, int], side: int) -> NDArray[np.bool_]:
    """A mask that redraws a box x0, y0, x1, y1 in the pixels of a picture of ``size``: bool [S, S].

    Raises:
        UsageError: the box is empty or leaves the picture.
    """
    from PIL import Image

    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= size[0] and 0 <= y0 < y1 <= size[1]):
        raise UsageError(f"box is {x0},{y0},{x1},{y1}; expected x0 < x1 and y0 < y1 inside the picture, {size[0]}×{size[1]}")
    mask = Image.new("L", size)
    mask.paste(255, box)
    return np.array(_fit(mask, side, Image.Resampling.NEAREST)) >= HALF


def probe(path: Path, decode: bool = False) -> tuple[int, int]:
    """Look at a picture without decoding it, for folders of very many: its size, and whether ``read_picture`` will take it.

    Read are its header and its last bytes. A file that does not end as its format does is decoded all the same, and so is
    every file with ``decode``: damage in the middle of a file shows in no other way.

    Returns:
        Width and height.

    Raises:
        DataError: as ``read_picture``.
    """
    with _opened(path, decode) as image:
        size, suspicious = image.size, not decode and not _ends_well(path, image.format)
    return probe(path, decode=True) if suspicious else size


def _ends_well(path: Path, kind: str | None) -> bool:
    """Whether a file's last bytes are those of a whole one, zeros after them aside."""
    length = path.stat().st_size
    with path.open("rb") as file:
        if kind == "WEBP":
            return int.from_bytes(file.read(8)[4:], "little") + 8 <= length
        file.seek(max(0, length - TAIL))
        return file.read().rstrip(b"\0").endswith(b"IEND\xaeB`\x82" if kind == "PNG" else b"\xff\xd9")


@contextmanager
def _opened(path: Path, decode: bool = True) -> Iterator[Image]:
    """A file whose header has been looked at, and whose first frame has been decoded if asked for."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings(), Image.open(path, formats=FORMATS) as image:
            warnings.simplefilter("ignore")  # of sizes, where the limit below is stricter, and of odd metadata
            if image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"{path} has {image.width}×{image.height} pixels; expected at most {MAX_PIXELS / 1e6:g} million"
                )
            if image.mode not in MODES:
                raise DataError(f"{path} has pixels of mode {image.mode}; save it with 8 bits a channel")
            if decode:
                image.load()
            yield image
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} is too large ({error}); expected at most {LIMIT}") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is no PNG, JPEG or WebP picture") from error
    except UNREADABLE as error:
        reason = getattr(error, "strerror", None) or error or type(error).__name__
        raise DataError(f"cannot read {path}: {reason}") from error


def _fit(image: Image, side: int, method: Resampling) -> Image:
    """Centre-cropped and resized; cropped first, so that a long strip takes no more memory than a square."""
    from PIL import ImageOps

    return ImageOps.fit(image, (side, side), method)


def _changes(image: Image, frames: int, side: int) -> Iterator[str]:
    if frames > 1:
        yield f"the first of {frames} frames taken"
    if image.width != image.height:
        yield f"centre-cropped from {image.width}×{image.height}"
    if image.size != (side, side):
        yield f"resized to {side}×{side}"
