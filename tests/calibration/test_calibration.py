"""Statistics, migration and Q/DQ bundles: the arithmetic by itself, then digits and planted outliers through the chain."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers import assert_close, record
from numpy.typing import NDArray
from trt_var import Pipeline, Sampling, UsageError
from trt_var.bundle import PACKAGED, Bundle
from trt_var.calibration import cache, migrate
from trt_var.calibration.layers import GROUPS, Layer, layers
from trt_var.calibration.observe import Observed, observe
from trt_var.calibration.quantise import Quantisation, _Step, quantise
from trt_var.calibration.sensitivity import agreement, errors, psnr_by_scale, walk
from trt_var.calibration.statistics import BINS, ROWS, Statistics, entropy, minmax, percentile
from trt_var.cli import main
from trt_var.errors import DataError
from trt_var.manifest import Manifest

N = 4
LABELS = (0, 3, 6, 9)
SETTINGS = Sampling(cfg=1.5, top_k=200)


@pytest.fixture(scope="module")
def digits() -> Bundle:
    return Bundle.open(PACKAGED / "digits")


@pytest.fixture(scope="module")
def observed(digits: Bundle) -> Observed:
    return observe(digits, N, 20, SETTINGS)


def quantised(bundle: Bundle, observed: Observed, folder: Path, **change: object) -> Bundle:
    folder.mkdir()
    quantise(bundle, observed, Quantisation(**change), folder)  # type: ignore[arg-type]
    return Bundle.open(folder)


class TestStatistics:
    def test_channels_histogram_and_rows(self) -> None:
        rng = np.random.default_rng(0)
        parts = [rng.standard_normal((n, 2, 8), np.float32) * 10**k for k, n in enumerate((5, 40, 700))]
        found = Statistics(8)
        for part in parts:
            found.add("x", part)
        everything = np.concatenate([part.reshape(-1, 8) for part in parts])
        assert_close(found.channels, np.abs(everything).max(0))
        assert found.histogram.sum() == everything.size
        assert found.edge >= minmax(found) == np.abs(everything).max()
        assert_close(percentile(found, 0.99), np.quantile(np.abs(everything), 0.99), absolute=2 * found.edge / BINS)
        assert ROWS / 2 <= len(found.rows) <= ROWS
        assert all((everything == row).all(1).any() for row in found.rows)

    def test_entropy_clips_a_long_tail(self) -> None:
        found = Statistics(4)
        values = np.random.default_rng(1).standard_normal((20000, 4)).astype(np.float32)
        values[0, 0] = 60
        found.add("x", values)
        assert 2.5 < entropy(found) < 30
        assert minmax(found) == 60

    def test_not_finite(self) -> None:
        with pytest.raises(DataError, match=r"the input of blocks\.1\.ffn\.fc2 is not finite"):
            Statistics(2).add("blocks.1.ffn.fc2", np.array([[1, np.nan]]))


class TestMigration:
    def test_weights_round_to_127_levels_an_output(self) -> None:
        weight = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32) * np.logspace(
            -3, 3, 32, dtype=np.float32
        )
        found, scale = migrate.quantise_weight(weight)
        assert found.min() >= -127
        assert_close((found * scale - weight) / np.abs(weight).max(0), 0 * weight, absolute=0.51 / 127)

    def test_outlier_channels(self) -> None:
        rng = np.random.default_rng(0)
        rows, weight = rng.standard_normal((500, 64)).astype(np.float32), rng.standard_normal((64, 32)).astype(np.float32)
        statistics = Statistics(64)
        rows[:, 5] *= 50
        weight[5] /= 50
        statistics.add("x", rows)
        plain = migrate.plan(statistics, weight, 0, "minmax")
        alpha = migrate.best_alpha([(statistics, weight)], "minmax")
        moved = migrate.plan(statistics, weight, alpha, "minmax")
        assert alpha > 0
        assert moved.error < plain.error / 5, (moved.error, plain.error)


def test_every_layer_is_seen_as_often_as_it_runs(digits: Bundle, observed: Observed) -> None:
    """Both branches; the drafter on its scales, the refiner on all: prefix and its own."""
    tokens = {"drafter": sum(side**2 for side in (1, 2, 3, 4)), "refiner": sum(side**2 for side in (1, 2, 3, 4, 6, 8))}
    for role, model in digits.manifest.models.items():
        assert len(observed[role]) == 4 * model.depth + 1
        seen = observed[role]["blocks.0.attn.mat_qkv"]
        assert seen.histogram.sum() == 20 * 2 * tokens[role] * model.width
    drawn = observed["refiner"]["head"].histogram.sum()
    assert drawn == 20 * 2 * (36 + 64) * 64, "logits are computed for drawn scales alone"


def test_same_seed_same_statistics(digits: Bundle, observed: Observed) -> None:
    again = observe(digits, N, 20, SETTINGS)
    for role, found in observed.items():
        for name, one in found.items():
            assert (again[role][name].histogram == one.histogram).all()
            assert (again[role][name].rows == one.rows).all()


def test_migration_alone_changes_nothing(
    digits: Bundle, observed: Observed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With factors folded and nothing rounded, the graphs compute what they did."""

    def put(self: object, layer: Layer, weight: NDArray[np.float32], scale: object) -> None:
        layer.weight.const_value = ir.tensor(weight.astype(np.float32), name=layer.weight.name)

    monkeypatch.setattr("trt_var.calibration.quantise.quantise_weight", lambda weight, grid: (weight, None))
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
    with Pipeline(out, _onnxruntime()) as pipeline, Pipeline(digits, _onnxruntime()) as reference:
        images = pipeline.generate([1, 2], n_draft=N, teacher=(teacher := reference.generate([1, 2], n_draft=N)).tokens)
        assert_close(images.images, teacher.images, absolute=1)


