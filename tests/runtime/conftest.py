"""What tests of several rooms look at."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from trt_var.bundle.manifest import Manifest
from trt_var.bundle.opening import Bundle


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    """Of the shipped digits."""
    return Bundle.open("digits").manifest


@pytest.fixture(scope="session")
def image() -> NDArray[np.uint8]:
    """Noise of the toy models' size."""
    return np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
