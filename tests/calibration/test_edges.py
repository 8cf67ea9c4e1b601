"""Kind: int8 edges. Channels, tensors and inputs that are zero, tiny or huge: no zero scale, no number that is none.

Where the rounding of what was planted cannot matter, the tokens are the float bundle's; elsewhere the logits are as near as
int8 usually is.
"""

from __future__ import annotations

import json
import shutil
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from calibrating import LABELS, SETTINGS, N, Plant, Weights, open_digits, planted, quantised
from helpers import assert_tokens, record
from trt_var import Pipeline
from trt_var.backends.base import Backend
from trt_var.backends.onnxruntime.cpu import OnnxRuntime
from trt_var.bundle.manifest import FILE_NAME, Graph
from trt_var.bundle.opening import Bundle
from trt_var.cli.main import main
from trt_var.errors import DataError
from trt_var_calibration.decoder import drawn_maps, quantise_decoder
from trt_var_calibration.observe import Observed, observe
from trt_var_calibration.sensitivity import errors, walk
from trt_var_calibration.statistics import Statistics
from trt_var_export.recipe import Recipe, Silent
from trt_var_export.workshop import Workshop

FEW = 2  # pictures
LAYERS = ("attn.mat_qkv", "attn.proj", "ffn.fc1", "ffn.fc2")


class Transformers(Workshop):
    """Traces the transformers alone; the VQVAE's graphs are those of the digits."""

    def _export_vqvae(self, folder: Path) -> dict[str, Graph]:
        digits = open_digits()
        manifest = digits.manifest
        named = {f"quantise_{k:02d}": graph for k, graph in enumerate(manifest.quantiser)}
        named |= {f"smooth_{k:02d}": graph for k, graph in enumerate(manifest.smooth)}
        named |= {"decoder": manifest.decoder, "encoder": manifest.encoder}
        for name in {name for graph in named.values() for name in (graph.onnx, graph.weights)}:
            shutil.copyfile(digits.path / name, folder / name)
        return named


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The digits in float16."""
    weights, out = Path(__file__).parents[2] / "examples/digits/weights", tmp_path_factory.mktemp("half")
    parts = {part: str(weights / f"{part}.safetensors") for part in ("drafter", "refiner", "vae")}
    Transformers.open(Recipe(**parts, out=out, precision="fp16", compare=False), Silent()).fill(out)
    return Bundle.open(out)


def fill(layer: str, part: str, value: float) -> Plant:
    def plant(weights: Weights, table: NDArray[Any]) -> None:
        for name, content in weights.items():
            if name.startswith("blocks.") and f"{layer}.{part}" in name:
                content[...] = value

    return plant


def silent(weights: Weights, table: NDArray[Any]) -> None:
    """Nothing comes out of fc1, so fc2's input is zero."""
    for part in ("weight", "bias"):
        fill("ffn.fc1", part, 0)(weights, table)


# what is planted, and the group whose rounding it makes immaterial
IMMATERIAL: dict[str, tuple[Plant, str]] = {
    "fc2 of zeros": (fill("ffn.fc2", "weight", 0), "fc2"),
    "fc2 of 1e-38": (fill("ffn.fc2", "weight", 1e-38), "fc2"),
    "fc2 of denormals": (fill("ffn.fc2", "weight", 1e-40), "fc2"),
    "fc2 fed with zeros": (silent, "fc2"),
    "fc1 of zeros": (fill("ffn.fc1", "weight", 0), "fc1"),
    "proj of zeros": (fill("attn.proj", "weight", 0), "proj"),
    "qkv of zeros": (fill("attn.mat_qkv", "weight", 0), "qkv"),
}


