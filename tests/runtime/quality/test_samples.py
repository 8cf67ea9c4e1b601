"""Samples for published evaluators."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from helpers import assert_close
from trt_var import Pipeline
from trt_var.cli.main import main

FILES = ["eval", "--engines", "digits", "--per-class", "2", "--backend", "onnxruntime"]


def test_samples_file(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    assert main([*FILES, "--adm-npz", str(path), "--batch-size", "7"]) == 0
    with np.load(path) as arrays:
        assert arrays.files == ["arr_0"]
        found = arrays["arr_0"]
    assert found.dtype == np.uint8
    with Pipeline.load("digits", "onnxruntime") as pipeline:
        expected = pipeline.generate([label for label in range(10) for _ in range(2)], seeds=0, batch_size=7)
    assert_close(found, expected.images)
