"""The passes that are planned are those of the decoding loop."""

from __future__ import annotations

from msgspec.structs import replace

from trt_var.bundle.manifest import Manifest
from trt_var.bundle.passes import Pass, passes


def test_passes_are_those_of_the_decoding_loop(manifest: Manifest) -> None:
    """K = 6, sides 1 2 3 4 6 8: a pass is a scale behind its past, or a hand-over from nothing."""
    assert passes(manifest, "drafter")[3] == Pass("scale 3", 16, 16, 14)
    refiner = passes(manifest, "refiner")
    assert [one.name for one in refiner] == [*(f"scale {k}" for k in range(6)), *(f"hand-over {n}" for n in range(1, 6))]
    assert refiner[-2] == Pass("hand-over 4", 66, 36, 0)
    only = replace(manifest, serves=(4,))
    assert passes(only, "drafter")[-1] == Pass("scale 3", 16, 16, 14)
    assert passes(only, "refiner") == [Pass("scale 5", 64, 64, 66), Pass("hand-over 4", 66, 36, 0)]
