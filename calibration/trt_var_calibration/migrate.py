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
LEAST = 1e-6  # of the largest magnitude: a channel below is taken for one that carries nothing


@dataclass(frozen=True)
class Plan:
    """How one layer is quantised.

    Attributes:
        factors: float32 [inputs], what its input is divided by and its weight multiplied; None for none.
        alpha: share of the outliers that moved, 0 for none.
        scale: of the quantised activations; 0 where these were never anything but zero, and so have no range.
        error: relative, root of the mean square over the rows that were kept.
    """

    factors: Floats | None
    alpha: float
    scale: float
    error: float


def factors(statistics: Statistics, weight: Floats, alpha: float) -> Floats:
    """What every input channel is divided by, around 1."""
    activations, weights = statistics.channels.astype(np.float64), np.abs(weight).max(1).astype(np.float64)
    alive = activations > LEAST * activations.max(initial=0)
    if not weights.any() or not alive.any():
        return np.ones(len(weights), np.float32)
    weights = np.maximum(weights, LEAST * weights.max())
    found = np.where(alive, activations, 1) ** alpha / weights ** (1 - alpha)
    around = np.clip(found / np.median(found[alive]), 1e-3, 1e3)
    return np.where(alive, around, 1).astype(np.float32)  # a channel that the pictures did not use may carry others'


def quantise_weight(weight: Floats, grid: Grid = INT8) -> tuple[NDArray[Any], Floats]:
    """Numbers of the grid [inputs, outputs] and the scale of every output."""
    scale = grid.scale(np.abs(weight).max(0))
    return grid.round(weight / scale), scale


def plan(statistics: Statistics, weight: Floats, alpha: float, method: str, grid: Grid = INT8) -> Plan:
    """The best threshold for one α: the method's without migration, a clip of the largest magnitude with it."""
    largest = float(statistics.channels.max(initial=0))
    if not grid.scales.type(min(largest, 1)):  # zero in the type that it is rounded from
        return Plan(None, alpha, 0.0, 0.0)
    if alpha == 0:
        moved, thresholds = None, [METHODS[method](statistics) or largest]
    else:
        moved = factors(statistics, weight, alpha)
        largest = float((statistics.channels / moved).max(initial=0))
        thresholds = [clip * largest for clip in (CLIPS if method != "minmax" else CLIPS[:1])]
    found = {float(scale): 0.0 for scale in grid.scale(np.array(thresholds, np.float32))}
    for scale in found:
        found[scale] = _error(statistics.rows, weight, moved, scale, grid)
    best = min(found, key=lambda scale: found[scale])
    return Plan(moved, alpha, best, found[best])


def _error(rows: Floats, weight: Floats, moved: Floats | None, scale: float, grid: Grid) -> float:
    """Relative, root of the mean square of what a product loses by rounding; in units that neither overflow nor vanish."""
    unit_rows, unit_weight = (np.float32(np.abs(values).max(initial=0) or 1) for values in (rows, weight))
    exact = (rows / unit_rows) @ (weight / unit_weight)
    if moved is not None:
        rows, weight = rows / moved, weight * moved[:, None]
    if not np.isfinite(weight).all():
        return float(np.finfo(np.float32).max)
    quantised, scales = quantise_weight(weight, grid)
    restored = quantised.astype(np.float32) * (scales / unit_weight)
    rounded = grid.round(rows / np.float32(scale)).astype(np.float32) * (np.float32(scale) / unit_rows)
    lost, power = ((rounded @ restored - exact) ** 2).mean(), (exact**2).mean()
    return float(np.sqrt(lost / power)) if power else float(lost > 0)


def best_alpha(layers: list[tuple[Statistics, Floats]], method: str, grid: Grid = INT8) -> float:
    """The α, 0 for none, with the least error over the layers of a group."""
    errors = {alpha: sum(plan(*layer, alpha, method, grid).error ** 2 for layer in layers) for alpha in (0.0, *ALPHAS)}
    return min(errors, key=lambda alpha: errors[alpha])
