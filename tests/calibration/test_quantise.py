"""Q/DQ bundles: the digits in every mode through the chain, planted outliers, and what is refused."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from calibrating import LABELS, SETTINGS, N, quantised
from helpers import assert_close
from trt_var import Pipeline, Sampling, UsageError
from trt_var.backends.base import Backend
from trt_var.backends.onnxruntime.cpu import OnnxRuntime
from trt_var.bundle.opening import Bundle
from trt_var.decoding.chain import Chain
from trt_var.decoding.editing import psnr
from trt_var.decoding.loop import render
from trt_var.errors import DataError
from trt_var_calibration import cache
from trt_var_calibration.decoder import drawn_maps
from trt_var_calibration.layers import GROUPS, Layer
from trt_var_calibration.observe import Observed, observe
from trt_var_calibration.quantise import Quantisation, _Step, quantise
from trt_var_calibration.sensitivity import agreement, errors, psnr_by_scale, walk
from trt_var_calibration.statistics import Statistics


def test_migration_alone_changes_nothing(
    digits: Bundle, observed: Observed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With factors folded and nothing rounded, the graphs compute what they did."""

    def put(self: object, layer: Layer, weight: NDArray[np.float32], scale: object) -> None:
        layer.weight.const_value = ir.tensor(weight.astype(np.float32), name=layer.weight.name)

    monkeypatch.setattr("trt_var_calibration.quantise.quantise_weight", lambda weight, grid: (weight, None))
    monkeypatch.setattr(_Step, "_quantise_input", lambda *_: None)
    monkeypatch.setattr(_Step, "_dequantise_weight", put)
    out = quantised(digits, observed, tmp_path / "q", alpha=0.6)
    moved = np.load(out.path / "drafter.conditions.npy") - digits.conditions("drafter")
    assert np.abs(moved).max() > 0.1
    expected = walk(digits, LABELS, N, SETTINGS)
    assert max(errors(walk(out, LABELS, N, SETTINGS, expected), expected)) < 1e-4


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_int8_digits(digits: Bundle, observed: Observed, tmp_path: Path, method: str) -> None:
    out = quantised(digits, observed, tmp_path / "q", method=method)
    out.verify()
    assert out.manifest.quantised == {role: dict.fromkeys(GROUPS, "int8") for role in ("drafter", "refiner")}
    for role, model in out.manifest.models.items():
        graph = onnx.load(out.path / f"{role}.onnx", load_external_data=False).graph
        products = [node for node in graph.node if node.op_type == "QuantizeLinear"]
        assert len(products) == 4 * model.depth + 1
        assert (out.path / f"{role}.weights").stat().st_size < 0.3 * (digits.path / f"{role}.weights").stat().st_size
    expected = walk(digits, LABELS, N, SETTINGS)
    walked = walk(out, LABELS, N, SETTINGS, expected)
    found = errors(walked, expected)
    assert max(found) < (0.2 if method == "percentile" else 0.3), found
    same = agreement(walked, expected)
    for equal, decibels in zip(same, psnr_by_scale(out, walked, expected), strict=True):
        assert (decibels == float("inf")) if equal == 1 else (12 < decibels < 60), (equal, decibels)
    assert psnr_by_scale(digits, expected, expected) == [float("inf")] * 6
    with Pipeline(out, OnnxRuntime()) as pipeline, Pipeline(digits, OnnxRuntime()) as reference:
        images = pipeline.generate([1, 2], n_draft=N, teacher=(teacher := reference.generate([1, 2], n_draft=N)).tokens)
        assert_close(images.images, teacher.images, absolute=1)


def test_fp8_digits(digits: Bundle, observed: Observed, tmp_path: Path) -> None:
    """Three bits of mantissa: twice as far off as int8, which the digits' ranges suit."""
    out = quantised(digits, observed, tmp_path / "q", mode="fp8")
    assert out.manifest.quantised == {role: dict.fromkeys(GROUPS, "fp8") for role in ("drafter", "refiner")}
    graph = onnx.load(out.path / "refiner.onnx", load_external_data=False).graph
    kinds = [one.data_type for one in graph.initializer if one.name.endswith(("weight.quantised", "input.zero"))]
    assert kinds == [onnx.TensorProto.FLOAT8E4M3FN] * 2 * (4 * out.manifest.models["refiner"].depth + 1)
    expected = walk(digits, LABELS, N, SETTINGS)
    found = errors(walk(out, LABELS, N, SETTINGS, expected), expected)
    assert max(found) < 0.25, found


