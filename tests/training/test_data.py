"""Labelled images, batches, augmentation. Kind: training folders."""

from __future__ import annotations

from collections.abc import Callable
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


def without_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def bent(path: Path) -> None:
    """Damage in the middle, which header and end do not show."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def noise(path: Path, kind: str) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save(path, format=kind)
    return path


BREAK: dict[str, Callable[[Path], object]] = {
    "empty.png": Path.touch,
    "page.jpg": lambda path: path.write_text("<html>404</html>"),
    "cut.png": lambda path: without_end(noise(path, "PNG")),
    "cut.jpeg": lambda path: without_end(noise(path, "JPEG")),
    "cut.webp": lambda path: without_end(noise(path, "WEBP")),
    "scan.jpg": lambda path: noise(path, "TIFF"),
    "folder.png": Path.mkdir,
    "gone.png": lambda path: path.symlink_to("/nowhere"),
    "large.png": lambda path: Image.new("1", (9_000, 9_000)).save(path),
}


@pytest.mark.parametrize("name", BREAK)
@pytest.mark.parametrize("decode", [False, True])
def test_broken_pictures_are_found_without_training(folder: Path, name: str, decode: bool) -> None:
    images = FolderImages(folder, 16)
    seen: list[int] = []
    images.verify(decode, seen.append)
    assert sum(seen) == 6
    BREAK[name](folder / "dog" / name)
    if name == "folder.png":
        FolderImages(folder, 16).verify(decode)
        return
    with pytest.raises(DataError, match=rf"1 of 7 pictures cannot be read: .*dog/{name}.*\. Mend or remove"):
        FolderImages(folder, 16).verify(decode)


def test_damage_in_the_middle_takes_a_full_look(folder: Path) -> None:
    bent(noise(folder / "cat" / "bent.png", "PNG"))
    images = FolderImages(folder, 16)
    images.verify()
    with pytest.raises(DataError, match=r"1 of 7 pictures.*bent\.png"):
        images.verify(decode=True)


def test_odd_ends_are_no_damage(folder: Path) -> None:
    """Cameras and tools write after the end; what decodes is taken."""
    for name, kind, after in (
        ("a.jpg", "JPEG", b"\0" * 99),
        ("b.jpg", "JPEG", b"made by a camera"),
        ("c.png", "PNG", b"\n"),
    ):
        path = noise(folder / "cat" / name, kind)
        path.write_bytes(path.read_bytes() + after)
    FolderImages(folder, 16).verify()


def test_many_broken_pictures_are_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for i in range(9):
        (folder / "cat" / f"broken{i}.png").touch()
    with caplog.at_level("INFO"), pytest.raises(DataError, match=r"9 of 15 .*broken4\.png.*; and 4 more"):
        FolderImages(folder, 16).verify()
    assert caplog.text.count("cat/broken") == 9


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
