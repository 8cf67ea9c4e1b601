"""The TensorRT backend on the simulated device: the real decoding chain, memory, and what is refused."""

from __future__ import annotations

import gc
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest

from helpers import assert_close, assert_tokens
from simulating import FOLDER, assert_same, device
from trt_var import BackendError, BundleError, Pipeline, Sampling, UsageError
from trt_var.backends import choosing as backends
from trt_var.backends.tensorrt import record as engines
from trt_var.backends.tensorrt.record import Batch
from trt_var.backends.tensorrt.simulated import engine as simulated
from trt_var.backends.tensorrt.simulated.device import TOTAL
from trt_var.bundle.opening import PACKAGED, Bundle
from trt_var.cli.main import main
from trt_var.requests.results import Generation
from trt_var_export.engines import EngineRecipe, build_engines


def test_batches_beyond_the_engines_are_split(digits: Path) -> None:
    with Pipeline.load(digits, "onnxruntime") as reference, Pipeline.load(digits, "tensorrt") as pipeline:
        labels = [n % 10 for n in range(19)]
        assert_same(pipeline.generate(labels, batch_size=64), reference.generate(labels))


def test_stream(digits: Path) -> None:
    with Pipeline.load(digits, "onnxruntime") as reference, Pipeline.load(digits, "tensorrt") as pipeline:
        for found, expected in zip(pipeline.stream([1, 2], seeds=3), reference.stream([1, 2], seeds=3), strict=True):
            assert_tokens(found.tokens, expected.tokens)
            assert_close(found.images, expected.images)


def test_engines_for_large_batches_alone(tmp_path: Path) -> None:
    """Previews and single images are drawn in the smallest batch there is; more than the largest is no single batch."""
    bundle = shutil.copytree(PACKAGED / "digits", tmp_path / "digits")
    build_engines(EngineRecipe(bundle, "simulated", batch=Batch(3, 4, 4)))
    with Pipeline.load(bundle, "onnxruntime") as reference, Pipeline.load(bundle, "tensorrt") as pipeline:
        for found, expected in zip(pipeline.stream(1, seeds=3), reference.stream(1, seeds=3), strict=True):
            assert_tokens(found.tokens, expected.tokens)
            assert_close(found.images, expected.images)
        assert_same(pipeline.generate(2, seeds=5), reference.generate(2, seeds=5))
        with pytest.raises(UsageError, match="these engines take 4 at once"):
            next(iter(pipeline.stream([1] * 5)))


def test_reconstructing_needs_no_transformer(digits: Path) -> None:
    with Pipeline.load(digits, "tensorrt") as pipeline:
        pipeline.reconstruct(np.zeros((1, 32, 32, 3), np.uint8))
        assert set(pipeline._models._graphs) == {"encoder.onnx", "decoder.onnx"}


def test_previews_that_cannot_fit_are_refused(digits: Path) -> None:
    with Pipeline.load(digits, "tensorrt") as pipeline:
        pipeline.chain(3)
        gpu = device(pipeline)
        gpu._total -= gpu.free_memory() - 1_000_000
        with pytest.raises(BackendError, match=r"a batch of 8 with N = 3 needs .* GB beside the weights"):
            next(iter(pipeline.stream([1] * 8, n_draft=3)))


def test_inpainting(digits: Path) -> None:
    with Pipeline.load(digits, "onnxruntime") as reference, Pipeline.load(digits, "tensorrt") as pipeline:
        image = reference.generate(3, seeds=1).images[0]
        mask = np.indices((32, 32))[1] >= 16
        for n_draft in (0, 4, 6):
            for _ in range(3):  # at once, captured, replayed
                found = pipeline.inpaint(image, mask, [3, 8], seeds=2, n_draft=n_draft, raw=True)
                assert_same(found, reference.inpaint(image, mask, [3, 8], seeds=2, n_draft=n_draft, raw=True))
        assert_same(pipeline.generate([3, 8], seeds=2), reference.generate([3, 8], seeds=2))
        found, expected = (each.reconstruct(image[None].repeat(3, 0)) for each in (pipeline, reference))
        assert_tokens(found.tokens, expected.tokens)
        assert_close(found.images, expected.images)


def test_smoothing_is_refused(digits: Path) -> None:
    refused = pytest.raises(BackendError, match="they run on")
    with Pipeline.load(digits, "tensorrt") as pipeline, refused:
        pipeline.generate(1, sampling=Sampling(top_k=9, more_smooth=True))


def test_threads_and_pipelines(digits: Path) -> None:
    with Pipeline.load(digits, "onnxruntime") as reference:
        expected = [reference.generate([n], seeds=n, n_draft=n % 7) for n in range(10)]
    with Pipeline.load(digits, "tensorrt") as first, Pipeline.load(digits, "tensorrt") as second:

        def draw(job: int) -> Generation:
            n = job % 10
            pipeline = (first, second)[job % 2]
            if job % 5 == 0:
                *_, last = pipeline.stream([n], seeds=n, n_draft=n % 7)
                assert_tokens(last.tokens, expected[n].tokens)
            return pipeline.generate([n], seeds=n, n_draft=n % 7)

        with ThreadPoolExecutor(4) as pool:
            for job, found in enumerate(pool.map(draw, range(40))):
                assert_same(found, expected[job % 10])


