"""Pictures as bytes, without loss, and the record that a picture file carries of how it was made."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_var.errors import DataError, UsageError
from trt_var.pictures.reading import UNREADABLE

log = logging.getLogger(__name__)
KEY = "trt-var"  # of the text in PNG files
DESCRIPTION = 0x010E  # the EXIF field of JPEG and WebP files
LARGEST_EXIF = 60_000  # bytes: 65,533 in all


def to_png(pixels: NDArray[np.uint8]) -> bytes:
    """An [H, W, 3] array as a PNG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def from_png(data: bytes) -> NDArray[np.uint8]:
    """The [H, W, 3] pixels of a PNG file.

    Raises:
        UsageError: no such file.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            return np.array(image.convert("RGB"))
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise UsageError(f"an image is no PNG: {error}") from error


def with_record(kind: str, record: str | None) -> dict[str, Any]:
    """Options of Pillow's ``save`` that put a record, ASCII, into a file: a text in PNG, EXIF in JPEG and WebP."""
    from PIL import Image, PngImagePlugin

    if record is None:
        return {}
    if kind == "PNG":
        texts = PngImagePlugin.PngInfo()
        texts.add_text(KEY, record)
        return {"pnginfo": texts}
    if kind == "GIF":
        return {"comment": record.encode()}
    if len(record) > LARGEST_EXIF:
        log.warning("the record of %d characters is too long for a %s file and left out; PNG takes it", len(record), kind)
        return {}
    exif = Image.Exif()
    exif[DESCRIPTION] = record
    return {"exif": exif}


def read_record(path: Path) -> str:
    """The record that ``with_record`` put into a file.

    Raises:
        DataError: no picture, or one without a record.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP", "GIF")) as image:
            found = image.info.get(KEY) or image.getexif().get(DESCRIPTION) or image.info.get("comment")
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    text = found.decode("ascii", "replace") if isinstance(found, bytes) else found
    if not isinstance(text, str) or not text.startswith("{"):
        raise DataError(f"{path} carries no record of how it was made; only what trt-var wrote does, if nothing rewrote it")
    return text
