"""Given images: to tokens and back, and the region of them that a decoding keeps (the VAR paper, section on editing)."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from trt_var.backends.base import Backend, Graph
from trt_var.bundle.manifest import Manifest
from trt_var.decoding.feeds import Region
from trt_var.errors import UsageError

log = logging.getLogger(__name__)
PEAK = 255.0


def encode(
    backend: Backend, encoder: Graph, manifest: Manifest, images: NDArray[np.uint8]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Images [B, H, W, 3] → tokens [L, B] and f_hat after every scale [K, B, Z, P, P]."""
    batch, side, scales = len(images), manifest.schedule[-1], len(manifest.schedule)
    pixels = images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(PEAK / 2) - 1
    tokens = backend.empty((sum(side**2 for side in manifest.schedule), batch), np.int32)
    f_hats = backend.empty((scales, batch, manifest.code_width, side, side), np.float32)
    encoder.run({"image": backend.upload(np.ascontiguousarray(pixels))}, {"tokens": tokens, "f_hats": f_hats})
    return backend.download(tokens), backend.download(f_hats)


def region(mask: NDArray[np.bool_], f_hats: NDArray[np.float32], manifest: Manifest) -> Region:
    """What a decoding keeps of one image: the cells of f_hat whose pixel (the nearest) is not to be redrawn.

    Args:
        mask: checked, True where the image is redrawn.
        f_hats: [K, Z, P, P], from ``encode``.
        manifest: of the bundle.

    Raises:
        UsageError: a region that falls between the cells altogether.
    """
    image, side = manifest.image_side, manifest.schedule[-1]
    nearest = np.arange(side) * image // side
    redrawn = mask[np.ix_(nearest, nearest)]
    missed = mask & ~np.repeat(np.repeat(redrawn, image // side, 0), image // side, 1)
    if mask.any() and not redrawn.any():
        raise UsageError(
            f"the region falls between the cells of {image // side} pixels in which images are drawn; make it larger"
        )
    if missed.any():
        log.warning(
            "%.0f %% of the region lies in cells of %d pixels that are kept; a region on their borders is redrawn whole",
            100 * missed.sum() / mask.sum(),
            image // side,
        )
    return Region((~redrawn).astype(np.float32), f_hats)


def psnr(found: NDArray[np.uint8], expected: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio of images [n, H, W, 3] in decibels [n], infinite where equal."""
    error = np.square(found.astype(np.float64) - expected).mean((1, 2, 3))
    with np.errstate(divide="ignore"):
        decibels: NDArray[np.float64] = 20 * np.log10(PEAK) - 10 * np.log10(error)
    return decibels
