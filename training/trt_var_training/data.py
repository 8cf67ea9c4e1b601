"""Labelled images for training: folders of pictures, arrays, and augmentation on the batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from trt_var.errors import DataError
from trt_var.pictures.reading import read_picture
from trt_var_export.weights.checkpoint import shown

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
WHITE = 255


class Images(Protocol):
    """Images of one size with class numbers."""

    @property
    def labels(self) -> Sequence[int]: ...

    def load(self, index: int) -> NDArray[np.uint8]:
        """One image, uint8 [H, W, 3].

        Raises:
            DataError: it cannot be read.
        """
        ...


class ArrayImages:
    """Images in memory, uint8 [n, H, W, 3], with n class numbers.

    Raises:
        DataError: of other shapes, or none.
    """

    def __init__(self, images: NDArray[np.uint8], labels: Sequence[int]) -> None:
        if images.ndim != 4 or images.shape[3] != 3 or len(images) != len(labels) or not len(labels):
            raise DataError(f"expected images [n, H, W, 3] and n labels; got {images.shape} and {len(labels)}")
        self.images, self.labels = images, list(labels)

    def load(self, index: int) -> NDArray[np.uint8]:
        """One image, uint8 [H, W, 3]."""
        return self.images[index]


class FolderImages:
    """One folder a class, as ImageNet is usually laid out; classes are numbered in the order of the folders' names.

    Args:
        root: the folder of the classes' folders.
        side: images are centre-cropped to a square and resized to this.

    Raises:
        DataError: no pictures there, or a folder that cannot be read.
    """

    def __init__(self, root: Path, side: int) -> None:
        self.side = side
        self.paths: list[Path] = []
        self.labels: list[int] = []
        try:
            if not root.is_dir():
                raise DataError(f"there is no folder {root}; give a folder with one folder of pictures a class")
            self.classes = sorted(path.name for path in root.iterdir() if path.is_dir())
            for label, name in enumerate(self.classes):
                found = sorted(path for path in (root / name).iterdir() if path.suffix.lower() in SUFFIXES)
                self.paths += found
                self.labels += [label] * len(found)
        except OSError as error:
            name = shown(str(error.filename or root))
            raise DataError(f"cannot read the folder {name}: {error.strerror or error}") from error
        if not self.paths:
            raise DataError(f"no pictures ({', '.join(SUFFIXES)}) in folders below {root}")

    def load(self, index: int) -> NDArray[np.uint8]:
        """One picture, uint8 [S, S, 3], turned as its EXIF says; what is transparent becomes white.

        Raises:
            DataError: damaged, too large, not of 8 bits, or no PNG, JPEG or WebP file.
        """
        picture = read_picture(self.paths[index], self.side)
        if picture.clear is not None:
            picture.pixels[picture.clear] = WHITE
        return picture.pixels


@dataclass(frozen=True)
class Augmentation:
    """Random changes of an image; zeros leave it alone.

    Attributes:
        degrees: largest rotation.
        zoom: largest change of size, each axis by itself, as a fraction.
        shift: largest displacement, as a fraction of the side.
        shear: largest shear, as a fraction.
        flip: mirror every second image.
    """

    degrees: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    shear: float = 0.0
    flip: bool = False

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images [B, 3, H, W] in [−1, 1] → the same shape; borders continue outwards."""
        if self == Augmentation():
            return images
        batch = len(images)
        angle, zoom_x, zoom_y, shift_x, shift_y, shear = (2 * torch.rand(6, batch, generator=generator) - 1).unbind()
        angle = angle * math.radians(self.degrees)
        mirror = 1 - 2 * torch.randint(0, 2, (batch,), generator=generator) if self.flip else torch.ones(batch)
        cos, sin, slant = angle.cos(), angle.sin(), shear * self.shear
        turned = torch.stack((cos, cos * slant + sin, -sin, cos - sin * slant), 1).reshape(-1, 2, 2)  # rotation · shear
        size = torch.stack(((1 + zoom_x * self.zoom) * mirror, 1 + zoom_y * self.zoom), 1)
        offset = 2 * self.shift * torch.stack((shift_x, shift_y), 1)
        theta = torch.cat((turned * size[:, None], offset[:, :, None]), 2)
        where = F.affine_grid(theta, list(images.shape), align_corners=False)
        return F.grid_sample(images, where, mode="bicubic", padding_mode="border", align_corners=False).clamp(-1, 1)


class Batches:
    """The batch of any step, by seed and step alone, so that a resumed run sees what an unbroken one sees.

    Args:
        images: all of one size.
        size: B, images a batch; drawn with replacement.
        seed: 0 or more, however large.
        augmentation: of every batch.
    """

    def __init__(self, images: Images, size: int, seed: int, augmentation: Augmentation = Augmentation()) -> None:
        self._images, self._size, self._seed, self._augmentation = images, size, seed, augmentation

    def __call__(self, step: int) -> tuple[Tensor, Tensor, torch.Generator]:
        """A batch.

        Returns:
            Images, float32 [B, 3, H, W] in [−1, 1]; labels, int64 [B]; a generator for whatever else is random in this step.

        Raises:
            DataError: a picture that cannot be read.
        """
        mixed = np.random.SeedSequence((self._seed, step)).generate_state(1)  # torch's generator takes 32 bits of a seed
        generator = torch.Generator().manual_seed(int(mixed[0]))
        chosen = torch.randint(0, len(self._images.labels), (self._size,), generator=generator).tolist()
        pixels = to_tensor(np.stack([self._images.load(i) for i in chosen]))
        labels = torch.tensor([self._images.labels[i] for i in chosen])
        return self._augmentation(pixels, generator), labels, generator


def to_tensor(images: NDArray[np.uint8]) -> Tensor:
    """Images uint8 [n, H, W, 3] → float32 [n, 3, H, W] in [−1, 1]."""
    return torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
