from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import assert_close
from trt_var.errors import DataError
from trt_var_training.data import ArrayImages, Augmentation, Batches, FolderImages


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for i in range(3):
            pixels = np.full((20, 30 + i, 3), 60 * label + i, np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    (tmp_path / "dog" / "notes.txt").write_text("no picture")
    return tmp_path


def test_folder(folder: Path) -> None:
    images = FolderImages(folder, 16)
    assert images.classes == ["cat", "dog"]
    assert images.labels == [0, 0, 0, 1, 1, 1]
    assert images.load(4).shape == (16, 16, 3)
    assert_close(images.load(4), np.full((16, 16, 3), 61))


def test_folder_errors(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        FolderImages(folder / "nowhere", 16)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no pictures"):
        FolderImages(tmp_path / "empty", 16)
    damaged = folder / "cat" / "0.png"
    damaged.write_bytes(damaged.read_bytes()[:40])
    with pytest.raises(DataError, match=r"cat/0\.png"):
        FolderImages(folder, 16).load(0)
    with pytest.raises(DataError, match=r"cannot read the folder x.*too long"):
        FolderImages(Path("x" * 5000), 16)


def test_pictures_are_read_as_they_are_meant(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    turned = Image.fromarray(np.repeat(np.array([[[0], [255]]], np.uint8), 8, 0).repeat(8, 1).repeat(3, 2))  # 8 × 16
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down, so left and right change places
    turned.save(tmp_path / "a" / "0.png", exif=exif)
    Image.new("RGBA", (8, 8), (10, 20, 30, 0)).save(tmp_path / "a" / "1.png")
    Image.new("RGB", (1, 300_000)).save(tmp_path / "a" / "2.png")
    images = FolderImages(tmp_path, 8)
    assert images.load(0)[:, 0].min() > 200 and images.load(0)[:, -1].max() < 60
    assert images.load(1).min() == 255
    assert images.load(2).shape == (8, 8, 3)


def test_pictures_that_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").write_text("<html>")
    Image.new("1", (9_000, 9_000)).save(tmp_path / "a" / "1.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "a" / "2.png", format="TIFF")
    for index, message in enumerate(("web page", "million", "no PNG, JPEG or WebP")):
        with pytest.raises(DataError, match=message):
            FolderImages(tmp_path, 8).load(index)


def test_a_batch_depends_on_seed_and_step_alone(folder: Path) -> None:
    images = FolderImages(folder, 16)
    one, two = (Batches(images, 4, 7, Augmentation(degrees=10, zoom=0.1, flip=True)) for _ in range(2))
    one(0)
    assert torch.equal(one(5)[0], two(5)[0])
    assert one(5)[1].tolist() == two(5)[1].tolist()
    assert not torch.equal(one(5)[0], one(6)[0])
    for seed in (8, 7 + 2**32, 2**63 - 1):
        assert not torch.equal(Batches(images, 4, seed)(5)[0], Batches(images, 4, 7)(5)[0])


@pytest.mark.parametrize("shape", [(2, 4, 4), (2, 4, 4, 1), (3, 4, 4, 3), (0, 4, 4, 3)])
def test_arrays_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="expected images"):
        ArrayImages(np.zeros(shape, np.uint8), [0] * min(2, shape[0]))


def test_augmentation() -> None:
    images = torch.rand(4, 3, 8, 8) * 2 - 1
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(Augmentation()(images, generator), images)
    flipped = Augmentation(flip=True)(images, generator)
    for image, found in zip(images, flipped, strict=True):
        difference = min((found - image).abs().max(), (found - image.flip(2)).abs().max())
        assert difference < 1e-5, f"neither the image nor its mirror image: {difference:.3g}"
    moved = Augmentation(degrees=20, zoom=0.2, shift=0.1, shear=0.2)(images, generator)
    assert moved.shape == images.shape
    assert moved.abs().max() <= 1
