from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import record
from trt_var import BundleError, Pipeline
from trt_var.bundle import Bundle
from trt_var.memory import need


@pytest.fixture
def copy(toy_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_bundle, tmp_path / "bundle"))


def edit(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


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


def test_newer_schema(copy: Path) -> None:
    edit(copy, lambda manifest: manifest.update(schema=99, models="something new"))
    with pytest.raises(BundleError, match="schema 99, this version reads 2: update trt-var"):
        Bundle.open(copy)


@pytest.mark.parametrize("name", ["../outside.onnx", "/etc/hostname", "graphs/../../outside.onnx"])
def test_paths_that_leave_the_bundle(copy: Path, name: str) -> None:
    (copy.parent / "outside.onnx").write_bytes((copy / "decoder.onnx").read_bytes())

    def change(manifest: dict[str, Any]) -> None:
        manifest["decoder"]["onnx"] = name
        manifest["files"][name] = manifest["files"]["decoder.onnx"]

    edit(copy, change)
    with pytest.raises(BundleError, match="outside the bundle"):
        Bundle.open(copy)


def test_links_that_leave_the_bundle(copy: Path) -> None:
    (copy / "decoder.onnx").rename(copy.parent / "outside.onnx")
    (copy / "decoder.onnx").symlink_to(copy.parent / "outside.onnx")
    with pytest.raises(BundleError, match="outside the bundle"):
        Bundle.open(copy)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("schedule"),
        lambda m: m.update(extra=1),
        lambda m: m.update(schedule=[4, 3]),
        lambda m: m.update(schedule=[]),
        lambda m: m.update(quantiser=m["quantiser"][:2]),
        lambda m: m["models"].pop("refiner"),
        lambda m: m["models"].pop("drafter"),
        lambda m: m.update(serves=[77]),
        lambda m: m["files"].pop("drafter.weights"),
        lambda m: m.update(precision="fp4"),
        lambda m: m.update(classes=-1),
        lambda m: m["decoder"].update(onnx=7),
    ],
)
def test_manifests_that_make_no_sense(copy: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    edit(copy, change)
    with pytest.raises(BundleError):
        Bundle.open(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema": "1"}', "\x00\xff"])
def test_manifests_that_are_no_json(copy: Path, text: str) -> None:
    (copy / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match="not a valid manifest"):
        Bundle.open(copy)


def test_condition_table_of_another_shape(copy: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        shutil.copyfile(copy / "refiner.conditions.npy", copy / "drafter.conditions.npy")
        record(copy, manifest, "drafter.conditions.npy")

    edit(copy, change)
    with pytest.raises(BundleError, match="condition|shape"), Pipeline.load(copy, "onnxruntime") as pipeline:
        pipeline.generate(1, n_draft=4)


def test_memory_grows_with_the_batch_and_shrinks_with_n(toy_bundle: Path) -> None:
    manifest = Bundle.open(toy_bundle).manifest
    assert need(manifest, 4, 8).cache == 8 * need(manifest, 4, 1).cache
    # cache of the drafter alone: k and v, rows, positions before the last scale, width, float32, blocks
    assert need(manifest, 4, 1).cache == 2 * 2 * 14 * 128 * 4 * 2
    assert need(manifest, 4, 1).weights < need(manifest, 2, 1).weights