def transformers(pipeline: Pipeline) -> set[str]:
    return pipeline._models._graphs.keys() & {"drafter.onnx", "refiner.onnx"}


def test_the_last_scale_is_drawn_by_the_engine_without_a_cache(digits: Path) -> None:
    with Pipeline.load(digits, "tensorrt") as pipeline:
        pipeline.generate([1], n_draft=4)
        refiner = pipeline._models._graphs["refiner.onnx"]
        assert refiner._final is not None  # type: ignore[attr-defined]
        assert transformers(pipeline) == {"drafter.onnx", "refiner.onnx"}
    with Pipeline.load(digits, "tensorrt") as pipeline:
        pipeline.generate([1], n_draft=6)
        assert transformers(pipeline) == {"drafter.onnx"}, "the refiner's weights are not loaded for nothing"


def test_closing_frees_everything(digits: Path) -> None:
    pipeline = Pipeline.load(digits, "tensorrt")
    for _ in range(3):
        pipeline.generate([1, 2], n_draft=3)
    used = device(pipeline)
    assert used.free_memory() < TOTAL
    pipeline.close()
    gc.collect()
    used.synchronize()
    assert used.free_memory() == TOTAL


def test_a_failure_frees_its_memory_and_the_next_request_works(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Pipeline.load(digits, "tensorrt") as pipeline:
        pipeline.generate([1], n_draft=3)
        gc.collect()
        before = device(pipeline).free_memory()
        with monkeypatch.context() as patch:
            patch.setattr(simulated._ExecutionContext, "execute_async_v3", lambda self, stream: False)
            with pytest.raises(BackendError, match="the engine refused the run"):
                pipeline.generate([1, 2], n_draft=3)
        gc.collect()
        assert device(pipeline).free_memory() == before
        pipeline.generate([1, 2], n_draft=3)


def test_what_cannot_fit_is_refused_with_figures(digits: Path) -> None:
    with Pipeline.load(digits, "tensorrt") as pipeline:
        small = device(pipeline)
        pipeline.generate([1], n_draft=3)
        small._total -= small.free_memory() - 3_000_000
        with pytest.raises(
            BackendError, match=r"a batch of 8 with N = 3 needs 0\.\d+ GB beside the weights, and 0\.0\d GB are"
        ):
            pipeline.generate([1] * 8, n_draft=3)
        assert pipeline.generate([1], n_draft=3).images.shape[0] == 1


def test_command(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "digits.png"
    assert main(["run", "--engines", str(digits), "--backend", "tensorrt", "--labels", "1,2", "--out", str(out)]) == 0
    assert "simulated" in capsys.readouterr().out
    assert out.is_file()


def test_auto_takes_engines_where_there_are_some(digits: Path) -> None:
    assert backends.create("auto", Bundle.open(digits)).name == "tensorrt"
    assert backends.create("auto", Bundle.open("digits")).name != "tensorrt"
    assert backends.create("auto").name != "tensorrt"
    with pytest.raises(
        BackendError, match=r"no simulated-1-host engines; the bundle has none; build them with trt-var engines"
    ):
        backends.create("tensorrt", Bundle.open("digits"))


def test_engines_of_another_machine_are_refused(spoilt: Path) -> None:
    (spoilt / FOLDER).rename(spoilt / "tensorrt" / "simulated-0-host")
    with pytest.raises(BackendError, match=r"the bundle has simulated-0-host; build them with trt-var engines .* --force"):
        Pipeline.load(spoilt, "tensorrt")
    (spoilt / "tensorrt" / "simulated-0-host").rename(spoilt / FOLDER)
    record = engines.read_record(spoilt / FOLDER)
    (spoilt / FOLDER / engines.RECORD).write_bytes(msgspec.json.encode(msgspec.structs.replace(record, version="0")))
    with pytest.raises(BundleError, match=r"built for simulated-0-host, this is simulated-1-host; build them with"):
        Pipeline.load(spoilt, "tensorrt")


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing", "other weights", "outside", "not in the record"])
def test_engines_are_compared_before_they_are_read(spoilt: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, file = spoilt / FOLDER / "refiner.plan", spoilt / FOLDER / engines.RECORD
    content, record = plan.read_bytes(), json.loads(file.read_text())
    if damage == "truncated":
        plan.write_bytes(content[:-1])
    elif damage == "altered":
        plan.write_bytes(content[:-1] + b"?")
    elif damage == "missing":
        plan.unlink()
    elif damage == "other weights":
        record["engines"]["refiner"]["sources"]["refiner.weights"] = "0" * 64
    elif damage == "outside":
        (spoilt / "evil.plan").write_bytes(content)
        record["engines"]["refiner"]["plan"] = "../../evil.plan"
    else:
        del record["engines"]["refiner"]
    file.write_text(json.dumps(record))
    monkeypatch.setattr(simulated.Runtime, "deserialize_cuda_engine", lambda self, plan: pytest.fail("was read"))
    with pytest.raises(BundleError, match="trt-var engines"), Pipeline.load(spoilt, "tensorrt") as pipeline:
        pipeline.generate([1], n_draft=0)
