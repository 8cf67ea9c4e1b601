"""Outliers of activations moved into the weights (SmoothQuant, arXiv 2211.10438), where folding costs nothing at run time.

The inputs of qkv, fc1 and head come from AdaLN, whose scale and shift are rows of the class table: the table is divided, the
weight multiplied. The input of proj is a mean of values, so the factor goes into the values' columns of qkv. fc2's input
passes through GELU, so nothing is exact there and it stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_var_calibration.grids import INT8, Grid
from trt_var_calibration.statistics import METHODS, Statistics

Floats = NDArray[np.float32]
FOLDED = ("qkv", "proj", "fc1", "head")
ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
CLIPS = (1.0, 0.9, 0.8, 0.7, 0.6)
LEAST = 1e-5  # magnitudes below are taken as this


@dataclass(frozen=True)
class Plan:
    """How one layer is quantised.

    Attributes:
        factors: float32 [inputs], what its input is divided by and its weight multiplied; None for none.
        alpha: share of the outliers that moved, 0 for none.
        scale: of the quantised activations.
        error: relative, root of the mean square over the rows that were kept.
    """

    factors: Floats | None
    alpha: float
    scale: float
    error: float


def factors(statistics: Statistics, weight: Floats, alpha: float) -> Floats:
    """What every input channel is divided by, around 1."""
    activations = np.maximum(statistics.channels, LEAST)
    weights = np.maximum(np.abs(weight).max(1), LEAST)
    found = activations**alpha / weights ** (1 - alpha)
    around: Floats = np.clip(found / np.median(found), 1e-3, 1e3).astype(np.float32)
    return around


def quantise_weight(weight: Floats, grid: Grid = INT8) -> tuple[NDArray[Any], Floats]:
    """Numbers of the grid [inputs, outputs] and the scale of every output."""
    scale = np.maximum(np.abs(weight).max(0), LEAST**2) / np.float32(grid.largest)
    return grid.round(weight / scale), scale.astype(np.float32)


def plan(statistics: Statistics, weight: Floats, alpha: float, method: str, grid: Grid = INT8) -> Plan:
    """The best threshold for one α: the method's without migration, a clip of the largest magnitude with it."""
    rows, exact = statistics.rows, statistics.rows @ weight
    if alpha == 0:
        moved, thresholds = None, [METHODS[method](statistics)]
    else:
        moved = factors(statistics, weight, alpha)
        largest = float((statistics.channels / moved).max(initial=0))
        thresholds = [clip * largest for clip in (CLIPS if method != "minmax" else CLIPS[:1])]
        rows, weight = rows / moved, weight * moved[:, None]
    quantised, scales = quantise_weight(weight, grid)
    restored = quantised.astype(np.float32) * scales
    found = {max(threshold, LEAST) / grid.largest: 0.0 for threshold in thresholds}
    for scale in found:
        rounded = grid.round(rows / np.float32(scale)).astype(np.float32) * np.float32(scale)
        found[scale] = float(np.sqrt(((rounded @ restored - exact) ** 2).mean() / max((exact**2).mean(), LEAST**2)))
    best = min(found, key=lambda scale: found[scale])
    return Plan(moved, alpha, best, found[best])


def best_alpha(layers: list[tuple[Statistics, Floats]], method: str, grid: Grid = INT8) -> float:
    """The α, 0 for none, with the least error over the layers of a group."""
    errors = {alpha: sum(plan(*layer, alpha, method, grid).error ** 2 for layer in layers) for alpha in (0.0, *ALPHAS)}
    return min(errors, key=lambda alpha: errors[alpha])
