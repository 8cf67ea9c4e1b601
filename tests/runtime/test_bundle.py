from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import GraphProto, TensorProto, helper

from helpers import record
from trt_var import BundleError, Pipeline
from trt_var.bundle import external
from trt_var.bundle.memory import need
from trt_var.bundle.opening import Bundle
from trt_var.cli.main import main


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


@pytest.mark.parametrize("name", ["../outside.onnx", "/etc/hostname", "graphs/../../outside.onnx", "..", "a\\b.onnx"])
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
        lambda m: m.update(vocabulary=1),
        lambda m: m.update(vocabulary=65537),
        lambda m: m.update(max_top_k=97),
        lambda m: m.update(max_top_k=0),
        lambda m: m.update(code_width=0),
        lambda m: m.update(image_side=9),
        lambda m: m.update(image_side=4100),
        lambda m: m.update(schedule=[1, 2, 3, 257], image_side=257),
        lambda m: m.update(classes=10**6 + 1),
        lambda m: m.update(serves=[0, 1, 1]),
        lambda m: m.update(serves=[]),
        lambda m: m.update(vae_channels=0),
        lambda m: m.update(generator="a\x1b[2Jb"),
        lambda m: m["vae_origin"].update(path="a\nb"),
        lambda m: m["models"]["drafter"].update(width=64),
        lambda m: m["models"]["drafter"].update(depth=0),
        lambda m: m["models"]["drafter"].update(heads=300, width=19200),
        lambda m: m["models"]["drafter"].update(parameters=-1),
        lambda m: m["files"]["decoder.onnx"].update(size=-1),
        lambda m: m["files"]["decoder.onnx"].update(sha256="0" * 63),
        lambda m: m["files"]["decoder.onnx"].update(sha256="0" * 64 + "\n"),
        lambda m: m["files"].update({"x" * 256: m["files"]["decoder.onnx"]}),
        lambda m: m["files"].update({"": m["files"]["decoder.onnx"]}),
    ],
)
def test_manifests_that_make_no_sense(copy: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    edit(copy, change)
    with pytest.raises(BundleError):
        Bundle.open(copy)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"schema": "1"}',
        b"\x00\xff",
        b'{"schema":2,"\xff":1}',
        b'{"schema":2,"a":' + b"[" * 99999,
    ],
    ids=range(8),
)
def test_manifests_that_are_no_json(copy: Path, data: bytes) -> None:
    (copy / "manifest.json").write_bytes(data)
    with pytest.raises(BundleError, match="not a valid manifest"):
        Bundle.open(copy)


def test_terminals_see_no_control_characters(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(copy, lambda manifest: manifest.update({"\x1b[31m\n": 1}))
    assert main(["info", str(copy)]) == 1
    error = capsys.readouterr().err
    assert r"\x1b[31m\n" in error
    assert error[:-1].isprintable()


def test_what_cannot_be_read(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BundleError, match="File name too long"):
        Bundle.open(copy / ("x" * 300))
    bundle = Bundle.open(copy)

    def refused(path: Path) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("trt_var.bundle.opening.file_sha256", refused)
    with pytest.raises(BundleError, match=r"drafter\.onnx: Permission denied"):
        bundle.file("drafter.onnx")


def test_weights_that_the_manifest_does_not_list(copy: Path) -> None:
    """A graph whose tensors lie in a file that nobody hashes, in whatever part of the graph they are."""
    (copy / "drafter.weights").rename(copy / "other.weights")
    shutil.copyfile(copy / "other.weights", copy / "drafter.weights")
    data = (copy / "drafter.onnx").read_bytes()
    (copy / "drafter.onnx").write_bytes(data.replace(b"drafter.weights", b"other.weightsss"))

    edit(copy, lambda manifest: record(copy, manifest, "drafter.onnx"))
    with pytest.raises(BundleError, match="reads weights from 'other.weightsss' instead of drafter.weights"):
        Bundle.open(copy).graph(Bundle.open(copy).manifest.models["drafter"].step)


def test_locations_in_every_part_of_a_graph() -> None:
    def outside(name: str) -> TensorProto:
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=name)
        tensor.external_data.add(key="offset", value="0")
        return tensor

    def graph(name: str) -> GraphProto:
        return helper.make_graph([helper.make_node("Constant", [], [name], value=outside(name))], name, [], [])

    node = helper.make_node("If", ["a"], ["b"], then_branch=graph("branch"), tensors=[outside("listed")])
    found = helper.make_graph([node], "whole", [], [], [outside("initializer")])
    found.sparse_initializer.add(values=outside("values"), indices=outside("indices"))
    function = helper.make_function("d", "f", [], ["c"], [helper.make_node("Constant", [], ["c"], value=outside("f"))], [])
    model = helper.make_model(found, functions=[function])
    model.training_info.add(initialization=graph("training"))
    expected = {"branch", "listed", "initializer", "values", "indices", "f", "training"}
    data = model.SerializeToString()
    assert external.locations(data) == expected
    assert external.locations(TensorProto(raw_data=bytes(99)).SerializeToString()) == set()
    for broken in (
        data[:-1],
        b"\x3a",
        b"\x3a\xff\xff\xff\xff\x7f",
        b"\x0b",
        b"\xba\x80\x80\x80\x80\x80\x01\x00",
        b"\xff" * 11,
    ):
        with pytest.raises(ValueError, match="ONNX graph"):
            external.locations(broken)


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


def test_memory_grows_with_the_batch_and_shrinks_with_n(toy_bundle: Path) -> None:
    manifest = Bundle.open(toy_bundle).manifest
    assert need(manifest, 4, 8).cache == 8 * need(manifest, 4, 1).cache
    # cache of the drafter alone: k and v, rows, positions before the last scale, width, float32, blocks
    assert need(manifest, 4, 1).cache == 2 * 2 * 14 * 128 * 4 * 2
    assert need(manifest, 4, 1).weights < need(manifest, 2, 1).weights
