"""Passes and profiles: what a bundle can be asked for, without any TensorRT."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from trt_var.backends.tensorrt import record as engines
from trt_var.backends.tensorrt.record import Batch
from trt_var.bundle.manifest import Manifest
from trt_var.bundle.opening import Bundle
from trt_var.bundle.passes import Pass
from trt_var.errors import BundleError

BATCH = Batch(1, 8, 64)


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return Bundle.open("digits").manifest


def tuned(manifest: Manifest, *serves: int) -> Manifest:
    return msgspec.structs.replace(manifest, serves=serves)


def test_passes_are_those_of_the_decoding_loop(manifest: Manifest) -> None:
    """K = 6, sides 1 2 3 4 6 8: a pass is a scale behind its past, or a hand-over from nothing."""
    assert engines.passes(manifest, "drafter")[3] == Pass("scale 3", 16, 16, 14)
    refiner = engines.passes(manifest, "refiner")
    assert [one.name for one in refiner] == [*(f"scale {k}" for k in range(6)), *(f"hand-over {n}" for n in range(1, 6))]
    assert refiner[-2] == Pass("hand-over 4", 66, 36, 0)
    only = tuned(manifest, 4)
    assert engines.passes(only, "drafter")[-1] == Pass("scale 3", 16, 16, 14)
    assert engines.passes(only, "refiner") == [Pass("scale 5", 64, 64, 66), Pass("hand-over 4", 66, 36, 0)]


def test_every_pass_lies_in_a_profile(manifest: Manifest) -> None:
    for served in (manifest, tuned(manifest, 3), tuned(manifest, 4, 5)):
        for role in ("drafter", "refiner"):
            found = {profile.name: profile for profile in engines.profiles(served, role, BATCH)}
            for one in engines.passes(served, role):
                profile = found.get(one.name) or found["hand-over"]
                for batch in (1, 5, 64):
                    for name, shape in engines.step_shapes(served.models[role], served.code_width, one, batch).items():
                        smallest, usual, largest = profile.shapes[name]
                        assert all(a <= b <= c for a, b, c in zip(smallest, shape, largest, strict=True)), (one, name)
                        assert all(a <= b <= c for a, b, c in zip(smallest, usual, largest, strict=True)), (one, name)


def test_profiles_of_the_vqvae(manifest: Manifest) -> None:
    (decoder,) = engines.profiles(manifest, "decoder", BATCH)
    assert decoder.shapes == {"f_hat": ((1, 8, 8, 8), (8, 8, 8, 8), (8, 8, 8, 8))}
    (quantiser,) = engines.profiles(manifest, "quantise_02", BATCH)
    assert quantiser.shapes["tokens"] == ((9, 1), (9, 8), (9, 64))


def test_records(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no engines at"):
        engines.read_record(tmp_path)
    record = engines.Record(engines.SCHEMA, "rtx", "1.7", "sm89", BATCH, (4,), {})
    (tmp_path / engines.RECORD).write_bytes(msgspec.json.encode(record))
    assert engines.read_record(tmp_path) == record
    (tmp_path / engines.RECORD).write_bytes(msgspec.json.encode(msgspec.structs.replace(record, schema=9)))
    with pytest.raises(BundleError, match="schema 9"):
        engines.read_record(tmp_path)
    (tmp_path / engines.RECORD).write_text("{")
    with pytest.raises(BundleError, match="not a valid record"):
        engines.read_record(tmp_path)


SHAPES = {"past_k_0": ((0, 2, 1, 64), (5, 16, 1, 64), (9, 128, 1, 64)), "uniforms": ((9, 1), (9, 8), (9, 64))}
ENGINE = engines.Engine("drafter.plan", 1, "", {"drafter.onnx": ""}, 1.0, (engines.Profile("scale 3", SHAPES),))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": Batch(0, 8, 64)}, "batch must rise"),
        ({"batch": Batch(1, 64, 8)}, "batch must rise"),
        ({"batch": Batch(1, 8, 257)}, "batch must rise within 1 to 256"),
        ({"plan": "../x.plan"}, "plan of drafter must be a plain file name"),
        ({"plan": ""}, "plan of drafter"),
        ({"sources": {}}, "sources of drafter"),
        ({"sources": {"/etc/passwd": ""}}, "sources of drafter"),
        ({"profiles": ()}, "profiles of drafter"),
        ({"shapes": ((9, 1), (9, 8), (9, 64, 1))}, "profiles of drafter"),
        ({"shapes": ((9, 8), (9, 1), (9, 64))}, "profiles of drafter"),
        ({"shapes": ((0, 1), (9, 8), (9, 64))}, "profiles of drafter"),
    ],
)
def test_records_that_cannot_be_meant(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    batch, shapes = change.get("batch", BATCH), change.get("shapes", SHAPES["uniforms"])
    engine = msgspec.structs.replace(ENGINE, profiles=(engines.Profile("scale 3", SHAPES | {"uniforms": shapes}),))
    engine = msgspec.structs.replace(engine, **{k: v for k, v in change.items() if k not in ("batch", "shapes")})
    record = engines.Record(engines.SCHEMA, "rtx", "1.7", "sm89", batch, (4,), {"drafter": engine})
    (tmp_path / engines.RECORD).write_bytes(msgspec.json.encode(record))
    with pytest.raises(BundleError, match=f"record.json cannot be meant: .*{message}.*; build them with trt-var engines"):
        engines.read_record(tmp_path)


def test_endless_and_other_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "MAX_RECORD", 10)
    (tmp_path / engines.RECORD).write_text("{" * 11)
    with pytest.raises(BundleError, match="larger than 10 bytes"):
        engines.read_record(tmp_path)
    (tmp_path / engines.RECORD).unlink()
    os.mkfifo(tmp_path / engines.RECORD)
    with pytest.raises(BundleError, match="no engines at"):
        engines.read_record(tmp_path)
