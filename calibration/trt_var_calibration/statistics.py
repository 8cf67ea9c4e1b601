"""What is remembered of a layer's input: the largest magnitude of every channel, a histogram, and some rows as they were."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trt_var.errors import DataError

BINS = 2048
ROWS = 64  # kept of each layer, to compare ways of quantising
ORDINARY = 1e-30, 1e30  # ranges whose bins float32 can count
LEVELS = 128  # of a symmetric int8 value's magnitude


class Statistics:
    """Of one tensor [.., channels], over everything that was seen.

    Attributes:
        channels: float32 [C], largest magnitudes.
        histogram: int64 [BINS] of magnitudes from 0 to ``edge``.
        rows: float32 [up to ROWS, C], evenly spread over what was seen.
        seen, stride: how many rows there were, and every how many one is kept.
    """

    def __init__(self, channels: int) -> None:
        self.channels = np.zeros(channels, np.float32)
        self.histogram = np.zeros(BINS, np.int64)
        self.edge = 0.0
        self.rows: NDArray[np.float32] = np.zeros((0, channels), np.float32)
        self.seen = 0
        self.stride = 1

    def add(self, name: str, values: NDArray[np.floating], where: str = "") -> None:
        """Take in [.., C].

        Raises:
            DataError: a value is not finite.
        """
        rows = values.reshape(-1, len(self.channels)).astype(np.float32, copy=False)
        magnitudes = np.abs(rows)
        largest = magnitudes.max(0, initial=0)
        if not np.isfinite(largest).all():
            raise DataError(f"the input of {name} is not finite{where}: these weights overflow, or are damaged")
        self.channels = np.maximum(self.channels, largest)
        self._count(magnitudes, float(largest.max(initial=0)))
        self._keep(rows)

    def _count(self, magnitudes: NDArray[np.float32], largest: float) -> None:
        if self.edge == 0:
            self.edge = largest
        while largest > self.edge:  # twice the range: neighbouring bins become one
            self.histogram = np.concatenate((self.histogram.reshape(-1, 2).sum(1), np.zeros(BINS // 2, np.int64)))
            self.edge *= 2
        if self.edge > 0:
            exact = ORDINARY[0] < self.edge < ORDINARY[1]
            values = magnitudes.ravel() if exact else magnitudes.ravel().astype(np.float64)
            bins = np.minimum(values * (BINS / self.edge), BINS - 1).astype(np.int32)
            self.histogram += np.bincount(bins, minlength=BINS)

    def _keep(self, rows: NDArray[np.float32]) -> None:
        wanted = np.arange(-self.seen % self.stride, len(rows), self.stride)
        self.rows = np.concatenate((self.rows, rows[wanted]))
        self.seen += len(rows)
        while len(self.rows) > ROWS:
            self.rows = self.rows[::2].copy()
            self.stride *= 2


def minmax(statistics: Statistics) -> float:
    """The largest magnitude."""
    return float(statistics.channels.max(initial=0))


def percentile(statistics: Statistics, share: float = 0.9999) -> float:
    """The magnitude that a share of the values does not exceed."""
    total = np.cumsum(statistics.histogram)
    if not total[-1]:
        return 0.0
    return min(float((np.searchsorted(total, share * total[-1]) + 1) * statistics.edge / BINS), minmax(statistics))


def entropy(statistics: Statistics) -> float:
    """The threshold whose clipped and rounded histogram diverges least from the true one (Kullback-Leibler)."""
    counts = statistics.histogram.astype(np.float64)
    if not counts.any():
        return 0.0
    divergences = {}
    for bins in range(LEVELS, BINS + 1, 16):
        clipped = counts[:bins].copy()
        clipped[-1] += counts[bins:].sum()
        level = np.arange(bins) * LEVELS // bins
        filled = counts[:bins] > 0
        mass = np.bincount(level, counts[:bins], LEVELS)
        spread = np.bincount(level, filled, LEVELS)
        rounded = np.where(filled, mass[level] / np.maximum(spread[level], 1), 0)
        both = (clipped > 0) & (rounded > 0)
        p, q = clipped / clipped.sum(), rounded / max(rounded.sum(), 1e-30)
        divergences[bins] = float((p[both] * np.log(p[both] / q[both])).sum()) + float(p[(clipped > 0) & ~both].sum())
    best = min(divergences, key=lambda bins: divergences[bins])
    return min(best * statistics.edge / BINS, minmax(statistics))


METHODS = {"minmax": minmax, "percentile": percentile, "entropy": entropy}
