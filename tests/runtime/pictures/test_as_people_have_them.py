"""Kind: pictures as people have them, with profiles, odd modes and metadata, and files that are no pictures."""

from __future__ import annotations

import io
import logging
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from helpers import assert_close
from trt_var import DataError
from trt_var.pictures import reading
from trt_var.pictures.reading import Picture, read_picture

SIDE = 8
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


@pytest.fixture(autouse=True)
def _unsaid(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(reading, "_said", set())
    yield


def _read(path: Path, image: Image.Image, **options: object) -> Picture:
    image.save(path, **options)  # type: ignore[arg-type]
    return read_picture(path, SIDE)


def _solid(colour: tuple[float, ...]) -> NDArray[np.float64]:
    return np.broadcast_to(colour, (SIDE, SIDE, 3))


def _number(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile of a display, version 2."""
    description = b"desc" + bytes(4) + struct.pack(">I", 6) + b"other\0" + bytes(78)
    tags = {b"desc": description, b"wtpt": b"XYZ " + bytes(4) + b"".join(map(_number, (0.9642, 1, 0.8249))), **tags}
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = struct.pack(">I", start + len(body))
    header = size + bytes(4) + b"\x02\x10\0\0mntr" + space + b"XYZ " + bytes(12) + b"acsp" + bytes(28)
    header += b"".join(map(_number, (0.9642, 1, 0.8249)))
    return header + bytes(128 - len(header)) + table + body


def _gamma(value: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(value * 256)) + bytes(2)


def _xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(map(_number, values))


# columns are the primaries in XYZ under D50: of Adobe's wide RGB, and of sRGB
ADOBE = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
STANDARD = np.array([[0.43607, 0.38506, 0.14308], [0.22250, 0.71688, 0.06062], [0.01393, 0.09710, 0.71417]])
# Adobe's wide RGB, and a grey that is linear
WIDE = _profile(
    b"RGB ",
    {
        b"rXYZ": _xyz(*ADOBE[:, 0]),
        b"gXYZ": _xyz(*ADOBE[:, 1]),
        b"bXYZ": _xyz(*ADOBE[:, 2]),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _gamma(2.2)),
    },
)
LINEAR = _profile(b"GRAY", {b"kTRC": _gamma(1.0)})
COLOUR = (160, 140, 90)
_LIGHT = np.linalg.solve(STANDARD, ADOBE @ (np.array(COLOUR) / 255) ** 2.2)
EXPECTED = tuple(255 * np.where(_LIGHT < 0.0031308, 12.92 * _LIGHT, 1.055 * _LIGHT ** (1 / 2.4) - 0.055))
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_colour_profiles_are_converted(tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture) -> None:
    picture = _read(tmp_path / f"a.{suffix}", Image.new("RGB", (SIDE, SIDE), COLOUR), icc_profile=WIDE)
    assert_close(picture.pixels, _solid(EXPECTED), absolute=5)
    assert np.abs(np.subtract(EXPECTED, COLOUR)).max() > 8
    assert picture.changes == ("colours brought from other to sRGB",)
    assert f"a.{suffix}: colours brought from other to sRGB" in caplog.text


def test_transparency_and_palettes_keep_their_profile(tmp_path: Path) -> None:
    image = Image.new("RGBA", (SIDE, SIDE), (*COLOUR, 255))
    image.putpixel((0, 0), (0, 0, 0, 0))
    picture = _read(tmp_path / "a.png", image, icc_profile=WIDE)
    assert_close(picture.pixels[4:, 4:], np.broadcast_to(EXPECTED, (4, 4, 3)), absolute=3)
    assert picture.clear is not None
    assert picture.clear.sum() == 1
    palette = Image.new("RGB", (SIDE, SIDE), COLOUR).convert("P", palette=Image.Palette.ADAPTIVE)
    assert_close(_read(tmp_path / "p.png", palette, icc_profile=WIDE).pixels, _solid(EXPECTED), absolute=3)


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_grey_profiles(tmp_path: Path, mode: str) -> None:
    deep = Image.fromarray(np.full((SIDE, SIDE), 128 * 257, np.uint16))
    image = deep if mode == "I;16" else Image.new("L", (SIDE, SIDE), 128).convert(mode)
    picture = _read(tmp_path / "a.png", image, icc_profile=LINEAR)
    assert_close(picture.pixels, _solid((188, 188, 188)), absolute=2)  # half of the light


@pytest.mark.parametrize(("mode", "profile"), [("RGB", SRGB), ("L", SRGB), ("RGB", None)])
def test_srgb_is_taken_as_it_is(tmp_path: Path, mode: str, profile: bytes | None) -> None:
    image = Image.effect_noise((SIDE, SIDE), 90).convert(mode)
    picture = _read(tmp_path / "a.png", image, icc_profile=profile)
    assert_close(picture.pixels, np.asarray(image.convert("RGB")))
    assert picture.changes == ()


@pytest.mark.parametrize("profile", [b"hello", WIDE[:200], LINEAR])
def test_profiles_that_cannot_be_used(tmp_path: Path, profile: bytes, caplog: pytest.LogCaptureFixture) -> None:
    picture = _read(tmp_path / "a.jpg", Image.new("RGB", (SIDE, SIDE), "red"), icc_profile=profile, quality=100)
    assert_close(picture.pixels, _solid((255, 0, 0)), absolute=3)
    assert "left aside" in picture.changes[0]
    assert "left aside" in caplog.text


def test_cmyk(tmp_path: Path) -> None:
    picture = _read(tmp_path / "a.jpg", Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0)), quality=100)
    assert_close(picture.pixels, _solid((255, 0, 0)), absolute=3)
    assert picture.changes == ("CMYK without a colour profile converted plainly",)


def _png(colour: int, values: NDArray[np.uint16]) -> bytes:
    """A PNG of 16 bits a channel, [H, W, C]."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits(tmp_path: Path, colour: int, channels: int, caplog: pytest.LogCaptureFixture) -> None:
    values = np.full((SIDE, SIDE, channels), 65535, np.uint16)
    values[:, 4:, : channels - (channels in (2, 4))] = 0x8080
    (tmp_path / "a.png").write_bytes(_png(colour, values))
    picture = read_picture(tmp_path / "a.png", SIDE)
    assert_close(picture.pixels[:, :4], np.full((SIDE, 4, 3), 255))
    assert_close(picture.pixels[:, 4:], np.full((SIDE, 4, 3), 128))
    assert picture.changes == ("16 bits a channel scaled to 8",)
    assert "16 bits" in caplog.text


def test_sixteen_bits_that_are_twelve_or_eight(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(_png(0, np.full((SIDE, SIDE, 1), 255, np.uint16)))
    assert "its brightest value is 255 of 65535" in read_picture(tmp_path / "a.png", SIDE).changes[0]


def test_photographs_of_several_pictures(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (SIDE, SIDE), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second], quality=100)
    picture = read_picture(tmp_path / "a.jpg", SIDE)
    assert_close(picture.pixels, _solid((255, 0, 0)), absolute=3)
    assert picture.changes == ("the first of 2 frames taken",)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(tmp_path: Path, orientation: int) -> None:
    from PIL import ImageOps

    pixels = np.arange(SIDE * SIDE * 3, dtype=np.uint8).reshape(SIDE, SIDE, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = _read(tmp_path / "a.png", Image.fromarray(pixels), exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        assert_close(picture.pixels, np.asarray(ImageOps.exif_transpose(image)))
    assert ("turned as its EXIF says" in picture.changes) == (orientation > 1)


def test_exif_that_pillow_cannot_write_back(tmp_path: Path) -> None:
    """A turned photograph with a tag of type bytes whose value is text."""
    block = b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x07\0\x02\0\0\0\x03hi\0\0\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    assert _read(tmp_path / "a.jpg", Image.new("RGB", (24, 12)), exif=block).size == (12, 24)
    assert _read(tmp_path / "b.jpg", Image.new("RGB", (24, 12)), exif=b"Exif\0\0garbage").size == (24, 12)


def test_transparency_shows_white(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pixels = np.zeros((SIDE, SIDE, 4), np.uint8)
    pixels[:, 2:, 3] = 255
    pixels[:, 4:, 3] = 128
    picture = _read(tmp_path / "a.png", Image.fromarray(pixels))
    assert_close(picture.pixels[0, [0, 2, 4], 0], [255, 0, 127])
    assert picture.changes == ("what is transparent shows white",)
    assert "shows white" in caplog.text


def test_opaque_layers_are_no_transparency(tmp_path: Path) -> None:
    picture = _read(tmp_path / "a.png", Image.new("RGBA", (SIDE, SIDE), (9, 9, 9, 255)))
    assert picture.clear is None
    assert picture.changes == ()


def test_each_kind_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for i in range(3):
            _read(tmp_path / f"{i}.jpg", Image.new("CMYK", (30, 20)))
            _read(tmp_path / f"{i}.png", Image.new("RGBA", (SIDE, SIDE)))
    assert [record.getMessage().partition(": ")[2].partition(";")[0] for record in caplog.records] == [
        "CMYK without a colour profile converted plainly",
        "what is transparent shows white",
    ]


def _box(brand: bytes) -> bytes:
    return struct.pack(">I", 24) + b"ftyp" + brand + bytes(4) + brand + b"mif1" + bytes(200)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_box(b"heic"), "a HEIC photograph; convert it to JPEG"),
        (_box(b"mif1"), "a HEIC photograph"),
        (_box(b"avif"), "an AVIF; save it as PNG or JPEG"),
        (_box(b"isom"), "a video"),
        (b"<!DOCTYPE html>\n<html><body>404", "a web page, as failed downloads are"),
        (b"\n  <HTML lang=en>", "a web page"),
        (b"\xef\xbb\xbf<!doctype html>", "a web page or text"),
        (b'<?xml version="1.0"?><svg xmlns="x">', "an SVG drawing"),
        (b"", "empty"),
        (bytes(4096), "zeros, as a broken-off copy has"),
        (b"\0\x05\x16\x07\0\x02\0\0Mac OS X        ", "what macOS keeps about another file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "git lfs pull"),
        (b"GIF89a" + bytes(99), "a GIF; save it"),
        (b"II*\0" + bytes(99), "a TIFF"),
        (b"%PDF-1.7", "a PDF"),
        (b"PK\x03\x04" + bytes(99), "unpack it"),
        (b"\xff\xd8\xff\xe0" + b"x" * 9, "a damaged JPEG|cannot read"),
        (b"RIFF\x10\0\0\0WEBPjunk", "a damaged WebP|cannot read"),
        (b"just some words", r"no PNG, JPEG or WebP picture$"),
    ],
)
def test_what_is_no_picture(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message) as error:
        read_picture(path, SIDE)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_truncated(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.effect_noise((64, 64), 50).convert("RGB").save(path)
    data = path.read_bytes()
    path.write_bytes(data[: round(len(data) * share)])
    with pytest.raises(DataError, match=f"a.{suffix}"):
        read_picture(path, SIDE)


@pytest.mark.parametrize("bomb", ["profile", "text"])
def test_bombs_in_metadata(tmp_path: Path, bomb: str) -> None:
    """Sixty megabytes of zeros in a few kilobytes."""
    file = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE)).save(file, "PNG")
    kind, head = (b"iCCP", b"a\0\0") if bomb == "profile" else (b"zTXt", b"a\0\0")
    data = head + zlib.compress(bytes(60_000_000), 9)
    chunk = len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(file.getvalue()[:33] + chunk + file.getvalue()[33:])
    try:
        assert read_picture(tmp_path / "a.png", SIDE).pixels.shape == (SIDE, SIDE, 3)
    except DataError as error:
        assert "a.png" in str(error)


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "ü b.png")
    (tmp_path / "link.png").symlink_to("ü b.png")
    for given in ("~/ü b.png", Path("~/link.png"), str(tmp_path / "link.png")):
        assert read_picture(given, SIDE).size == (SIDE, SIDE)
    with pytest.raises(DataError, match="No such file"):
        read_picture("~/missing.png", SIDE)
