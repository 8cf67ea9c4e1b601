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

from trt_var.errors import DataError
from trt_var.files.paths import AnyPath, expanded
from trt_var.pictures.colours import SIXTEEN, Changes, eight_bits, layers, to_srgb
from trt_var.pictures.kinds import BEGINNING, described

if TYPE_CHECKING:
    from PIL.Image import Image, Resampling

log = logging.getLogger(__name__)
FORMATS = ("PNG", "JPEG", "WEBP")  # an MPO is a JPEG
MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", *SIXTEEN}
MAX_PIXELS = 64_000_000
LIMIT = f"{MAX_PIXELS / 1e6:g} million pixels"
HALF = 128
TAIL = 64  # bytes at the end of a file
ORIENTATION = 0x0112
_said: set[str] = set()
# what Pillow's readers raise for damaged files and damaged EXIF
UNREADABLE = (
    ArithmeticError, AttributeError, EOFError, LookupError, OSError, SyntaxError, TypeError, ValueError, struct.error
)  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A picture of the model's size.

    Attributes:
        pixels: uint8 [S, S, 3].
        clear: bool [S, S], True where the file is more transparent than not; None if it has no transparency.
        size: width and height of the file.
        changes: what was done to it, for people; empty if it was taken as it is.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.NamedTemporaryFile(suffix=".png") as file:
        ...     Image.new("RGB", (60, 40)).save(file.name)
        ...     picture = read_picture(file.name, side=32)
        >>> picture.pixels.shape, picture.size, picture.changes
        ((32, 32, 3), (60, 40), ('centre-cropped from 60×40', 'resized to 32×32'))
    """

    pixels: NDArray[np.uint8]
    clear: NDArray[np.bool_] | None
    size: tuple[int, int]
    changes: tuple[str, ...]


def read_picture(path: AnyPath, side: int) -> Picture:
    """Read a PNG, JPEG or WebP file: turned as its EXIF says, centre-cropped to a square, resized to the model's side.

    Of an animation or a photograph of several pictures (MPO), the first. Colours become sRGB of 8 bits, by the file's own
    colour profile; what is transparent shows white. Each kind of change to colours and frames is logged once.

    Args:
        path: ``~`` is written out.
        side: S, of the model.

    Raises:
        DataError: no such file, not a picture of these formats, damaged, or larger than MAX_PIXELS; it names the file.
    """
    path = expanded(path)
    with opened(path) as (image, changes):
        return _fitted(image, side, changes, str(path))


def take_picture(image: Image, side: int) -> Picture:
    """As ``read_picture``, of a Pillow image whose pixels are there."""
    changes: Changes = {}
    return _fitted(upright(image, changes), side, changes, "the image")


def upright(image: Image, changes: Changes) -> Image:
    """A Pillow image in 8 bits, turned as its EXIF says."""
    return _turned(eight_bits(image, changes), _orientation(image, changes), changes)


def _fitted(image: Image, side: int, changes: Changes, name: str) -> Picture:
    """An upright image of 8 bits → the model's size, sRGB on white."""
    from PIL import Image

    size, profile = image.size, image.info.get("icc_profile")
    colours, alpha = layers(image)
    if alpha is not None:
        changes["transparency"] = "what is transparent shows white"
        whole = Image.merge("RGBA", (*colours.convert("RGB").split(), alpha))
        fitted = fit(whole, side, Image.Resampling.LANCZOS)
        colours, alpha = fitted.convert("RGB") if colours.mode == "RGB" else fitted.convert("L"), fitted.getchannel("A")
    else:
        colours = fit(colours, side, Image.Resampling.LANCZOS)
    colours = to_srgb(colours, profile, changes)
    pixels, clear = np.array(colours), None
    if alpha is not None:
        clear = np.asarray(alpha) < HALF
        white = Image.new("RGB", colours.size, "white")
        pixels = np.array(Image.composite(colours, white, alpha))
    _say(name, changes)
    return Picture(pixels, clear, size, (*changes.values(), *_fitting(size, side)))


def probe(path: Path, decode: bool = False) -> tuple[int, int]:
    """Look at a picture without decoding it, for folders of very many: its size, and whether ``read_picture`` will take it.

    Read are its header and its last bytes. A file that does not end as its format does is decoded all the same, and so is
    every file with ``decode``: damage in the middle of a file shows in no other way.

    Returns:
        Width and height.

    Raises:
        DataError: as ``read_picture``.
    """
    with _recognised(path) as image:
        size, suspicious = image.size, not decode and not _ends_well(path, image.format)
        if decode:
            image.load()
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
def opened(path: Path) -> Iterator[tuple[Image, Changes]]:
    """A file whose first frame has been decoded, in 8 bits, and turned; and what was done to it by kind."""
    with _recognised(path) as image:
        changes: Changes = {}
        if (frames := getattr(image, "n_frames", 1)) > 1:
            changes["frames"] = f"the first of {frames} frames taken"
        if image.mode not in SIXTEEN and _has_sixteen_bits(path):
            changes["16 bits"] = "16 bits a channel scaled to 8"  # by Pillow
        image.load()
        yield upright(image, changes), changes


@contextmanager
def _recognised(path: Path) -> Iterator[Image]:
    """A file whose header has been looked at; its pixels are not decoded."""
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
            yield image
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} is too large ({error}); expected at most {LIMIT}") from error
    except UnidentifiedImageError as error:
        what = described(_beginning(path))
        raise DataError(f"{path} is no PNG, JPEG or WebP picture{f', but {what}' if what else ''}") from error
    except UNREADABLE as error:
        reason = getattr(error, "strerror", None) or error or type(error).__name__
        raise DataError(f"cannot read {path}: {reason}") from error


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(BEGINNING)


def _has_sixteen_bits(path: Path) -> bool:
    """Whether a PNG's header says so."""
    header = _beginning(path)
    return header[12:16] == b"IHDR" and header[24] == 16


def _orientation(image: Image, changes: Changes) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except UNREADABLE:
        changes["exif"] = "its damaged EXIF left aside"
        return 1


def _turned(image: Image, orientation: int, changes: Changes) -> Image:
    """As the camera was held; Pillow's own function writes the EXIF anew too, and fails where that is odd."""
    from PIL.Image import Transpose

    methods = (
        Transpose.FLIP_LEFT_RIGHT,
        Transpose.ROTATE_180,
        Transpose.FLIP_TOP_BOTTOM,
        Transpose.TRANSPOSE,
        Transpose.ROTATE_270,
        Transpose.TRANSVERSE,
        Transpose.ROTATE_90,
    )
    if not 2 <= orientation <= len(methods) + 1:
        return image
    changes["orientation"] = "turned as its EXIF says"
    turned = image.transpose(methods[orientation - 2])
    turned.info = image.info
    return turned


def fit(image: Image, side: int, method: Resampling) -> Image:
    """Centre-cropped and resized; cropped first, so that a long strip takes no more memory than a square."""
    from PIL import ImageOps

    return ImageOps.fit(image, (side, side), method)


def _fitting(size: tuple[int, int], side: int) -> Iterator[str]:
    if size[0] != size[1]:
        yield f"centre-cropped from {size[0]}×{size[1]}"
    if size != (side, side):
        yield f"resized to {side}×{side}"


def _say(name: str, changes: Changes) -> None:
    """Log each kind of change once; turning, cropping and resizing are what everybody expects."""
    for kind in changes.keys() - _said - {"orientation"}:
        _said.add(kind)
        log.warning("%s: %s; others of the kind likewise, without saying so again", name, changes[kind])
