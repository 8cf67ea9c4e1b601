"""The numbers that weights and activations are rounded to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Grid:
    """A type of eight bits.

    Attributes:
        largest: magnitude that is used of it; ranges are scaled to end there.
        dtype: its NumPy type.
    """

    largest: float
    dtype: np.dtype[Any]

    def round(self, scaled: NDArray[np.float32]) -> NDArray[Any]:
        """Numbers in units of the scale → the nearest of the grid, the largest where they are beyond."""
        whole = np.rint(scaled) if self.dtype.kind == "i" else scaled
        return np.clip(whole, -self.largest, self.largest).astype(self.dtype)


INT8 = Grid(127, np.dtype(np.int8))
FP8 = Grid(448, np.dtype(ml_dtypes.float8_e4m3fn))  # E4M3 without infinities, arXiv 2209.05433
GRIDS = {"int8": INT8, "fp8": FP8, "weights": INT8}
