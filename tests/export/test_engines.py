"""Engines from bundles: TensorRT-RTX's own builder on the CPU, and the mistakes that users make."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from conftest import TOY_DRAFTER, TOY_REFINER, TOY_VAE
from helpers import random_weights, save_checkpoint
from trt_var import BackendError, Sampling, UsageError
from trt_var.backends.tensorrt import record as engines
from trt_var.backends.tensorrt.profiles import profiles
from trt_var.backends.tensorrt.record import Batch, Record
from trt_var.bundle.opening import PACKAGED, Bundle, file_sha256
from trt_var.cli.main import main
from trt_var.errors import BundleExistsError, ExportError, OutputError
from trt_var_calibration.decoder import drawn_maps
from trt_var_calibration.observe import observe
from trt_var_calibration.quantise import Quantisation, quantise
from trt_var_export import engines as builder
from trt_var_export.build import build
from trt_var_export.engines import EngineRecipe, build_engines
from trt_var_export.recipe import Recipe


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    return shutil.copytree(PACKAGED / "digits", tmp_path / "digits")


@pytest.fixture(scope="module")
def half_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy models in half precision."""
    folder = tmp_path_factory.mktemp("half")
    shapes = {"drafter": TOY_DRAFTER, "refiner": TOY_REFINER, "vae": TOY_VAE}
    parts: dict[str, Any] = {
        name: str(save_checkpoint(random_weights(shape, 7), folder / f"{name}.pth")) for name, shape in shapes.items()
    }
    return build(Recipe(**parts, out=folder / "bundle", precision="fp16"))


