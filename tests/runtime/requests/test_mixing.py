"""The order of a series for evaluators. Kind: published evaluation."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from trt_var.requests.mixing import by_class, mixed


@pytest.mark.parametrize(
    ("num", "classes"),
    [(2000, 10), (53, 10), (7, 10), (101, 10), (1003, 10), (5, 1), (1, 1), (50_000, 1000), (250_000, 1000), (9999, 333)],
)
def test_every_stretch_holds_every_class(num: int, classes: int) -> None:
    order = mixed(num, classes)
    assert np.array_equal(np.sort(order), np.arange(num))
    labels = by_class(num, classes)[order]
    for label in np.unique(labels)[:: max(1, classes // 50)]:
        gaps = np.diff(np.flatnonzero(labels == label), prepend=-1, append=num) - 1
        assert gaps.max() < 10 * classes, f"{gaps.max()} images without class {label}"


def test_balanced() -> None:
    for num, classes in ((53, 10), (7, 10), (1000, 3)):
        counts = np.bincount(by_class(num, classes), minlength=classes)
        assert counts.sum() == num
        assert counts.max() - counts.min() <= 1


def test_the_order_is_the_same_everywhere() -> None:
    """A run that was broken off is gone on with on another machine, by another NumPy."""
    assert mixed(12, 3).tolist() == [6, 3, 4, 8, 5, 7, 10, 2, 1, 0, 11, 9]
    assert hashlib.sha256(mixed(50_000, 1000).astype("<i8").tobytes()).hexdigest()[:16] == "8ef907d4c4da0262"
