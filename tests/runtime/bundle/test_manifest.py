"""Manifests that are newer, damaged, or make no sense."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers import edit
from trt_var import BundleError
from trt_var.bundle.opening import Bundle
from trt_var.cli.main import main


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
