"""Opening a bundle: whole, truncated, altered, unreadable."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import edit, record
from trt_var import BundleError, Pipeline
from trt_var.bundle.opening import Bundle


def test_whole_bundle_verifies(toy_bundle: Path) -> None:
    bundle = Bundle.open(toy_bundle)
    bundle.verify()
    assert bundle.schedule.sides == (1, 2, 3, 4)
    assert bundle.manifest.serves == (0, 1, 2, 3, 4)
    report = json.loads((toy_bundle / "report.json").read_text())
    assert len(report["scales"]) == 8
    assert all(entry["logits_max"] < 1e-4 for entry in report["scales"])


def test_missing_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle at"):
        Bundle.open(tmp_path / "nowhere")


def test_truncated_weights(copy: Path) -> None:
    os.truncate(copy / "drafter.weights", 5000)
    with pytest.raises(BundleError, match=r"drafter.weights has 5000 bytes, expected"):
        Bundle.open(copy)


@pytest.mark.parametrize(
    "name", ["drafter.weights", "drafter.onnx", "quantise_01.onnx", "decoder.weights", "drafter.conditions.npy"]
)
def test_altered_file(copy: Path, name: str) -> None:
    with (copy / name).open("r+b") as file:
        file.seek(-20, os.SEEK_END)
        file.write(b"\x00\x01\x02\x03")
    with pytest.raises(BundleError, match=f"{name} was altered"), Pipeline.load(copy, "onnxruntime") as pipeline:
        pipeline.generate(1, n_draft=4)


def test_removed_file(copy: Path) -> None:
    (copy / "decoder.onnx").unlink()
    with pytest.raises(BundleError, match=r"decoder.onnx is missing"):
        Bundle.open(copy)


def test_what_cannot_be_read(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BundleError, match="File name too long"):
        Bundle.open(copy / ("x" * 300))
    bundle = Bundle.open(copy)

    def refused(path: Path) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("trt_var.bundle.opening.file_sha256", refused)
    with pytest.raises(BundleError, match=r"drafter\.onnx: Permission denied"):
        bundle.file("drafter.onnx")


@pytest.mark.parametrize("damage", ["empty", "header", "text", "npz", "nan"])
def test_damaged_condition_tables(copy: Path, damage: str) -> None:
    path = copy / "drafter.conditions.npy"
    table = np.load(path)
    if damage == "nan":
        table[3, 2, 1] = np.nan
        np.save(path, table)
    elif damage == "npz":
        np.savez(path.with_suffix(".npz"), table)
        path.with_suffix(".npz").replace(path)
    else:
        head = path.read_bytes()
        path.write_bytes({"empty": b"", "header": head[:10] + b"(" * 118 + head[128:], "text": b"hello"}[damage])
    edit(copy, lambda manifest: record(copy, manifest, path.name))
    with pytest.raises(BundleError, match=r"condition table|not finite"):
        Bundle.open(copy).conditions("drafter")


@pytest.mark.parametrize(("data", "message"), [(b"\xff\xfe", "no list of class names"), (b"a\nb\n", "names 2 classes")])
def test_damaged_class_names(copy: Path, data: bytes, message: str) -> None:
    (copy / "classes.txt").write_bytes(data)

    def change(manifest: dict[str, Any]) -> None:
        manifest["class_names"] = "classes.txt"
        record(copy, manifest, "classes.txt")

    edit(copy, change)
    with pytest.raises(BundleError, match=message):
        Bundle.open(copy).class_names()


def test_condition_table_of_another_shape(copy: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        shutil.copyfile(copy / "refiner.conditions.npy", copy / "drafter.conditions.npy")
        record(copy, manifest, "drafter.conditions.npy")

    edit(copy, change)
    with pytest.raises(BundleError, match="condition|shape"), Pipeline.load(copy, "onnxruntime") as pipeline:
        pipeline.generate(1, n_draft=4)
