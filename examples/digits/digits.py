"""Handwritten digits: scikit-learn's 1797 images of 8×8 pixels, enlarged to 32×32.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI repository, the part that
scikit-learn ships; every fifth image of a class is held out and never trained on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from trt_var_training.data import ArrayImages, Augmentation

SIDE = 32
AUGMENTATION = Augmentation(degrees=8, zoom=0.08, shift=0.06, shear=0.12)
JUDGE_AUGMENTATION = Augmentation(degrees=15, zoom=0.15, shift=0.1, shear=0.2)


def splits() -> tuple[ArrayImages, ArrayImages]:
    """Images for training and held-out ones, white on black, uint8 [n, 32, 32, 3]."""
    found = load_digits()
    images = np.stack([_enlarged(image) for image in found.images])
    held_out = np.zeros(len(images), bool)
    for label in range(10):
        held_out[np.flatnonzero(found.target == label)[::5]] = True
    parts = [ArrayImages(images[mask], found.target[mask].tolist()) for mask in (~held_out, held_out)]
    return parts[0], parts[1]


def _enlarged(image: NDArray[np.float64]) -> NDArray[np.uint8]:
    pixels = Image.fromarray(np.round(image / 16 * 255).astype(np.uint8))
    grey = np.asarray(pixels.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    return np.repeat(grey[:, :, None], 3, 2)
