"""Bundles whose weights are kept in bfloat16."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from conftest import TOY_DRAFTER, TOY_REFINER, TOY_VAE
from helpers import assert_close, random_weights, save_checkpoint
from trt_var import BackendError, Pipeline, UsageError
from trt_var.bundle.opening import Bundle
from trt_var.cli.main import main
from trt_var.decoding.sampling import Sampling
from trt_var_calibration.observe import observe
from trt_var_export.build import build
from trt_var_export.engines import EngineRecipe, build_engines
from trt_var_export.recipe import Precision, Recipe


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, Path]:
    """The same weights, which bfloat16 holds exactly, in both precisions; every graph compared with the torch model."""
    folder = tmp_path_factory.mktemp("precisions")
    shapes = {"drafter": TOY_DRAFTER, "refiner": TOY_REFINER, "vae": TOY_VAE}
    parts = {}
    for seed, (part, shape) in enumerate(shapes.items()):
        weights = random_weights(shape, seed)
        load = weights.load
        weights.load = lambda key, load=load: load(key).bfloat16().float()  # type: ignore[method-assign]
        parts[part] = str(save_checkpoint(weights, folder / f"{part}.pth"))
    kinds: tuple[Precision, ...] = ("fp32", "bf16")
    return {kind: build(Recipe(**parts, out=folder / kind, precision=kind)) for kind in kinds}


def test_weights_take_half(built: dict[Precision, Path]) -> None:
    sizes = {kind: Bundle.open(path).manifest.files for kind, path in built.items()}
    for name in ("drafter.weights", "refiner.weights", "decoder.weights", "drafter.conditions.npy"):
        assert sizes["bf16"][name].size < 0.65 * sizes["fp32"][name].size, name
    assert sizes["bf16"]["quantiser.weights"] == sizes["fp32"]["quantiser.weights"]
    assert Bundle.open(built["bf16"]).manifest.precision == "bf16"


def test_matrices_alone_are_short(built: dict[Precision, Path]) -> None:
    graph = onnx.load(built["bf16"] / "drafter.onnx", load_external_data=False).graph
    short = {value.name for value in graph.initializer if value.data_type == onnx.TensorProto.BFLOAT16}
    parts = ("attn.mat_qkv", "attn.proj", "ffn.fc1", "ffn.fc2")
    assert short == {f"blocks.{block}.{part}.weight" for block in range(2) for part in parts} | {"head.weight"}


def test_float32_arithmetic_gives_the_same(built: dict[Precision, Path]) -> None:
    """Where bfloat16 holds the weights exactly, all that is left is the class table, kept in float16."""
    with Pipeline.load(built["fp32"], "exact") as exact, Pipeline.load(built["bf16"], "onnxruntime") as short:
        expected, found = exact.generate([0, 1, 2]), short.generate([0, 1, 2])
        assert (found.tokens == expected.tokens).mean() > 0.9
        taught = short.generate([0, 1, 2], teacher=expected.tokens)
        assert_close(taught.images.astype(float), expected.images.astype(float), absolute=2)
        assert short.exact
        assert found.provenance.arithmetic == "bfloat16 weights, float32"


def test_openvino(built: dict[Precision, Path]) -> None:
    with Pipeline.load(built["fp32"], "openvino") as long, Pipeline.load(built["bf16"], "openvino") as short:
        expected = long.generate([0, 1, 2])
        taught = short.generate([0, 1, 2], teacher=expected.tokens)
        difference = np.abs(taught.images.astype(float) - expected.images)
        assert difference.mean() < 1, f"max {difference.max()}, mean {difference.mean()}"


def test_refusals(built: dict[Precision, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = Bundle.open(built["bf16"])
    with pytest.raises(BackendError, match="bf16: take the float32 bundle"):
        Pipeline.load(built["bf16"], "exact")
    with pytest.raises(UsageError, match="keeps its weights in bfloat16, for CPUs"):
        build_engines(EngineRecipe(built["bf16"], "simulated"))
    with pytest.raises(UsageError, match="keeps its weights in bfloat16; take the float32"):
        observe(bundle, 2, 4, Sampling())
    out = tmp_path / "int8"
    assert main(["calibrate", "--engines", str(built["bf16"]), "--out", str(out), "--calibrate", "4"]) == 2
    assert "keeps its weights in bfloat16" in capsys.readouterr().err
    assert not out.exists()
