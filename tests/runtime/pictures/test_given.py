"""Kind: values as people pass them. Images and masks as files, Pillow images, arrays, tensors and lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from helpers import assert_close, assert_tokens
from trt_var import DataError, Pipeline, UsageError
from trt_var.pictures.given import as_image, as_images, as_mask
from trt_var.requests.checking import MAX_IMAGES

SIDE = 8
HALF = np.zeros((SIDE, SIDE), np.bool_)
HALF[:, SIDE // 2 :] = True
GREYS = np.where(HALF, 255, 0)


@pytest.mark.parametrize("count", [1, 3])
def test_images_of_every_kind(count: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
    tensor = torch.from_numpy(images)
    pillows = [Image.fromarray(image) for image in images]
    kinds = [images, images.tolist(), list(images), images.astype(np.int64), tensor, tensor.long(), list(tensor), pillows]
    kinds += [tuple(pillows), tensor.permute(0, 3, 1, 2), images[:, :, ::-1][:, :, ::-1]]
    kinds += [images[0], images[0].tolist(), tensor[0], pillows[0], tensor[0].permute(2, 0, 1)] if count == 1 else []
    for kind in kinds:
        found = as_images(kind, SIDE)
        assert (found.dtype, found.flags.c_contiguous) == (np.uint8, True)
        assert_close(found, images)


def test_pillow_images_of_every_size_and_mode(image: NDArray[np.uint8], tmp_path: Path) -> None:
    Image.fromarray(image).save(tmp_path / "a.png")
    for given in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.open(tmp_path / "a.png")):
        assert_close(as_images(given, SIDE)[0], image)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK"):
        white = Image.new("RGB", (40, 20), "white").convert(mode)
        pixels, size = as_image(white, SIDE)
        assert_close(pixels, np.full((SIDE, SIDE, 3), 255))
        assert size == (40, 20)
    turned = Image.new("RGB", (SIDE, 2 * SIDE))
    turned.getexif()[0x0112] = 6
    assert as_image(turned, SIDE)[1] == (2 * SIDE, SIDE)


@pytest.mark.parametrize(
    "mask",
    [
        HALF,
        HALF.tolist(),
        HALF.astype(np.uint8),
        HALF.astype(np.int64),
        HALF.astype(np.float32),
        GREYS,
        GREYS.astype(np.uint8),
        GREYS.tolist(),
        HALF[:, :, None],
        HALF[None, None],
        torch.from_numpy(HALF),
        torch.from_numpy(HALF)[None].float(),
        Image.fromarray(HALF),
        Image.fromarray(GREYS.astype(np.uint8)),
        Image.fromarray(GREYS.astype(np.uint8)).convert("RGB"),
        Image.fromarray(GREYS.astype(np.uint8)).resize((40, 20), Image.Resampling.NEAREST),
    ],
)
def test_masks_of_every_kind(mask: Any) -> None:
    found = as_mask(mask, (40, 20) if getattr(mask, "size", None) == (40, 20) else (SIDE, SIDE), SIDE)
    assert found.dtype == np.bool_
    if getattr(mask, "size", None) == (40, 20):
        assert found[:, -1].all() and not found[:, 0].any()
    else:
        assert_close(found, HALF)


def test_transparent_is_black() -> None:
    pixels = np.full((SIDE, SIDE, 4), 255, np.uint8)
    pixels[:, : SIDE // 2, 3] = 0
    assert_close(as_mask(Image.fromarray(pixels), (SIDE, SIDE), SIDE), HALF)


@pytest.mark.parametrize(
    "images",
    [
        None,
        7,
        "missing",
        [],
        object(),
        [[1, 2], [3]],
        np.zeros((0, SIDE, SIDE, 3), np.uint8),
        np.zeros((SIDE, SIDE), np.uint8),
        np.zeros((1, SIDE, SIDE, 4), np.uint8),
        np.zeros((1, SIDE, SIDE, 3)),
        np.full((1, SIDE, SIDE, 3), 256),
        np.full((1, SIDE, SIDE, 3), -1),
        np.zeros((1, SIDE, SIDE, 3), np.bool_),
        torch.zeros((1, SIDE, SIDE, 3), requires_grad=True),
        torch.zeros((1, SIDE, SIDE, 3), device="meta"),
        Image.new("F", (SIDE, SIDE)),
        [Image.new("RGB", (SIDE, SIDE)), None],
    ],
)
def test_what_is_no_image(images: Any) -> None:
    with pytest.raises((UsageError, DataError)) as caught:
        as_images(images, SIDE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "mask",
    [
        None,
        True,
        HALF[:4],
        np.full((SIDE, SIDE), 256),
        np.full((SIDE, SIDE), -1),
        np.full((SIDE, SIDE), 1.5),
        np.full((SIDE, SIDE), np.nan),
        np.zeros((SIDE, SIDE, 3), np.uint8),
        Image.new("L", (SIDE, SIDE + 1)),
        Image.new("F", (SIDE, SIDE)),
        "missing.png",
    ],
)
def test_what_is_no_mask(mask: Any) -> None:
    with pytest.raises((UsageError, DataError)):
        as_mask(mask, (SIDE, SIDE), SIDE)


def test_damaged_pillow_image(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with Image.open(tmp_path / "a.png") as opened, pytest.raises(DataError, match="cannot be read"):
        as_images(opened, SIDE)


def test_one_image_is_one(image: NDArray[np.uint8]) -> None:
    with pytest.raises(UsageError, match="2 images; expected one"):
        as_image([image, image], SIDE)


def test_pipelines_take_them(toy_bundle: Path, image: NDArray[np.uint8]) -> None:
    pillow, mask = Image.fromarray(image), Image.fromarray(GREYS.astype(np.uint8))
    with Pipeline.load(toy_bundle, "onnxruntime") as pipeline:
        expected = pipeline.inpaint(image, HALF, 3, seeds=1)
        for given, region in ((pillow, mask), (image.tolist(), GREYS), (torch.from_numpy(image), torch.from_numpy(HALF))):
            assert pipeline.inpaint(given, region, 3, seeds=1) == expected
        assert pipeline.reconstruct(pillow) == pipeline.reconstruct(image[None])
        wide = pipeline.inpaint(pillow.resize((24, 16)), mask.resize((24, 16)), 3)
        assert wide.images.shape == (1, SIDE, SIDE, 3)


def test_reconstruction_of_more_than_a_request_has(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trt_var.pipeline.DECODER_BATCH", 512)  # for the test's sake: it saves most of the time
    images = np.random.default_rng(0).integers(0, 256, (MAX_IMAGES + 1, SIDE, SIDE, 3), np.uint8)
    with Pipeline.load(toy_bundle, "onnxruntime") as pipeline:
        found = pipeline.reconstruct(images)
        assert found.images.shape == images.shape
        assert_tokens(found.tokens[-1:], pipeline.reconstruct(images[-1]).tokens)


def test_sixteen_bits_are_scaled_as_in_a_file(tmp_path: Path) -> None:
    """Kind: pictures as people have them. Converting such an image as it is would clip all of it to white."""
    grey = Image.fromarray(np.linspace(0, 65_535, SIDE * SIDE).astype(np.uint16).reshape(SIDE, SIDE))
    grey.save(tmp_path / "grey.png")
    expected = np.asarray(grey)[..., None].repeat(3, -1) // 257
    assert_close(as_images([grey], SIDE)[0], expected.astype(np.uint8), absolute=1)
    assert_close(as_images([grey], SIDE), as_images([tmp_path / "grey.png"], SIDE))
