"""Measuring images: a bundle's judge, the Fréchet distance, and how far two ways of drawing agree.

A judge is a classifier of real pictures that a bundle may hold beside its models, with the statistics of its features
over the real pictures. Source of the distance: Heusel et al., "GANs trained by a two time-scale update rule", 2017.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trt_var.backends import choosing as backends
from trt_var.bundle.opening import Bundle
from trt_var.errors import BundleError, UsageError
from trt_var.files import arrays
from trt_var.pipeline import Pipeline
from trt_var.quality.samples import Progress, Series
from trt_var.requests.results import Generation

BATCH = 256


class Judge:
    """The judge of a bundle.

    Attributes:
        accuracy: share of real pictures, held out from its training, that it classifies right.
        classes: how many it tells apart.

    Raises:
        BundleError: the bundle has none, or it is damaged.
    """

    def __init__(self, bundle: Bundle) -> None:
        judge = bundle.manifest.judge
        if judge is None:
            raise BundleError(f"{bundle.path} holds no judge; name a bundle that does with --judge, e.g. --judge digits")
        self.accuracy, self.classes, self.side = judge.accuracy, bundle.manifest.classes, bundle.manifest.image_side
        self._width = judge.features
        self._mean, self._covariance = _reference(bundle.file(judge.reference), judge.features)
        self._backend = backends.create()
        self._graph = self._backend.load(bundle.graph(judge.graph), exact=True)

    def __call__(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Images uint8 [n, H, W, 3] → the classes seen [n] and features [n, F]."""
        parts = [self._run(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
        return np.concatenate([seen for seen, _ in parts]), np.concatenate([features for _, features in parts])

    def distance(self, features: NDArray[np.float32]) -> float:
        """Fréchet distance of features [n, F] from those of the real pictures that the judge knows.

        It falls with n even for the same distribution: compare equal n only.

        Raises:
            UsageError: fewer than two pictures, which have no covariance.
        """
        if len(features) < 2:
            raise UsageError(f"{len(features)} pictures; a Fréchet distance takes 2 or more")
        values = features.astype(np.float64)
        return frechet_distance(values.mean(0), np.cov(values, rowvar=False), self._mean, self._covariance)

    def _run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        logits = self._backend.empty((len(images), self.classes), np.float32)
        features = self._backend.empty((len(images), self._width), np.float32)
        self._graph.run({"images": self._backend.upload(images)}, {"logits": logits, "features": features})
        return self._backend.download(logits).argmax(1), self._backend.download(features)


def _reference(path: Path, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean [F] and covariance [F, F] of the real pictures' features."""
    floats = ("float32", "float64")
    try:
        arrays.check_npz(path, {"mean": ((width,), floats), "covariance": ((width, width), floats)})
        with np.load(path, allow_pickle=False) as found:
            mean, covariance = found["mean"].astype(np.float64), found["covariance"].astype(np.float64)
    except arrays.UNREADABLE as error:
        raise BundleError(f"{path} holds no mean and covariance ({error}); build the bundle again") from error
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise BundleError(f"{path} holds values that are not finite; build the bundle again")
    return mean, covariance


def frechet_distance(
    mean: NDArray[np.floating],
    covariance: NDArray[np.floating],
    other_mean: NDArray[np.floating],
    other_covariance: NDArray[np.floating],
) -> float:
    """|μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2·(Σ₁^½ Σ₂ Σ₁^½)^½), means [F] and covariances [F, F]."""
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    mixed = np.linalg.eigvalsh(root @ other_covariance @ root).clip(0)
    squared = float(((mean - other_mean) ** 2).sum())
    return squared + float(np.trace(covariance) + np.trace(other_covariance) - 2 * np.sqrt(mixed).sum())


@dataclass(frozen=True)
class Quality:
    """What a judge says of drawn images, and what they cost.

    Attributes:
        accuracy: share of images in which the judge sees the class that was asked for.
        frechet: distance from the real pictures.
        seconds: for one image, in the batches asked for, decoder included.
    """

    accuracy: float
    frechet: float
    seconds: float


class Spread(NamedTuple):
    """Mean and sample deviation, 0 for one value."""

    mean: float
    deviation: float


def spread(values: Sequence[float]) -> Spread:
    """Mean and deviation over rounds."""
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0)


def measure(pipeline: Pipeline, judge: Judge, series: Series, progress: Progress | None = None) -> Quality:
    """Draw a series and have it judged.

    Raises:
        UsageError: judge and pipeline speak of other classes or sizes; a value out of range.
    """
    manifest = pipeline.manifest
    if (judge.classes, judge.side) != (manifest.classes, manifest.image_side):
        raise UsageError(
            f"the judge knows {judge.classes} classes at {judge.side} pixels, the bundle draws {manifest.classes} "
            f"at {manifest.image_side}"
        )
    labels = series.labels(pipeline)
    started = time.monotonic()
    images = np.concatenate([drawn.images for drawn in series.draw(pipeline, progress)])
    seconds = (time.monotonic() - started) / len(labels)
    seen, features = judge(images)
    return Quality(float((seen == labels).mean()), judge.distance(features), seconds)


@dataclass(frozen=True)
class Agreement:
    """How far two generations of the same labels and seeds agree.

    Attributes:
        tokens: share of equal tokens.
        images: share of images whose tokens are all equal.
        psnr: peak signal-to-noise ratio of all pixels in dB, infinite for equal pictures.
        largest: largest difference of a pixel's channel, of 255.
    """

    tokens: float
    images: float
    psnr: float
    largest: int

    def as_json(self) -> dict[str, float | int | None]:
        """As numbers that JSON has: no PSNR for equal pictures."""
        return {**asdict(self), "psnr": None if math.isinf(self.psnr) else self.psnr}


def agreement(found: Generation, expected: Generation) -> Agreement:
    """Compare two generations.

    Raises:
        UsageError: of different sizes.
    """
    if found.images.shape != expected.images.shape or found.tokens.shape != expected.tokens.shape:
        raise UsageError(f"images {found.images.shape} and {expected.images.shape} cannot be compared")
    equal = found.tokens == expected.tokens
    difference = found.images.astype(np.int32) - expected.images
    error = float((difference**2).mean())
    psnr = 10 * math.log10(255**2 / error) if error else math.inf
    return Agreement(float(equal.mean()), float(equal.all(1).mean()), psnr, int(np.abs(difference).max()))
