"""Every pass lies in a profile."""

from __future__ import annotations

from msgspec.structs import replace

from trt_var.backends.tensorrt.profiles import profiles, step_shapes
from trt_var.backends.tensorrt.record import Batch
from trt_var.bundle.manifest import Manifest
from trt_var.bundle.passes import passes

BATCH = Batch(1, 8, 64)


def test_every_pass_lies_in_a_profile(manifest: Manifest) -> None:
    for served in (manifest, replace(manifest, serves=(3,)), replace(manifest, serves=(4, 5))):
        for role in ("drafter", "refiner"):
            found = {profile.name: profile for profile in profiles(served, role, BATCH)}
            for one in passes(served, role):
                profile = found.get(one.name) or found["hand-over"]
                for batch in (1, 5, 64):
                    for name, shape in step_shapes(served.models[role], served.code_width, one, batch).items():
                        smallest, usual, largest = profile.shapes[name]
                        assert all(a <= b <= c for a, b, c in zip(smallest, shape, largest, strict=True)), (one, name)
                        assert all(a <= b <= c for a, b, c in zip(smallest, usual, largest, strict=True)), (one, name)


def test_profiles_of_the_vqvae(manifest: Manifest) -> None:
    (decoder,) = profiles(manifest, "decoder", BATCH)
    assert decoder.shapes == {"f_hat": ((1, 8, 8, 8), (8, 8, 8, 8), (8, 8, 8, 8))}
    (quantiser,) = profiles(manifest, "quantise_02", BATCH)
    assert quantiser.shapes["tokens"] == ((9, 1), (9, 8), (9, 64))