def test_weights_alone(digits: Bundle, observed: Observed, tmp_path: Path) -> None:
    out = quantised(digits, {}, tmp_path / "q", mode="weights")
    expected = walk(digits, LABELS, N, SETTINGS)
    assert max(errors(walk(out, LABELS, N, SETTINGS, expected), expected)) < 0.05
    assert "QuantizeLinear" not in {
        node.op_type for node in onnx.load(out.path / "drafter.onnx", load_external_data=False).graph.node
    }


def test_planted_outliers_are_migrated(digits: Bundle, tmp_path: Path) -> None:
    """Channels of the AdaLN outputs ×50, weights ÷50: the same function; migration recovers what min-max loses."""
    planted = _plant(digits, tmp_path / "planted")
    expected = walk(digits, LABELS, N, SETTINGS)
    assert max(errors(walk(planted, LABELS, N, SETTINGS, expected), expected)) < 1e-4, "the function is the same"
    observed = observe(planted, N, 20, SETTINGS)
    found = {}
    for name, alpha in (("plain", 0.0), ("migrated", None)):
        out = quantised(planted, observed, tmp_path / name, method="minmax", alpha=alpha)
        found[name] = max(errors(walk(out, LABELS, N, SETTINGS, expected), expected))
    clean = quantised(digits, observe(digits, N, 20, SETTINGS), tmp_path / "clean", method="minmax", alpha=0.0)
    floor = max(errors(walk(clean, LABELS, N, SETTINGS, expected), expected))
    assert found["plain"] > 3 * floor, (found, floor)
    recovered = (found["plain"] - found["migrated"]) / (found["plain"] - floor)
    assert recovered >= 0.8, (recovered, found, floor)


def _plant(bundle: Bundle, out: Path) -> Bundle:
    shutil.copytree(bundle.path, out)
    manifest = json.loads((out / "manifest.json").read_text())
    for role, model in bundle.manifest.models.items():
        path, table = out / f"{role}.onnx", np.load(out / model.conditions)
        graph = ir.load(bundle.path / path.name)
        for layer in layers(graph):
            if layer.group not in ("qkv", "fc1"):
                continue
            channels = np.ones(model.width, np.float32)
            channels[[3, 17, 40]] = 50
            first, (scale, shift) = 1 + 6 * (layer.block or 0), {"qkv": (2, 4), "fc1": (3, 5)}[layer.group]
            table[:, first + scale] = (1 + table[:, first + scale]) * channels - 1
            table[:, first + shift] *= channels
            weight = layer.weight.const_value.numpy() / channels[:, None]  # type: ignore[union-attr]
            layer.weight.const_value = ir.tensor(weight.astype(np.float32), name=layer.weight.name)
        for name in (path.name, f"{role}.weights", model.conditions):
            (out / name).unlink()
        ir.save(graph, path, external_data=f"{role}.weights")
        np.save(out / model.conditions, table)
        for name in (path.name, f"{role}.weights", model.conditions):
            record(out, manifest, name)
    (out / "manifest.json").write_text(json.dumps(manifest))
    return Bundle.open(out)


