"""Kind: promises with their limits. int8 products owe nothing to the batch on request, whatever lies between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibrating import quantised
from helpers import assert_close, assert_tokens
from trt_var import BackendError, Pipeline, Sampling
from trt_var.backends.onnxruntime.cpu import OnnxRuntime
from trt_var.backends.openvino.runtime import OpenVino
from trt_var.bundle.opening import Bundle
from trt_var_calibration.observe import Observed

FREE = Sampling(cfg=0.5, top_k=0, top_p=0, temperature=1.5)


def test_int8_does_not_depend_on_the_batch(digits: Bundle, observed: Observed, tmp_path: Path) -> None:
    bundle = quantised(digits, observed, tmp_path / "q")
    labels, seeds, order = np.arange(4), np.arange(100, 104), [2, 0, 3, 1]
    backends: list[Any] = [
        lambda: OnnxRuntime(int8=True),
        lambda: OpenVino(False, ["int8"]),
        lambda: OpenVino(True, ["int8"]),
    ]
    for backend in backends:
        with Pipeline(bundle, backend(), batch_invariant=True) as pipeline:
            assert not pipeline.exact
            expected = pipeline.generate(labels, seeds=seeds, sampling=FREE)
            for size in (1, 3):
                found = pipeline.generate(labels[order], seeds=seeds[order], sampling=FREE, batch_size=size)
                assert_tokens(found.tokens, expected.tokens[order])
                assert_close(found.images, expected.images[order])
            assert expected.provenance is not None
            assert expected.provenance.arithmetic.startswith("8-bit products, else")
    with pytest.raises(BackendError, match="is quantised"):
        Pipeline.load(bundle.path, "exact")
