"""Labelled images for training: folders of pictures, arrays, and augmentation on the batch."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from trt_var.errors import DataError
from trt_var.pictures.checking import unreadable
from trt_var.pictures.reading import read_picture
from trt_var_export.weights.checkpoint import shown
from trt_var_training.classes import assign
from trt_var_training.folders import SUFFIXES, list_folders

log = logging.getLogger(__name__)
WHITE = 255
MAX_SHOWN = 5  # broken pictures in an error


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
    """One folder a class, as ImageNet is usually laid out; ``classes.assign`` says which class a folder is.

    Hidden files and folders and those of the system do not count.

    Args:
        root: the folder of the classes' folders.
        side: images are centre-cropped to a square and resized to this.
        classes: how many the model knows; None for any number.
        names: a line of comma-separated names a class, if the model has names.

    Attributes:
        assignment: folder → class number.
        classes: the folders in the order of their class numbers.
        left_out: what does not count, in sentences for people.

    Raises:
        DataError: no pictures there, a folder that cannot be read, or folders of which it is not clear which classes.
    """

    def __init__(self, root: Path, side: int, classes: int | None = None, names: Sequence[str] = ()) -> None:
        self.root, self.side = root, side
        listing = list_folders(root)
        try:
            self.assignment = assign(list(listing.pictures), classes, names)
        except DataError as error:
            raise DataError(f"{root}: {error}") from error
        self.classes = list(self.assignment.labels)
        self.left_out = list(listing.left_out)
        if empty := [name for name in self.classes if not listing.pictures[name]]:
            if self.assignment.rule == "order" and classes is not None:
                raise DataError(f"{root / empty[0]} holds no pictures ({', '.join(SUFFIXES)}); fill it, or take it out")
            self.left_out.append(f"{len(empty)} classes without pictures, e.g. {shown(empty[0])}")
        self.paths = [path for name in self.classes for path in listing.pictures[name]]
        self.labels = [label for name, label in self.assignment.labels.items() for _ in listing.pictures[name]]

    def is_plain(self) -> bool:
        """Whether the images and labels are those that the first version took: all folders and files, in sorted order."""
        folders = sorted(path.name for path in self.root.iterdir() if path.is_dir())
        found = [
            (path, label)
            for label, name in enumerate(folders)
            for path in sorted((self.root / name).iterdir())
            if path.suffix.lower() in SUFFIXES
        ]
        return found == list(zip(self.paths, self.labels, strict=True))

    def verify(self, decode: bool = False, progress: Callable[[int], object] | None = None) -> None:
        """Look at every picture, so that no training stumbles over one.

        Args:
            decode: every pixel, some 600 pictures of 500×375 a second and core; else headers and the ends of the files, some
                15 000. Damage in the middle of a file then shows only when it is trained on.
            progress: called with how many more have been looked at.

        Raises:
            DataError: pictures that cannot be read, the first ones by name.
        """
        broken = unreadable(self.paths, decode, progress)
        if broken:
            for one in broken:
                log.info("%s", one)
            more = f"; and {len(broken) - MAX_SHOWN} more" if len(broken) > MAX_SHOWN else ""
            raise DataError(
                f"{len(broken)} of {len(self.paths)} pictures cannot be read: {'; '.join(broken[:MAX_SHOWN])}{more}. "
                "Mend or remove them"
            )

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
        skip: steps that an earlier stage has taken; step 0 has the batch that follows them.
    """

    def __init__(
        self, images: Images, size: int, seed: int, augmentation: Augmentation = Augmentation(), skip: int = 0
    ) -> None:
        self._images, self._size, self._seed, self._augmentation, self._skip = images, size, seed, augmentation, skip

    def __call__(self, step: int) -> tuple[Tensor, Tensor, torch.Generator]:
        """A batch.

        Returns:
            Images, float32 [B, 3, H, W] in [−1, 1]; labels, int64 [B]; a generator for whatever else is random in this step.

        Raises:
            DataError: a picture that cannot be read.
        """
        mixed = np.random.SeedSequence((self._seed, self._skip + step)).generate_state(
            1
        )  # torch's generator takes 32 bits of a seed
        generator = torch.Generator().manual_seed(int(mixed[0]))
        chosen = torch.randint(0, len(self._images.labels), (self._size,), generator=generator).tolist()
        pixels = to_tensor(np.stack([self._images.load(i) for i in chosen]))
        labels = torch.tensor([self._images.labels[i] for i in chosen])
        return self._augmentation(pixels, generator), labels, generator


def to_tensor(images: NDArray[np.uint8]) -> Tensor:
    """Images uint8 [n, H, W, 3] → float32 [n, 3, H, W] in [−1, 1]."""
    return torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
