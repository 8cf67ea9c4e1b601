"""Given pictures and masks, whole and damaged."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from helpers import assert_close
from trt_var import DataError, UsageError
from trt_var.pictures.masks import box_mask, read_mask
from trt_var.pictures.reading import MAX_PIXELS, read_picture

SIDE = 8


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (30, 20), (1, 5000)])
def test_any_size(tmp_path: Path, size: tuple[int, int], suffix: str) -> None:
    Image.new("RGB", size, (200, 100, 50)).save(tmp_path / f"a.{suffix}")
    picture = read_picture(tmp_path / f"a.{suffix}", SIDE)
    assert picture.pixels.shape == (SIDE, SIDE, 3)
    assert_close(picture.pixels, np.broadcast_to((200, 100, 50), (SIDE, SIDE, 3)), absolute=6)  # JPEG
    assert picture.size == size
    assert ("resized to 8×8" in picture.changes) == (size != (SIDE, SIDE))
    assert any("centre-cropped" in change for change in picture.changes) == (size[0] != size[1])


def test_a_picture_of_the_right_size_is_taken_as_it_is(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    Image.fromarray(image).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png", SIDE)
    assert_close(picture.pixels, image)
    assert picture.changes == ()
    assert picture.clear is None


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK"])
def test_colour_modes(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new("RGB", (SIDE, SIDE), "white").convert(mode).save(path)
    assert_close(read_picture(path, SIDE).pixels, np.full((SIDE, SIDE, 3), 255), absolute=2)


def test_transparency_is_the_mask(tmp_path: Path) -> None:
    pixels = np.full((SIDE, SIDE, 4), 255, np.uint8)
    pixels[:, 4:, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png", SIDE)
    assert picture.clear is not None
    assert picture.clear[:, 4:].all()
    assert not picture.clear[:, :4].any()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_a_colour_that_stands_for_transparency(tmp_path: Path, mode: str) -> None:
    """PNG's tRNS: one colour, or one grey, is transparent wherever it is."""
    halves = Image.fromarray(np.repeat(np.repeat(np.uint8([[0, 255]]), SIDE // 2, 1), SIDE, 0)).convert(mode)
    key = (0, 0, 0) if mode == "RGB" else halves.getpixel((0, 0))
    halves.save(tmp_path / "a.png", transparency=key)
    picture = read_picture(tmp_path / "a.png", SIDE)
    assert picture.clear is not None
    assert picture.clear[:, : SIDE // 2].all() and not picture.clear[:, SIDE // 2 :].any()
    assert_close(picture.pixels, np.full((SIDE, SIDE, 3), 255))


def test_turned_photo(tmp_path: Path) -> None:
    image = Image.new("RGB", (SIDE, 2 * SIDE))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90°
    image.save(tmp_path / "a.jpg", exif=exif)
    assert read_picture(tmp_path / "a.jpg", SIDE).size == (2 * SIDE, SIDE)


def test_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (SIDE, SIDE), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    picture = read_picture(tmp_path / "a.webp", SIDE)
    assert_close(picture.pixels, np.broadcast_to((255, 0, 0), (SIDE, SIDE, 3)))
    assert picture.changes == ("the first of 2 frames taken",)


def _png(width: int, height: int, body: bytes = b"") -> bytes:
    """A PNG that announces a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def _whole() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no PNG, JPEG or WebP"),
        (b"hello" * 99, "no PNG, JPEG or WebP"),
        (b"GIF89a" + bytes(50), "no PNG, JPEG or WebP"),
        (_whole()[:1500], "cannot read"),
        (_whole()[:20], "cannot read|no PNG"),
        (_png(20000, 20000), "20000×20000|too large"),
        (_png(9000, MAX_PIXELS // 9000 + 1), "64 million"),
        (_png(100, 100), "cannot read"),
    ],
)
def test_bad_pictures(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DataError, match=message):
        read_picture(tmp_path / "a.png", SIDE)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_picture(tmp_path / "a.png", SIDE)
    with pytest.raises(DataError, match="cannot read"):
        read_picture(tmp_path, SIDE)


def test_masks(tmp_path: Path) -> None:
    drawn = np.zeros((20, 40), np.uint8)
    drawn[:, 20:] = 255
    Image.fromarray(drawn).save(tmp_path / "mask.png")
    expected = np.broadcast_to(np.arange(SIDE) >= SIDE // 2, (SIDE, SIDE))
    assert_close(read_mask(tmp_path / "mask.png", (40, 20), SIDE), expected)
    assert_close(box_mask((20, 0, 40, 20), (40, 20), SIDE), expected)
    clear = np.stack([np.full_like(drawn, 255)] * 3 + [drawn], -1)  # white, and transparent where it is kept
    Image.fromarray(clear).save(tmp_path / "clear.png")
    assert_close(read_mask(tmp_path / "clear.png", (40, 20), SIDE), expected)
    with pytest.raises(DataError, match="40×20 pixels; a mask is as large as the picture, 30×30, or 8×8"):
        read_mask(tmp_path / "mask.png", (30, 30), SIDE)
    Image.fromarray(drawn.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert_close(read_mask(tmp_path / "deep.png", (40, 20), SIDE), expected)
    Image.fromarray(drawn // 255).save(tmp_path / "ones.png")
    with pytest.raises(DataError, match="brightest pixel of .* is 1; in a mask, white"):
        read_mask(tmp_path / "ones.png", (40, 20), SIDE)
    for box in ((5, 0, 5, 9), (0, 0, 41, 9), (-1, 0, 4, 4), (9, 9, 3, 12)):
        with pytest.raises(UsageError, match="inside the picture"):
            box_mask(box, (40, 20), SIDE)
