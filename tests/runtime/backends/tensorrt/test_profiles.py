"""Every pass lies in a profile."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from trt_var.backends.tensorrt.profiles import profiles, step_shapes
from trt_var.backends.tensorrt.record import Batch, Guidance, rows
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


@pytest.mark.parametrize(
    ("guidance", "drafter", "refiner"),
    [
        (("guided",), (2,), (2,)),
        (("free",), (1,), (1,)),
        (("refiner-free",), (2,), (1,)),
        (("guided", "free"), (1, 2), (1, 2)),
        (("guided", "refiner-free"), (2,), (1, 2)),
    ],
)
def test_profiles_by_guidance(
    manifest: Manifest, guidance: tuple[Guidance, ...], drafter: tuple[int, ...], refiner: tuple[int, ...]
) -> None:
    for role, expected in (("drafter", drafter), ("refiner", refiner)):
        assert rows(guidance, role) == expected
        for profile in profiles(manifest, role, BATCH, guidance=guidance):
            counts = [shape[0] for shape in profile.shapes["conditions"]]
            assert counts == [expected[0] * 1, expected[-1] * 8, expected[-1] * 64]
            assert [shape[1] for shape in profile.shapes["past_k_0"]] == counts


def test_profiles_of_the_vqvae(manifest: Manifest) -> None:
    (decoder,) = profiles(manifest, "decoder", BATCH)
    assert decoder.shapes == {"f_hat": ((1, 8, 8, 8), (8, 8, 8, 8), (8, 8, 8, 8))}
    (quantiser,) = profiles(manifest, "quantise_02", BATCH)
    assert quantiser.shapes["tokens"] == ((9, 1), (9, 8), (9, 64))
