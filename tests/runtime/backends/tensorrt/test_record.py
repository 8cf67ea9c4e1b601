"""Records of engines: written, read, refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from trt_var.backends.tensorrt import record as engines
from trt_var.backends.tensorrt.record import Batch
from trt_var.errors import BundleError

BATCH = Batch(1, 8, 64)


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