def assert_sound(bundle: Bundle) -> None:
    """Every scale of the graphs is a positive number."""
    for model in bundle.manifest.models.values():
        for name, value in ir.load(bundle.path / model.step.onnx).graph.initializers.items():
            if name.endswith(".scale"):
                assert value.const_value is not None
                scale = value.const_value.numpy().astype(np.float32)
                assert (scale > 0).all() and np.isfinite(scale).all(), name
        assert np.isfinite(np.load(bundle.path / model.conditions)).all()


def drawn(bundle: Bundle, backend: Backend) -> NDArray[np.int32]:
    with Pipeline(bundle, backend) as pipeline:
        return pipeline.generate(LABELS, n_draft=N, sampling=SETTINGS).tokens


def only(group: str) -> dict[str, tuple[str, ...]]:
    return {"drafter": (group,), "refiner": (group,)}


@pytest.mark.parametrize("mode", ["int8", "fp8", "weights"])
@pytest.mark.parametrize("name", IMMATERIAL)
def test_tokens_are_the_float_bundles(digits: Bundle, tmp_path: Path, name: str, mode: str) -> None:
    plant, group = IMMATERIAL[name]
    bundle = planted(digits, tmp_path / "float", plant)
    out = quantised(bundle, observe(bundle, N, FEW, SETTINGS), tmp_path / "q", mode=mode, groups=only(group))
    assert_sound(out)
    assert_tokens(drawn(out, OnnxRuntime()), drawn(bundle, OnnxRuntime()))


@pytest.mark.parametrize("mode", ["int8", "fp8", "weights"])
@pytest.mark.parametrize("name", ["fc2 of 1e-38", "fc2 fed with zeros", "fc1 of zeros"])
def test_over_half_precision_too(digits: Bundle, half: Bundle, tmp_path: Path, name: str, mode: str) -> None:
    plant, group = IMMATERIAL[name]
    observed = observe(planted(digits, tmp_path / "single", plant), N, FEW, SETTINGS)
    bundle = planted(half, tmp_path / "half", plant)
    out = quantised(bundle, observed, tmp_path / "q", mode=mode, groups=only(group))
    assert_sound(out)
    assert_tokens(drawn(out, OnnxRuntime()), drawn(bundle, OnnxRuntime()))