class TestRtx:
    """The real parser and builder."""

    @pytest.fixture(autouse=True)
    def rtx(self) -> None:
        pytest.importorskip("tensorrt_rtx_bindings", reason="pip install 'trt-var[rtx]'", exc_type=ImportError)

    def test_the_digits_pair(self, digits: Path) -> None:
        out = build_engines(EngineRecipe(digits, "rtx", "sm89", Batch(1, 8, 64)))
        record = engines.read_record(out)
        assert out.name == f"rtx-{record.version}-sm89"
        assert sorted(path.name for path in out.iterdir()) == sorted(
            [f"{name}.plan" for name in record.engines] + ["record.json"]
        )
        assert set(record.engines) == {
            *("drafter", "refiner", "refiner.final", "decoder", "encoder"),
            *(f"quantise_{scale:02}" for scale in range(6)),
        }
        for name, engine in record.engines.items():
            assert file_sha256(out / engine.plan) == engine.sha256
            source = f"{name.removesuffix('.final')}.onnx"
            assert engine.sources[source] == file_sha256(digits / source)
        assert len(record.engines["drafter"].profiles) == 6
        assert [profile.name for profile in record.engines["refiner"].profiles][-1] == "hand-over"
        assert all(engine.scratch > 0 for engine in record.engines.values())
        assert "gemm Half" not in record.engines["drafter"].layers, "the bundle is fp32"

    @pytest.mark.parametrize("target", ["sm86", "sm120"])
    def test_half_precision_fuses_attention_and_keeps_its_products(self, half_bundle: Path, target: str) -> None:
        """The one float32 product of a step graph embeds the float32 features; a single head has no fused attention."""
        recipe = EngineRecipe(
            half_bundle, "rtx", target, Batch(1, 2, 4), ("drafter", "refiner", "decoder"), (2,), force=True
        )
        record = engines.read_record(build_engines(recipe))
        assert record.serves == (2,)
        drafter, depth = record.engines["drafter"], TOY_DRAFTER.depth
        runs = drafter.layers["attention Half"] // depth  # a profile may be compiled for parts of its range
        assert runs >= len(drafter.profiles), drafter.layers
        assert drafter.layers["attention Half"] == runs * depth, drafter.layers
        assert "attention Float" not in drafter.layers
        assert drafter.layers["gemm Half"] >= runs * 4 * depth, drafter.layers
        for role in ("drafter", "refiner"):
            layers = record.engines[role].layers
            assert layers["gemm Float"] <= runs, layers
            assert layers["gemm Half"] > 3 * layers["gemm Float"], layers
        assert record.engines["decoder"].layers.get("conv Float", 0) <= 1, record.engines["decoder"].layers

    @pytest.mark.parametrize("target", ["sm89", "sm120"])
    def test_int8_products(self, tmp_path: Path, target: str) -> None:
        """Every quantised layer is an int8 product; left in float32 are attention's two a block and the embedding."""
        bundle, out = Bundle.open(PACKAGED / "digits"), tmp_path / "int8"
        out.mkdir()
        quantise(bundle, observe(bundle, 4, 4, Sampling(top_k=100)), Quantisation(), out)
        recipe = EngineRecipe(out, "rtx", target, Batch(1, 2, 4), ("drafter", "refiner"), (4,))
        record = engines.read_record(build_engines(recipe))
        for role, model in bundle.manifest.models.items():
            layers, engine = record.engines[role].layers, record.engines[role]
            runs, rest = divmod(layers["gemm Int8"], 4 * model.depth + 1)
            assert rest == 0, layers
            assert runs >= len(engine.profiles), layers
            assert layers["gemm Float"] <= runs * (2 * model.depth + 1), layers

    def test_fp8_products_and_int8_convolutions(self, tmp_path: Path) -> None:
        """All but the outermost convolutions, in float32 around; a GPU without FP8 is refused in the builder's words."""
        bundle, settings = Bundle.open(PACKAGED / "digits"), Sampling(top_k=100)
        maps = drawn_maps(bundle, 4, settings, 0)
        quantise(bundle, observe(bundle, 4, 4, settings), Quantisation(mode="fp8"), tmp_path, maps=maps)
        recipe = EngineRecipe(tmp_path, "rtx", "sm89", Batch(1, 2, 4), ("refiner", "decoder"), (4,))
        found = engines.read_record(build_engines(recipe)).engines
        layers = found["refiner"].layers
        runs, rest = divmod(layers["gemm FP8"], 4 * bundle.manifest.models["refiner"].depth + 1)
        assert rest == 0, layers
        assert runs >= len(found["refiner"].profiles), layers
        convolutions = [node for node in onnx.load(bundle.path / "decoder.onnx").graph.node if node.op_type == "Conv"]
        layers = found["decoder"].layers
        assert layers["conv Int8"] == len(convolutions) - 2, layers
        assert layers["conv Float"] == 2, layers
        with pytest.raises(ExportError, match="cannot build refiner.onnx: .*fp8_e4m3"):
            build_engines(replace(recipe, target="sm86", graphs=("refiner",)))

    def test_weights_are_shared_by_profiles(self, digits: Path, tmp_path: Path) -> None:
        """Not six times the weights: what profiles add is code, which small models feel more than large ones."""
        sizes = []
        for n_drafts in ((4,), ()):
            recipe = EngineRecipe(digits, "rtx", "sm89", Batch(1, 8, 64), ("refiner",), n_drafts, force=True)
            sizes.append(engines.read_record(build_engines(recipe)).engines["refiner"])
        assert [len(engine.profiles) for engine in sizes] == [2, 7]
        weights = (digits / "refiner.weights").stat().st_size
        code = [engine.size - weights for engine in sizes]
        assert code[1] < 5 * code[0], f"{code} bytes beside the weights"

    def test_mistakes(self, digits: Path) -> None:
        with pytest.raises(UsageError, match="TensorRT-RTX .* builds for .*sm89"):
            build_engines(EngineRecipe(digits, "rtx", "sm90"))
        with pytest.raises(UsageError, match="TensorRT-RTX .* builds for"):
            build_engines(EngineRecipe(digits, "rtx"))
        (digits / "quantise_05.onnx").write_bytes((digits / "quantise_04.onnx").read_bytes())
        graph = digits / "decoder.onnx"
        with pytest.raises(ExportError, match="cannot build|refuses profile|cannot parse"):
            shapes = profiles(builder.Bundle.open(PACKAGED / "digits").manifest, "encoder", Batch(1, 1, 1))
            builder.Builder("rtx").write(graph, digits / "x.plan", shapes, "sm89", builder.Silent())
        assert not (digits / "tensorrt").exists()


