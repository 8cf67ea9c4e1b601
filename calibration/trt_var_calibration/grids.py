"""The numbers that weights and activations are rounded to, and the scales between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

FLOAT32 = np.dtype(np.float32)


@dataclass(frozen=True)
class Grid:
    """A type of eight bits.

    Attributes:
        largest: magnitude that is used of it; ranges are scaled to end there.
        dtype: its NumPy type.
        scales: the type that scales are written in.
    """

    largest: float
    dtype: np.dtype[Any]
    scales: np.dtype[Any] = FLOAT32

    def round(self, scaled: NDArray[np.float32]) -> NDArray[Any]:
        """Numbers in units of the scale → the nearest of the grid, the largest where they are beyond."""
        whole = np.rint(scaled) if self.dtype.kind == "i" else scaled
        return np.clip(whole, -self.largest, self.largest).astype(self.dtype)

    def scale(self, magnitudes: NDArray[np.float32]) -> NDArray[np.float32]:
        """The scales that take largest magnitudes to the end of the grid, as their type holds them: never zero.

        Below the type's normal numbers, where its steps are coarse, rounded up, so that nothing is cut off. float16's steps
        there are those of float16 weights, so nothing is lost; of float32 the smallest normal number is the least, since
        processors may take smaller ones for zero. Zeros get the least too: ONNX Runtime may compute with offset integers,
        and what is left of the offset grows with the scale. Infinite beyond the type's range.
        """
        wanted, limits = magnitudes.astype(np.float64) / self.largest, np.finfo(self.scales)
        least = limits.tiny if self.scales == FLOAT32 else limits.smallest_subnormal
        with np.errstate(over="ignore"):
            held = np.maximum(wanted, least).astype(self.scales)
        coarse = (held < limits.tiny) & (held < wanted)
        return np.where(coarse, np.nextafter(held, self.scales.type(np.inf)), held).astype(np.float32)


INT8 = Grid(127, np.dtype(np.int8))
FP8 = Grid(448, np.dtype(ml_dtypes.float8_e4m3fn))  # E4M3 without infinities, arXiv 2209.05433
GRIDS = {"int8": INT8, "fp8": FP8, "weights": INT8}