def test_int8_decoder(digits: Bundle, observed: Observed, tmp_path: Path) -> None:
    """Two backends that round alike: both near the float decoder's pictures, and nearer each other."""
    maps = drawn_maps(digits, N, SETTINGS, 0)
    report = quantise(digits, observed, Quantisation(), tmp_path, maps=maps)
    out = Bundle.open(tmp_path)
    out.verify()
    assert out.manifest.quantised is not None
    assert out.manifest.quantised["decoder"] == {"convolutions": "int8"}
    assert report["decoder"]["psnr"] > 35, report["decoder"]
    assert (tmp_path / "decoder.weights").stat().st_size < 0.3 * (digits.path / "decoder.weights").stat().st_size
    assert (tmp_path / "decoder.weights").stat().st_mode == (tmp_path / "drafter.weights").stat().st_mode
    pictures = [render_with(backend, bundle, maps) for backend, bundle in ((OnnxRuntime(), digits), (OnnxRuntime(), out))]
    assert float(psnr(pictures[1], pictures[0]).min()) > 35
    pytest.importorskip("openvino")
    from trt_var.backends.openvino.runtime import OpenVino

    assert float(psnr(render_with(OpenVino(bfloat16=False), out, maps), pictures[0]).min()) > 30


def render_with(backend: Backend, bundle: Bundle, maps: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Pictures [n, H, W, 3] of finished maps."""
    chain = Chain(backend, bundle.manifest, {}, (), backend.load(bundle.graph(bundle.manifest.decoder)))
    return backend.download(render(chain, backend.upload(maps)))


def test_weights_alone(digits: Bundle, observed: Observed, tmp_path: Path) -> None:
    out = quantised(digits, {}, tmp_path / "q", mode="weights")
    expected = walk(digits, LABELS, N, SETTINGS)
    assert max(errors(walk(out, LABELS, N, SETTINGS, expected), expected)) < 0.05
    assert "QuantizeLinear" not in {
        node.op_type for node in onnx.load(out.path / "drafter.onnx", load_external_data=False).graph.node
    }


def test_planted_outliers_are_migrated(digits: Bundle, tmp_path: Path) -> None:
    """Channels of the AdaLN outputs ×50, weights ÷50: the same function; migration recovers what min-max loses."""
    script = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/outliers.py"))
    found = script["losses"](digits, tmp_path, N, 20, SETTINGS)
    assert found.function < 1e-4, "the function is the same"
    assert found.plain > 3 * found.clean, found
    assert found.recovered >= 0.8, found


class TestMistakes:
    def test_values(self, digits: Bundle, observed: Observed, tmp_path: Path) -> None:
        for change, message in (
            ({"method": "guess"}, "expected minmax"),
            ({"alpha": 2.0}, "alpha is 2"),
            ({"groups": {"drafter": ("qkv", "x")}}, "there is no group x"),
        ):
            with pytest.raises(UsageError, match=message):
                Quantisation(**change).check()  # type: ignore[arg-type]
        with pytest.raises(DataError, match="the statistics lack blocks"):
            quantised(digits, {"drafter": observed["drafter"]}, tmp_path / "q")

    def test_twice(self, digits: Bundle, observed: Observed, tmp_path: Path) -> None:
        out = quantised(digits, observed, tmp_path / "q")
        with pytest.raises(UsageError, match="quantised already"):
            observe(out, N, 4, SETTINGS)
        with pytest.raises(UsageError, match="quantised already"):
            quantised(out, observed, tmp_path / "r")
        some = quantised(digits, observed, tmp_path / "s", groups={"drafter": ("fc1",), "refiner": ()})
        with pytest.raises(UsageError, match="quantised already"):
            quantised(some, observed, tmp_path / "t", groups={"drafter": ("fc2",), "refiner": ()})

    def test_statistics_of_other_weights_or_no_statistics(self, digits: Bundle, observed: Observed, tmp_path: Path) -> None:
        path = tmp_path / "ranges.npz"
        recipe = cache.Recipe(N, 20, 0, Sampling(top_k=200, temperature=(1.1, 1, 1, 1, 1, 1)), 20)
        cache.save(path, digits.manifest, recipe, observed)
        again, found = cache.load(path, digits.manifest)
        assert again == recipe
        assert (found["refiner"]["head"].channels == observed["refiner"]["head"].channels).all()
        other = msgspec.structs.replace(digits.manifest, vae_origin={"path": "other"})
        with pytest.raises(DataError, match="taken from other weights"):
            cache.load(path, other)
        cache.save(tmp_path / "more.npz", digits.manifest, replace(recipe, done=21), observed)
        with pytest.raises(DataError, match="counts more images"):
            cache.load(tmp_path / "more.npz", digits.manifest)
        for damage in (b"", b"PK\x03\x04junk", path.read_bytes()[:-500]):
            path.write_bytes(damage)
            with pytest.raises(DataError, match="does not hold calibration statistics"):
                cache.load(path, digits.manifest)
        observed = {role: dict(found) for role, found in observed.items()}
        observed["drafter"]["head"] = Statistics(3)
        with pytest.raises(DataError, match="statistics of head are not of 128 channels"):
            quantised(digits, observed, tmp_path / "q")
