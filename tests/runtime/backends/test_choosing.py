"""Kind: promises with their limits. The backend ``exact``: float32 on ONNX Runtime's CPU provider, or a reason why not."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

from helpers import assert_tokens
from trt_var import BackendError, Pipeline, Sampling, UsageError
from trt_var.backends import choosing
from trt_var.backends.base import arithmetic
from trt_var.bundle.opening import Bundle
from trt_var.cli.main import main


def test_exact_is_float32() -> None:
    with Pipeline.load("digits", "exact") as pipeline, Pipeline.load("digits", "onnxruntime") as other:
        assert pipeline.exact
        assert pipeline.engine.endswith("CPU, float32 arithmetic")
        assert_tokens(*(each.generate([1, 2], sampling=Sampling(top_k=1)).tokens for each in (pipeline, other)))


@pytest.mark.parametrize(
    ("change", "reason"), [({"precision": "fp16"}, "is fp16"), ({"quantised": {"drafter": {"qkv": "int8"}}}, "is quantised")]
)
def test_exact_refuses_other_arithmetic(change: dict[str, object], reason: str) -> None:
    bundle = Bundle.open("digits")
    bundle.manifest = msgspec.structs.replace(bundle.manifest, **change)
    with pytest.raises(BackendError, match=reason):
        choosing.create("exact", bundle)


def test_exact_without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "trt_var.backends.onnxruntime.runtime")
    with pytest.raises(BackendError, match="pip install"):
        choosing.create("exact")


def test_unknown_names_are_told_of_exact() -> None:
    with pytest.raises(UsageError, match="expected auto, exact"):
        choosing.create("precise")


def test_commands_take_exact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "a.png")
    assert (
        main(["run", "--engines", "digits", "--labels", "3", "--backend", "exact", "--batch-invariant", "--out", out]) == 0
    )
    assert "CPU, float32 arithmetic" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("ONNX Runtime 1.32.0, CPU, float32 arithmetic", "float32"),
        (
            "ONNX Runtime 1.32.0, CPU, 8-bit products, else float32 arithmetic (CUDA not usable: x)",
            "8-bit products, else float32",
        ),
        ("OpenVINO 2026.4.1, CPU, bfloat16 arithmetic", "bfloat16"),
        ("TensorRT 11.0, NVIDIA H100 (cuda-core), arithmetic of the engines' own types", "the engines' own types"),
        ("something else", "something else"),
    ],
)
def test_arithmetic_of_a_description(description: str, expected: str) -> None:
    assert arithmetic(description) == expected


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("grid", "on"), [("int8", ("onnxruntime", "openvino")), ("weights", ("onnxruntime",)), ("fp8", ())])
def test_products_of_8_bits_are_said_of_backends_that_have_them(name: str, grid: str, on: tuple[str, ...]) -> None:
    packaged = Bundle.open("digits")
    manifest = msgspec.structs.replace(packaged.manifest, quantised={"drafter": {"qkv": grid, "head": "float"}})
    backend = choosing.create(name, Bundle(packaged.path, manifest))
    assert ("8-bit products" in backend.description) == (name in on)
