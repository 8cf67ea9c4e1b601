"""Kind: promises with their limits. Engines draw every image by itself on request, in one way alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from simulating import assert_same, device
from trt_var import Pipeline
from trt_var.decoding import loop


def test_one_image_in_one_way(
    digits: Path, measured: Callable[[float, float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refiner beside the drafter would be faster here, and reads the prefix in other pieces, which rounds otherwise."""
    measured(1.0, 0.5)
    ways, batches, decode = set(), set(), loop.decode

    def watched(chain: Any, n_draft: int, inputs: Any, **options: Any) -> Iterator[loop.DecodedScale]:
        ways.add(options["shadowed"])
        batches.add(inputs["features"].shape[1])
        return decode(chain, n_draft, inputs, **options)

    monkeypatch.setattr(loop, "decode", watched)
    labels, seeds = [1, 2, 3, 4, 5], [5, 4, 3, 2, 1]
    with Pipeline.load(digits, "tensorrt", batch_invariant=True) as pipeline:
        found = [pipeline.generate(labels, seeds=seeds) for _ in range(3)]
        *_, last = pipeline.stream(labels, seeds=seeds)
        assert device(pipeline).launches > 0
    assert (ways, batches) == ({False}, {1})
    with Pipeline.load(digits, "onnxruntime") as reference:
        for one in (*found, last.generation):
            assert_same(one, reference.generate(labels, seeds=seeds))
