"""The released pair's manifest."""

from __future__ import annotations

from pathlib import Path

import pytest

from trt_var.bundle.manifest import Manifest, decode

MANIFEST = Path(__file__).parents[2] / "data" / "d30-d16-fp16.json"


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return decode(MANIFEST.read_bytes(), "d30-d16")