def simulated(bundle: Path, **change: Any) -> Path:
    return build_engines(EngineRecipe(bundle, "simulated", **change))


def test_batches_and_graphs(digits: Path) -> None:
    for batch in (Batch(0, 1, 1), Batch(2, 1, 4), Batch(1, 8, 4), Batch(1, 1, 257)):
        with pytest.raises(UsageError, match="expected rising sizes up to 256"):
            simulated(digits, batch=batch)
    with pytest.raises(UsageError, match="there is no graph upscaler; the bundle holds drafter"):
        simulated(digits, graphs=("drafter", "upscaler"))
    with pytest.raises(UsageError, match=r"lists \[7, 9\]; this bundle serves 0, 1"):
        simulated(digits, n_drafts=(3, 7, 9))
    with pytest.raises(UsageError, match="--target belongs to --kind rtx"):
        simulated(digits, target="sm89")
    assert not (digits / "tensorrt").exists()


def test_engines_that_are_there(digits: Path) -> None:
    out = simulated(digits)
    with pytest.raises(BundleExistsError, match="--force replaces"):
        simulated(digits)
    assert engines.read_record(simulated(digits, n_drafts=(4,), force=True)).serves == (4,)
    assert [path.name for path in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), ExportError("no"), OSError(28, "No space left on device")])
def test_a_stopped_build_leaves_nothing(digits: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException) -> None:
    simulated(digits)
    before = engines.read_record(digits / "tensorrt/simulated-1-host")

    def write(*_: object) -> dict[str, int]:
        raise stop

    monkeypatch.setattr(builder.Simulation, "write", write)
    with pytest.raises(OutputError if isinstance(stop, OSError) else type(stop)):
        simulated(digits, force=True)
    assert [path.name for path in (digits / "tensorrt").iterdir()] == ["simulated-1-host"]
    assert engines.read_record(digits / "tensorrt/simulated-1-host") == before


class Timings:
    """The part of a builder's configuration that knows timings, and takes none but its own."""

    def __init__(self, *taken: bytes) -> None:
        self.taken, self.used = taken, b"none"

    def create_timing_cache(self, content: bytes) -> bytes:
        return content

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.used = cache if cache in self.taken else self.used
        return cache in self.taken


def test_timings_that_tensorrt_refuses_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    part = object.__new__(builder.Builder)  # none is installed here
    part._kind, part._logger = "tensorrt", SimpleNamespace(last=lambda: "of another GPU")
    file = tmp_path / "x.timings"
    for content, used, words in (
        (b"good", b"good", ""),
        (b"foreign", b"", "(of another GPU): they are replaced"),
        (b"far too long", b"", "x.timings is larger than 8 bytes"),
    ):
        file.write_bytes(content)
        monkeypatch.setattr(builder, "MAX_TIMINGS", 8)
        caplog.clear()
        part._use_timings(config := Timings(b"good", b""), file)
        assert config.used == used
        assert words in caplog.text
        assert bool(caplog.text) == bool(words)


def test_tensorrt_says_what_is_missing(digits: Path) -> None:
    with pytest.raises(
        BackendError, match=r"tensorrt is not (installed|usable).*trt-var\[gpu\]|has no builder here|none is usable here"
    ):
        build_engines(EngineRecipe(digits, "tensorrt"))


def test_command(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engines", str(digits), "--kind", "simulated", "--n-draft", "3,4", "--batch", "1,2,4"]) == 0
    assert "built in" in capsys.readouterr().out
    record: Record = engines.read_record(digits / "tensorrt/simulated-1-host")
    assert (record.batch, record.serves) == (Batch(1, 2, 4), (3, 4))
    for wrong in (["--batch", "1,2"], ["--batch", "a,b,c"], ["--n-draft", "x"], ["--kind", "cuda"]):
        with pytest.raises(SystemExit) as stopped:
            main(["engines", str(digits), *wrong])
        assert stopped.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert main(["engines", str(digits / "nowhere")]) == 1
