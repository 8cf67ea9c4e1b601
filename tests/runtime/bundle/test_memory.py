"""Memory by batch and N."""

from __future__ import annotations

from pathlib import Path

from trt_var.bundle.memory import need
from trt_var.bundle.opening import Bundle


def test_memory_grows_with_the_batch_and_shrinks_with_n(toy_bundle: Path) -> None:
    manifest = Bundle.open(toy_bundle).manifest
    assert need(manifest, 4, 8).cache == 8 * need(manifest, 4, 1).cache
    # cache of the drafter alone: k and v, rows, positions before the last scale, width, float32, blocks
    assert need(manifest, 4, 1).cache == 2 * 2 * 14 * 128 * 4 * 2
    assert need(manifest, 4, 1).weights < need(manifest, 2, 1).weights
