"""Inpainting, editing, reconstruction: what is kept, what is drawn, and pictures of every kind as input."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from helpers import assert_close, assert_tokens
from trt_var import DataError, Pipeline, Sampling, UsageError
from trt_var.backends.base import Backend
from trt_var.backends.openvino import OpenVino
from trt_var.bundle.opening import Bundle
from trt_var.cli.main import main
from trt_var.pictures.reading import MAX_PIXELS, box_mask, read_mask, read_picture

GREEDY = Sampling(top_k=1)
SIDE = 8
EVERYTHING, NOTHING = np.ones((SIDE, SIDE), np.bool_), np.zeros((SIDE, SIDE), np.bool_)


@pytest.fixture(scope="module")
def pipeline(toy_bundle: Path) -> Pipeline:
    return Pipeline.load(toy_bundle, "onnxruntime")


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


@pytest.mark.parametrize("n_draft", range(5))
def test_keeping_nothing_is_plain_generation(pipeline: Pipeline, image: NDArray[np.uint8], n_draft: int) -> None:
    found = pipeline.inpaint(image, EVERYTHING, [3, 4], seeds=7, n_draft=n_draft)
    expected = pipeline.generate([3, 4], seeds=7, n_draft=n_draft)
    assert_tokens(found.tokens, expected.tokens)
    assert_close(found.images, expected.images)


@pytest.mark.parametrize("n_draft", range(5))
def test_keeping_everything_is_the_reconstruction(pipeline: Pipeline, image: NDArray[np.uint8], n_draft: int) -> None:
    found = pipeline.inpaint(image, NOTHING, 3, n_draft=n_draft, raw=True)
    assert_close(found.images, pipeline.reconstruct(image[None]).images)
    assert_close(pipeline.inpaint(image, NOTHING, 3, n_draft=n_draft).images[0], image)


@pytest.mark.parametrize("n_draft", range(5))
def test_half(pipeline: Pipeline, image: NDArray[np.uint8], n_draft: int) -> None:
    mask = NOTHING.copy()
    mask[:, SIDE // 2 :] = True
    found = pipeline.inpaint(image, mask, [1, 2], seeds=5, n_draft=n_draft, batch_size=2)
    assert_close(found.images[:, ~mask], np.stack([image[~mask]] * 2))
    assert (found.images[:, mask] != image[mask]).any()
    alone = pipeline.inpaint(image, mask, 2, seeds=6, n_draft=n_draft)
    assert_tokens(found.tokens[1], alone.tokens[0])
    raw = pipeline.inpaint(image, mask, 2, seeds=6, n_draft=n_draft, raw=True)
    assert_close(raw.images[:, mask], alone.images[:, mask])
    assert (raw.images[:, ~mask] != alone.images[:, ~mask]).any()


def test_backends_redraw_the_same(pipeline: Pipeline, toy_bundle: Path, image: NDArray[np.uint8]) -> None:
    mask = EVERYTHING.copy()
    mask[:2] = False
    backend: Backend = OpenVino(bfloat16=False)
    with Pipeline(Bundle.open(toy_bundle), backend) as other:
        for n_draft in (0, 2, 4):
            found, expected = (
                each.inpaint(image, mask, 5, n_draft=n_draft, sampling=GREEDY, raw=True) for each in (other, pipeline)
            )
            assert_tokens(found.tokens, expected.tokens)
            assert_close(found.images, expected.images, absolute=2)


def test_reconstruction_does_not_depend_on_the_batch(pipeline: Pipeline) -> None:
    images = np.random.default_rng(1).integers(0, 256, (11, SIDE, SIDE, 3), np.uint8)
    together, alone = pipeline.reconstruct(images), pipeline.reconstruct(images[9:10])
    assert_tokens(together.tokens[9:10], alone.tokens)
    assert_close(together.images[9:10], alone.images, absolute=1)
    error = np.square(together.images[9].astype(float) - images[9]).mean()
    assert_close(together.psnr[9], 10 * np.log10(255**2 / error), absolute=1e-9)


def test_region_between_cells(pipeline: Pipeline, image: NDArray[np.uint8], caplog: pytest.LogCaptureFixture) -> None:
    mask = NOTHING.copy()
    mask[1, 1] = True
    with pytest.raises(UsageError, match="cells of 2 pixels"):
        pipeline.inpaint(image, mask, 1)
    mask[0, 0] = mask[3, 3] = True
    pipeline.inpaint(image, mask, 1)
    assert "33 % of the region" in caplog.text


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        (np.zeros((SIDE, SIDE), np.uint8), EVERYTHING),
        (np.zeros((SIDE + 2, SIDE, 3), np.uint8), EVERYTHING),
        (np.zeros((SIDE, SIDE, 3), np.float32), EVERYTHING),
        (np.zeros((SIDE, SIDE, 3), np.uint8), EVERYTHING[:4]),
        (np.zeros((SIDE, SIDE, 3), np.uint8), EVERYTHING.astype(np.uint8)),
    ],
)
def test_wrong_arrays(pipeline: Pipeline, image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> None:
    with pytest.raises(UsageError, match=r"expected (uint8|bool)"):
        pipeline.inpaint(image, mask, 1)


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


def _odd_exif() -> bytes:
    """A turned photo with a tag of type bytes whose value is text, which Pillow fails to write back."""
    block = b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x07\0\x02\0\0\0\x03hi\0\0\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    file = io.BytesIO()
    Image.new("RGB", (24, 24)).save(file, "JPEG", exif=block)
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
        (_odd_exif(), "cannot read"),
    ],
)
def test_bad_pictures(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DataError, match=message):
        read_picture(tmp_path / "a.png", SIDE)


def test_no_file_and_sixteen_bits(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_picture(tmp_path / "a.png", SIDE)
    with pytest.raises(DataError, match="cannot read"):
        read_picture(tmp_path, SIDE)
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="8 bits"):
        read_picture(tmp_path / "a.png", SIDE)


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
    for box in ((5, 0, 5, 9), (0, 0, 41, 9), (-1, 0, 4, 4), (9, 9, 3, 12)):
        with pytest.raises(UsageError, match="inside the picture"):
            box_mask(box, (40, 20), SIDE)


@pytest.fixture
def digit(tmp_path: Path) -> Path:
    with Pipeline.load("digits") as pipeline:
        pipeline.generate(3, seeds=1).to_pil()[0].save(tmp_path / "three.png")
    return tmp_path / "three.png"


def test_commands(digit: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(digit.parent)
    common = ["--engines", "digits", "--image", str(digit)]
    assert main(["inpaint", *common, "--box", "16,0,32,32", "--label", "3", "--num", "3", "--out-dir", "all"]) == 0
    assert main(["edit", *common, "--box", "4,4,28,28", "--label", "8"]) == 0
    assert main(["reconstruct", str(digit), str(digit), "--engines", "digits", "--save-npz", "r.npz"]) == 0
    assert "PSNR" in capsys.readouterr().out
    assert Image.open("edit.png").size == (3 * 34 - 2, 32)
    assert Image.open("reconstruct.png").size == (66, 66)
    original = np.array(Image.open(digit))
    for path in sorted(Path("all").iterdir()):
        assert_close(np.array(Image.open(path))[:, :16], original[:, :16])
    with np.load("r.npz") as arrays:
        assert arrays["images"].shape == (2, 32, 32, 3)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ([], 2, "nothing says what to redraw"),
        (["--box", "1,2,3"], 2, "x0,y0,x1,y1"),
        (["--box", "1,2,3,x"], 2, "expected whole numbers"),
        (["--box", "0,0,32,32", "--num", "1000000000000"], 2, "expected 1 to 4096"),
        (["--box", "0,0,32,32", "--out-dir", "black.png"], 1, "no folder"),
        (["--box", "0,0,32,32", "--out", "a.png", "--out-dir", "a.png"], 2, "the same place"),
        (["--box", "0,0,99,9"], 2, "inside the picture, 32×32"),
        (["--box", "0,0,32,32", "--mask", "m.png"], 2, "choose one"),
        (["--mask", "missing.png"], 1, "No such file"),
        (["--mask", "black.png"], 2, "nothing to redraw"),
        (["--box", "0,0,32,32", "--num", "0"], 2, "--num is 0"),
        (["--box", "0,0,32,32", "--out", "missing/x.png"], 1, "there is no folder"),
        (["--box", "0,0,32,32", "--n-draft", "9"], 2, "n_draft is 9"),
    ],
)
def test_bad_requests(
    digit: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(digit.parent)
    Image.new("L", (32, 32)).save("black.png")
    before = sorted(Path().iterdir())
    try:
        found = main(["inpaint", "--engines", "digits", "--image", str(digit), "--label", "3", *options])
    except SystemExit as stopped:  # argparse's own
        found = int(stopped.code or 0)
    assert found == code
    assert message in capsys.readouterr().err
    assert sorted(Path().iterdir()) == before