def test_on_openvino_too(digits: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    from trt_var.backends.openvino.runtime import OpenVino

    bundle = planted(digits, tmp_path / "float", silent)
    out = quantised(bundle, observe(bundle, N, FEW, SETTINGS), tmp_path / "q", groups=only("fc2"))
    assert_tokens(drawn(out, OpenVino(bfloat16=False)), drawn(bundle, OpenVino(bfloat16=False)))


def uneven(weights: Weights, table: NDArray[Any]) -> None:
    """In every layer: outputs of zeros, of 1e-38 and of denormals, and inputs that do nothing."""
    for name, content in weights.items():
        if any(f"{layer}.weight" in name for layer in LAYERS):
            content[:, 1::16], content[:, 2::16], content[:, 3::16] = 0, 1e-38, 1e-40
            content[5::16] = 0


def loss(out: Bundle, bundle: Bundle) -> float:
    """Of the guided logits on equal history, the worst scale's, in deviations."""
    expected = walk(bundle, LABELS, N, SETTINGS)
    found = errors(walk(out, LABELS, N, SETTINGS, expected), expected)
    assert np.isfinite(found).all()
    return max(found)


@pytest.mark.parametrize("precision", ["single", "half"])
@pytest.mark.parametrize(("mode", "limit"), [("int8", 0.3), ("fp8", 0.5), ("weights", 0.1)])
def test_uneven_channels(
    digits: Bundle, request: pytest.FixtureRequest, tmp_path: Path, mode: str, limit: float, precision: str
) -> None:
    single = planted(digits, tmp_path / "single", uneven)
    bundle = single if precision == "single" else planted(request.getfixturevalue("half"), tmp_path / "half", uneven)
    out = quantised(bundle, observe(single, N, FEW, SETTINGS), tmp_path / "q", mode=mode, alpha=0.5)
    assert_sound(out)
    assert loss(out, bundle) < limit


@pytest.mark.parametrize("precision", ["single", "half"])
def test_one_huge_weight(digits: Bundle, request: pytest.FixtureRequest, tmp_path: Path, precision: str) -> None:
    """Its channel is coarse then, which eight bits cannot help; the others and all scales are sound."""

    def plant(weights: Weights, table: NDArray[Any]) -> None:
        weights["blocks.0.ffn.fc1.weight.T"][7, 7] = weights["blocks.0.attn.proj.weight.T"][7, 7] = 6e4

    single = planted(digits, tmp_path / "single", plant)
    bundle = single if precision == "single" else planted(request.getfixturevalue("half"), tmp_path / "half", plant)
    out = quantised(bundle, observe(single, N, FEW, SETTINGS), tmp_path / "q", groups=only("fc1"))
    assert_sound(out)
    drawn(out, OnnxRuntime())
    before, after = (ir.load(one.path / "drafter.onnx").graph.initializers for one in (bundle, out))
    weight = before["blocks.0.ffn.fc1.weight.T"].const_value.numpy().astype(np.float32)  # type: ignore[union-attr]
    numbers, scale = (
        after[f"blocks.0.ffn.fc1.weight.{part}"].const_value.numpy().astype(np.float32)  # type: ignore[union-attr]
        for part in ("quantised", "scale")
    )
    assert abs(numbers[7, 7]) == 127 and scale[7] > 100 * np.median(scale)
    assert (np.abs(np.delete(numbers, 7, 1)).max(0) == 127).all() and numbers.shape == weight.shape


def tiny_keys(weights: Weights, table: NDArray[Any]) -> None:
    """Queries and keys of a billionth, which their normalisation brings back: the same function."""
    for name, content in weights.items():
        if "attn.mat_qkv.weight" in name:
            content[:, : 2 * len(content)] *= 1e-9
        elif name.endswith("attn.q_bias"):
            content *= 1e-9


def tiny_inputs(weights: Weights, table: NDArray[Any]) -> None:
    """fc1's input a ten-millionth, its weight ten million times: the same function."""
    for block in range((table.shape[1] - 3) // 6):
        table[:, 1 + 6 * block + 3] = (1 + table[:, 1 + 6 * block + 3]) * 1e-7 - 1
        table[:, 1 + 6 * block + 5] *= 1e-7
    for name, content in weights.items():
        if "ffn.fc1.weight" in name:
            content *= 1e7


def test_what_is_tiny_may_matter(digits: Bundle, observed: Observed, tmp_path: Path) -> None:
    """Nothing is taken for zero for its size alone."""
    groups = {"drafter": ("qkv", "fc1"), "refiner": ("qkv", "fc1")}
    usual = loss(quantised(digits, observed, tmp_path / "q", groups=groups), digits)
    bundle = planted(digits, tmp_path / "keys", tiny_keys)
    assert loss(bundle, digits) < 1e-4, "the same function"
    out = quantised(bundle, observe(bundle, N, 20, SETTINGS), tmp_path / "k", groups=groups)
    assert loss(out, bundle) < 1.5 * usual


def test_tiny_activations_keep_their_range(digits: Bundle, observed: Observed, tmp_path: Path) -> None:
    """1 + s of the table is exact to 1e-7 alone, so the function moves a little, and the bundle is compared with itself."""
    usual = loss(quantised(digits, observed, tmp_path / "q", groups=only("fc1"), alpha=0.0), digits)
    bundle = planted(digits, tmp_path / "inputs", tiny_inputs)
    out = quantised(bundle, observe(bundle, N, 20, SETTINGS), tmp_path / "i", groups=only("fc1"), alpha=0.0)
    assert loss(out, bundle) < 1.5 * usual


def test_factors_that_the_table_has_no_room_for(
    digits: Bundle, half: Bundle, observed: Observed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Float16 ends at 65504, and classes that were not drawn may be near: their outliers stay where they are."""

    def plant(weights: Weights, table: NDArray[Any]) -> None:
        table[8, 1 + 5] = 65000

    bundle = planted(half, tmp_path / "half", plant)
    out = quantised(bundle, observed, tmp_path / "q", alpha=0.6, groups=only("fc1"))
    assert_sound(out)
    assert "blocks.0.ffn.fc1 of the drafter: moving its outliers would go beyond" in caplog.text
    assert loss(out, bundle) < 0.3


def test_numbers_that_are_none_are_named(digits: Bundle, half: Bundle, observed: Observed, tmp_path: Path) -> None:
    def plant(weights: Weights, table: NDArray[Any]) -> None:
        weights["blocks.1.ffn.fc2.weight.T"][3, 4] = np.inf

    with pytest.raises(DataError, match=r"blocks.1.ffn.fc2.weight of the drafter is not finite"):
        quantised(planted(digits, tmp_path / "float", plant), observed, tmp_path / "q")
    with pytest.raises(DataError, match=r"the input of .* is not finite in the (drafter|refiner)"):
        observe(planted(digits, tmp_path / "two", plant), N, FEW, SETTINGS)
    many = {role: {name: _times(one, 1e9) for name, one in found.items()} for role, found in observed.items()}
    with pytest.raises(DataError, match=r"the input of .* in the drafter reaches .*, beyond FLOAT16: take float32"):
        quantised(half, many, tmp_path / "r", alpha=0.0)


def _times(one: Statistics, factor: float) -> Statistics:
    found = copy(one)
    found.channels, found.edge, found.rows = (
        one.channels * np.float32(factor),
        one.edge * factor,
        one.rows * np.float32(factor),
    )
    return found


def test_logits_that_are_all_alike() -> None:
    same = [np.zeros((1, 1), np.int32)], [np.zeros((1, 1, 4), np.float32)]
    assert errors(same, same) == [0.0]
    assert errors((same[0], [same[1][0] + 1]), same) == [1.0]


def test_a_decoder_with_channels_of_zeros(digits: Bundle, tmp_path: Path) -> None:
    """Some convolutions' outputs are nothing but zeros, and what comes of it is a picture."""
    model = ir.load(digits.graph(digits.manifest.decoder))
    out = tmp_path / "float"
    bundle = planted(digits, out, lambda *_: None)
    for value in model.graph.initializers.values():
        content = value.const_value.numpy().copy() if value.const_value is not None else np.zeros(0)
        if content.ndim == 4 and len(content) > 3:
            content[1::8], content[2::8] = 0, 1e-38
            value.const_value = ir.tensor(content, name=value.name)
    ir.save(
        model, out / bundle.manifest.decoder.onnx, external_data=bundle.manifest.decoder.weights, size_threshold_bytes=1024
    )
    manifest = json.loads((out / FILE_NAME).read_text())
    for name in ("decoder.onnx", "decoder.weights"):
        record(out, manifest, name)
    (out / FILE_NAME).write_text(json.dumps(manifest))
    maps = drawn_maps(digits, N, SETTINGS, 0)
    (tmp_path / "q").mkdir()
    assert quantise_decoder(Bundle.open(out), maps, tmp_path / "q") > 25


def test_the_command_on_uneven_channels(digits: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Search and comparison say numbers."""
    plant = planted(digits, tmp_path / "float", lambda weights, table: (uneven(weights, table), silent(weights, table)))
    out = tmp_path / "int8"
    call = ["calibrate", "--engines", str(plant.path), "--out", str(out), "--n-draft", str(N), "--calibrate", str(FEW)]
    assert main([*call, "--groups", "fc1,fc2", "--decoder", "int8"]) == 0
    said = capsys.readouterr().out
    assert said.count("logits off by 0.") == 6 and "nan" not in said
    assert_sound(Bundle.open(out))
