"""Samples for published evaluators. Kind: published evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers import assert_close
from trt_var import OutputError, Pipeline
from trt_var.cli.main import main
from trt_var.quality.samples import write_images
from trt_var.requests.mixing import by_class, mixed

FILES = ["eval", "--engines", "digits", "--per-class", "2", "--backend", "onnxruntime"]


def test_samples_file(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    assert main([*FILES, "--adm-npz", str(path), "--batch-size", "7"]) == 0
    with np.load(path) as arrays:
        assert arrays.files == ["arr_0"]
        found = arrays["arr_0"]
    assert found.dtype == np.uint8
    order = mixed(20, 10)
    with Pipeline.load("digits", "onnxruntime") as pipeline:
        expected = pipeline.generate((order // 2).tolist(), seeds=order.tolist(), batch_size=7)
    assert_close(found, expected.images)


def inception_score(probabilities: NDArray[np.float64], split: int) -> float:
    """As the ADM evaluator takes it: over consecutive stretches."""
    scores = []
    for start in range(0, len(probabilities), split):
        part = probabilities[start : start + split]
        scores.append(np.exp((part * (np.log(part) - np.log(part.mean(0)))).sum(1).mean()))
    return float(np.mean(scores))


def test_inception_score_is_that_of_a_random_order() -> None:
    """Sorted it collapses, and in strict turns it comes out too high; pictures that a classifier is sure of show both."""
    num, classes, split = 5000, 100, 500
    sure = np.full((classes, classes), 0.05 / (classes - 1))
    np.fill_diagonal(sure, 0.95)
    labels = by_class(num, classes)
    rng = np.random.default_rng(0)
    random = [inception_score(sure[rng.permutation(labels)], split) for _ in range(20)]
    found = inception_score(sure[labels[mixed(num, classes)]], split)
    assert abs(found - np.mean(random)) < 3 * np.std(random)
    assert inception_score(sure[labels], split) < 0.2 * found
    assert inception_score(sure[np.arange(num) % classes], split) > np.mean(random) + 3 * np.std(random)


def test_no_room_is_told_before_the_first_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pieces() -> Iterator[NDArray[np.uint8]]:
        raise AssertionError("drawn")
        yield

    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10**9))
    with pytest.raises(OutputError, match=r"takes 9\.8 GB, and 1\.0 GB are free"):
        write_images(tmp_path / "a.npz", 50_000, 256, pieces())
    assert not list(tmp_path.iterdir())