def test_an_interrupted_calibration_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The statistics are those of an unbroken run, and nothing but them was left behind."""
    files = {name: tmp_path / f"{name}.npz" for name in ("broken", "whole")}
    calls = {
        name: ["calibrate", "--engines", "digits", "--out", str(tmp_path / name), "--calibrate", "20", "--ranges", str(file)]
        for name, file in files.items()
    }
    save = cache.save

    def stop(path: Path, manifest: Manifest, recipe: cache.Recipe, found: Observed) -> None:
        save(path, manifest, recipe, found)
        if recipe.done == 16:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache, "save", stop)
        assert main([*calls["broken"], "--groups", "all"]) == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.npz"]
    for change in (["--seed", "3"], ["--temperature", "1.1"]):
        assert main([*calls["broken"], "--groups", "all", *change]) == 2
        assert "begun with other settings" in capsys.readouterr().err
    for call in calls.values():
        assert main([*call, "--groups", "all"]) == 0
    assert "16 of 20 images" in capsys.readouterr().out
    with np.load(files["broken"]) as broken, np.load(files["whole"]) as whole:
        assert broken.files == whole.files
        assert all((broken[name] == whole[name]).all() for name in whole.files)


class TestMistakes:
    def test_samples(self, digits: Bundle) -> None:
        for samples in (0, 1, 5000):
            with pytest.raises(UsageError, match="calibration takes 2 to 4096"):
                observe(digits, N, samples, SETTINGS)

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
        for damage in (b"", b"PK\x03\x04junk", path.read_bytes()[:-500]):
            path.write_bytes(damage)
            with pytest.raises(DataError, match="does not hold calibration statistics"):
                cache.load(path, digits.manifest)
        observed = {role: dict(found) for role, found in observed.items()}
        observed["drafter"]["head"] = Statistics(3)
        with pytest.raises(DataError, match="statistics of head are not of 128 channels"):
            quantised(digits, observed, tmp_path / "q")

    def test_overflowing_weights_name_the_layer(self, digits: Bundle, tmp_path: Path) -> None:
        out = tmp_path / "broken"
        shutil.copytree(digits.path, out)
        table = np.load(out / "refiner.conditions.npy")
        table[:, 1 + 3] = np.inf
        np.save(out / "refiner.conditions.npy", table)
        manifest = json.loads((out / "manifest.json").read_text())
        record(out, manifest, "refiner.conditions.npy")
        (out / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(DataError, match=r"the input of blocks\.0\.ffn\.fc1 is not finite"):
            observe(Bundle.open(out), N, 4, SETTINGS)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, ranges = tmp_path / "int8", tmp_path / "ranges.npz"
    call = [
        "calibrate",
        "--engines",
        "digits",
        "--out",
        str(out),
        "--n-draft",
        "4",
        "--calibrate",
        "10",
        "--ranges",
        str(ranges),
    ]
    assert main(call) == 0
    assert "alone: logits off by" in capsys.readouterr().out
    assert main(call) == 2
    assert "--force" in capsys.readouterr().err
    assert main([*call, "--force", "--groups", "fc1,fc2"]) == 0
    assert "10 of 10 images at N = 4" in capsys.readouterr().out
    found = Bundle.open(out).manifest.quantised
    assert found is not None
    assert found["drafter"] == {"qkv": "float", "proj": "float", "fc1": "int8", "fc2": "int8", "head": "float"}
    assert main([*call, "--force", "--groups", "fc3"]) == 2
    assert (
        main(["run", "--engines", str(out), "--labels", "1,2", "--backend", "openvino", "--out", str(tmp_path / "x.png")])
        == 0
    )


def _onnxruntime() -> object:
    from trt_var.backends.onnxruntime import OnnxRuntime

    return OnnxRuntime()
