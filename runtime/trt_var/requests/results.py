"""What the pipeline gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trt_var.bundle.manifest import Role

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Generation:
    """Generated images.

    Attributes:
        images: uint8 [n, H, W, 3].
        tokens: uint16 [n, L], every scale's token map, smallest scale first.
        labels: int64 [n].
        seeds: uint64 [n].
    """

    images: NDArray[np.uint8]
    tokens: NDArray[np.uint16]
    labels: NDArray[np.int64]
    seeds: NDArray[np.uint64]

    def to_pil(self) -> list[Image]:
        """The images as Pillow images."""
        from PIL import Image

        return [Image.fromarray(pixels) for pixels in self.images]


@dataclass(frozen=True)
class Preview:
    """The state after one scale.

    Attributes:
        scale: the scale just drawn, from 0.
        scales: how many there are.
        role: the model that drew it.
        images: uint8 [n, H, W, 3], what is known so far; after the last scale, the result.
        tokens: uint16 [n, tokens so far].
        labels: int64 [n].
        seeds: uint64 [n].
    """

    scale: int
    scales: int
    role: Role
    images: NDArray[np.uint8]
    tokens: NDArray[np.uint16]
    labels: NDArray[np.int64]
    seeds: NDArray[np.uint64]

    @property
    def generation(self) -> Generation:
        """The preview as images of their own; after the last scale, what ``generate`` returns."""
        return Generation(self.images, self.tokens, self.labels, self.seeds)


@dataclass(frozen=True)
class Reconstruction:
    """What the VQVAE makes of given images.

    Attributes:
        images: uint8 [n, H, W, 3].
        tokens: uint16 [n, L].
        psnr: float64 [n], decibels against the given images.
    """

    images: NDArray[np.uint8]
    tokens: NDArray[np.uint16]
    psnr: NDArray[np.float64]
