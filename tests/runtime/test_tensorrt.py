"""The TensorRT backend on the simulated device: the real decoding chain, and what a GPU would punish."""

from __future__ import annotations

import gc
import itertools
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest

from helpers import GOLDEN, assert_close, assert_tokens
from trt_var import BackendError, BundleError, Pipeline, Sampling, UsageError
from trt_var.backends import choosing as backends
from trt_var.backends.tensorrt import record as engines
from trt_var.backends.tensorrt.device import VARIABLE
from trt_var.backends.tensorrt.record import Batch
from trt_var.backends.tensorrt.replay import Replay
from trt_var.backends.tensorrt.runtime import TensorRT
from trt_var.backends.tensorrt.simulated import engine as simulated
from trt_var.backends.tensorrt.simulated.device import POISON, TOTAL, SimulatedDevice, SimulationError
from trt_var.bundle.memory import need
from trt_var.bundle.opening import PACKAGED, Bundle
from trt_var.cli.main import main
from trt_var.requests.results import Generation
from trt_var_export.engines import EngineRecipe, build_engines

FOLDER = "tensorrt/simulated-1-host"
golden = np.load(GOLDEN / "tiny.npz")


@pytest.fixture(autouse=True)
def seam(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "simulated")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped bundle with engines for batches of up to 8."""
    out = shutil.copytree(PACKAGED / "digits", tmp_path_factory.mktemp("digits") / "bundle")
    build_engines(EngineRecipe(out, "simulated", batch=Batch(1, 4, 8)))
    return out


@pytest.fixture
def spoilt(digits: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return shutil.copytree(digits, tmp_path / "spoilt")


def device(pipeline: Pipeline) -> SimulatedDevice:
    backend = pipeline._backend
    assert isinstance(backend, TensorRT)
    assert isinstance(backend.device, SimulatedDevice)
    return backend.device


def assert_same(found: Generation, expected: Generation) -> None:
    assert_tokens(found.tokens, expected.tokens)
    assert_close(found.images, expected.images)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], None]:
    """Sets the seconds of the plain chain, and of the one with the refiner beside the drafter."""

    def pretend(plain: float, shadowed: float) -> None:
        times = itertools.cycle([plain, shadowed])
        monkeypatch.setattr(Replay, "seconds", lambda self: next(times))

    return pretend


@pytest.mark.parametrize("shadowed", [False, True])
@pytest.mark.parametrize("n_draft", range(7))
def test_digits_eager_and_captured(
    digits: Path, n_draft: int, shadowed: bool, measured: Callable[[float, float], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Batches of 4, 1 and 3 (padded), thrice each: eager, eager and captured, launched."""
    measured(1.0, 0.5 if shadowed else 2.0)
    caplog.set_level("INFO", "trt_var.backends.tensorrt.runtime")
    with Pipeline.load(digits, "onnxruntime") as reference, Pipeline.load(digits, "tensorrt") as pipeline:
        for turn in range(3):
            for labels in ([1, 2, 3, 4], [5], [6, 7, 8]):
                seeds = 10 * turn
                found = pipeline.generate(labels, seeds=seeds, n_draft=n_draft)
                assert_same(found, reference.generate(labels, seeds=seeds, n_draft=n_draft))
        assert device(pipeline).launches == 4 + 1, "batches of 3 are drawn as the captured 4"
        replays = pipeline._backend._replays.values()  # type: ignore[attr-defined]
        assert {replay.way for replay in replays} == {"shadowed" if shadowed and 0 < n_draft < 6 else "plain"}
    assert caplog.text.count("with the refiner beside the drafter") == (2 if 0 < n_draft < 6 else 0)


def test_shadowing_that_fails_leaves_the_plain_chain(
    digits: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_room(self: SimulatedDevice) -> None:
        raise BackendError("no room")

    monkeypatch.setattr(SimulatedDevice, "aside", no_room)
    with Pipeline.load(digits, "tensorrt") as pipeline:
        images = [pipeline.generate([1, 2], n_draft=3).images for _ in range(5)]
        assert device(pipeline).launches == 3
    assert_close(images[4], images[0])
    assert caplog.text.count("the refiner does not shadow the drafter: no room") == 1


def test_shadowing_needs_memory_for_both_caches(digits: Path, measured: Callable[[float, float], None]) -> None:
    measured(1.0, 0.5)
    with Pipeline.load(digits, "tensorrt") as pipeline:
        for _ in range(2):
            pipeline.generate([1] * 8, n_draft=5)
        gpu = device(pipeline)
        backend, manifest = pipeline._backend, pipeline.manifest
        both = need(manifest, 5, 8, drops_outputs=False, shadowed=True)
        one = need(manifest, 5, 8, drops_outputs=False)
        assert both.cache > one.cache
        assert backend._can_shadow(5, 8)  # type: ignore[attr-defined]
        gpu._total -= gpu.free_memory() - (both.cache + both.activations - 1)
        assert not backend._can_shadow(5, 8)  # type: ignore[attr-defined]
        pipeline.generate([1] * 8, n_draft=5)


def test_shadowing_needs_profiles(tmp_path: Path, measured: Callable[[float, float], None]) -> None:
    """Engines for N = 4 alone have no profiles for the refiner's drafted scales, unless they were asked for."""
    measured(1.0, 0.5)
    for shadow in (False, True):
        bundle = shutil.copytree(PACKAGED / "digits", tmp_path / str(shadow))
        build_engines(EngineRecipe(bundle, "simulated", batch=Batch(1, 1, 2), n_drafts=(4,), shadow=shadow))
        with Pipeline.load(bundle, "tensorrt") as pipeline, Pipeline.load(bundle, "onnxruntime") as reference:
            for turn in range(4):
                assert_same(pipeline.generate(3, seeds=turn, n_draft=4), reference.generate(3, seeds=turn, n_draft=4))
            (replay,) = pipeline._backend._replays.values()  # type: ignore[attr-defined]
            assert replay.way == ("shadowed" if shadow else "plain")


def test_golden_vectors(golden_bundle: Path, tmp_path: Path, measured: Callable[[float, float], None]) -> None:
    measured(1.0, 0.5)
    bundle = shutil.copytree(golden_bundle, tmp_path / "golden")
    build_engines(EngineRecipe(bundle, "simulated", batch=Batch(1, 2, 2)))
    with Pipeline.load(bundle, "tensorrt") as pipeline:
        for n_draft in range(1, 11):
            for _ in range(4 if n_draft == 8 else 1):
                found = pipeline.generate(
                    golden["labels"].tolist(), seeds=100000, n_draft=n_draft, sampling=Sampling(cfg=1.5, top_k=1)
                )
                assert_tokens(found.tokens, golden[f"greedy_N{n_draft}_tokens"])
                if n_draft in (8, 10):
                    images = found.images.transpose(0, 3, 1, 2)
                    assert_close(images, golden[f"greedy_N{n_draft}_image"], absolute=2)
        assert device(pipeline).launches == 2, "the plain chain, then the shadowed one"


def test_settings_and_labels_need_no_new_capture(digits: Path, measured: Callable[[float, float], None]) -> None:
    measured(1.0, 2.0)
    with Pipeline.load(digits, "onnxruntime") as reference, Pipeline.load(digits, "tensorrt") as pipeline:
        for turn in range(4):
            asked = {"seeds": turn, "sampling": Sampling(cfg=turn / 2, top_k=9 + turn, top_p=0.9, temperature=1 + turn / 10)}
            found = pipeline.generate([turn, 9 - turn], **asked)
            assert_same(found, reference.generate([turn, 9 - turn], **asked))
        assert device(pipeline).launches == 2
        teacher = reference.generate([3, 6], seeds=8).tokens
        for _ in range(3):
            found = pipeline.generate([1, 2], teacher=teacher)
            assert_same(found, reference.generate([1, 2], teacher=teacher))


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
        assert not pipeline._transformers


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
    refused = pytest.raises(BackendError, match="runs on the backends")
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


def test_the_last_scale_is_drawn_by_the_engine_without_a_cache(digits: Path) -> None:
    with Pipeline.load(digits, "tensorrt") as pipeline:
        pipeline.generate([1], n_draft=4)
        refiner = pipeline._transformers["refiner", False].step
        assert refiner._final is not None  # type: ignore[attr-defined]
        assert set(pipeline._transformers) == {("drafter", False), ("refiner", False)}
    with Pipeline.load(digits, "tensorrt") as pipeline:
        pipeline.generate([1], n_draft=6)
        assert set(pipeline._transformers) == {("drafter", False)}, "the refiner's weights are not loaded for nothing"


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


def test_old_graphs_give_way(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trt_var.backends.tensorrt.runtime.MAX_REPLAYS", 2)
    with Pipeline.load(digits, "tensorrt") as pipeline:
        free = []
        for n_draft in (1, 2, 3, 4, 1):
            pipeline.generate([1], n_draft=n_draft)
            gc.collect()
            free.append(device(pipeline).free_memory())
        assert len(pipeline._backend._replays) == 2  # type: ignore[attr-defined]


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


class TestSimulatedDevice:
    """What it refuses."""

    def test_reading_what_nobody_wrote(self) -> None:
        gpu = SimulatedDevice()
        memory, host = gpu.allocate(64), gpu.pinned(64)
        gpu.to_device(memory.address, host[:32])
        gpu.to_host(host, memory.address)
        with pytest.raises(SimulationError, match="nobody wrote 32"):
            gpu.synchronize()

    def test_freed_and_foreign_memory(self) -> None:
        gpu = SimulatedDevice()
        memory = gpu.allocate(64)
        memory.free()
        for address, size in ((memory.address, 8), (gpu.allocate(64).address + 60, 8), (3, 1)):
            gpu.to_device(address, gpu.pinned(size))
            with pytest.raises(SimulationError, match="lie in no allocation"):
                gpu.synchronize()

    def test_work_is_late(self) -> None:
        """Pinned memory that changes before the host has waited is what the copy takes; results are poison until then."""
        gpu = SimulatedDevice()
        memory, host, back = gpu.allocate(4), gpu.pinned(4), gpu.pinned(4)
        host[:] = 1
        gpu.to_device(memory.address, host)
        gpu.to_host(back, memory.address)
        host[:] = 2
        assert (back == POISON).all()
        gpu.synchronize()
        assert (back == 2).all()

    def test_captures(self) -> None:
        gpu = SimulatedDevice()
        memory, host = gpu.allocate(4), gpu.pinned(4)
        for call in (
            gpu.synchronize,
            lambda: gpu.allocate(4),
            lambda: gpu.pinned(4),
            lambda: gpu.to_device(memory.address, np.zeros(4, np.uint8)),
        ):
            with pytest.raises(SimulationError, match="captur"):
                gpu.capture(call)
        launch = gpu.capture(lambda: gpu.to_device(memory.address, host))
        gpu.synchronize()
        gpu.to_host(gpu.pinned(4), memory.address)
        with pytest.raises(SimulationError, match="nobody wrote"):
            gpu.synchronize()
        launch()
        gpu.to_host(gpu.pinned(4), memory.address)
        gpu.synchronize()

    def test_two_streams(self) -> None:
        """Work on the same memory is refused unless one stream waits for the other; reading is free."""
        gpu = SimulatedDevice()
        memory, host, back = gpu.allocate(4), gpu.pinned(4), gpu.pinned(4)

        def work(join: bool) -> None:
            gpu.to_device(memory.address, host)
            with gpu.aside():
                gpu.to_host(back, memory.address)
                assert gpu.by_stream[gpu.stream] is gpu
            gpu.to_host(gpu_back, memory.address)
            if join:
                gpu.join()
            gpu.to_device(memory.address, host)

        gpu_back = gpu.pinned(4)
        work(join=True)
        gpu.synchronize()
        work(join=False)
        with pytest.raises(SimulationError, match="two streams use the same memory at once"):
            gpu.synchronize()
        gpu.join()
        launch = gpu.capture(lambda: work(join=True))
        for _ in range(3):
            launch()
        gpu.to_device(memory.address, host)
        gpu.synchronize()
        with pytest.raises(SimulationError, match="work aside that nothing waits for"):
            gpu.capture(lambda: work(join=False))

    def test_one_scratch_buffer_for_two_streams(
        self, digits: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The refiner's scratch memory aside must not be the drafter's."""
        with Pipeline.load(digits, "tensorrt") as pipeline:
            held = device(pipeline).allocate(1 << 24)
            monkeypatch.setattr(TensorRT, "ensure_scratch", lambda self, size: held)
            for _ in range(3):
                pipeline.generate([1], n_draft=3)
        assert "two streams use the same memory at once" in caplog.text

    def test_memory_freed_while_capturing(self) -> None:
        gpu = SimulatedDevice()
        memory = gpu.allocate(4)
        gpu.capture(memory.free)
        with pytest.raises(SimulationError, match="freed while capturing"):
            gpu.synchronize()

    def test_contexts(self, digits: Path) -> None:
        """Shapes outside the profile, no address, misaligned or short scratch memory, an unknown stream."""
        gpu, logger = SimulatedDevice(), engines.make_logger(simulated)
        plan = np.memmap(digits / FOLDER / "decoder.plan", mode="r")
        engine = simulated.Runtime(logger).deserialize_cuda_engine(plan)
        assert engine is not None
        context = engine.create_execution_context(simulated.ExecutionContextAllocationStrategy.USER_MANAGED)
        assert not context.set_input_shape("f_hat", (1, 8, 8, 8)), "no profile yet"
        assert context.set_optimization_profile_async(0, gpu.stream)
        assert not context.set_input_shape("f_hat", (9, 8, 8, 8))
        assert "outside profile 0" in logger.last()
        assert context.set_input_shape("f_hat", (1, 8, 8, 8))
        assert context.get_tensor_shape("images") == (1, 32, 32, 3)
        for address, scratch, size, why in (
            (0, 1024, 1 << 20, "no address for f_hat"),
            (520, 1024, 1 << 20, "misaligned f_hat"),
            (512, 1000, 1 << 20, "scratch memory of 0 bytes"),
            (512, 1024, 16, "scratch memory of 16 bytes"),
        ):
            context.set_tensor_address("f_hat", address)
            context.set_tensor_address("images", 4096)
            context.set_device_memory(scratch, size)
            assert not context.execute_async_v3(gpu.stream)
            assert why in logger.last()
        context.set_device_memory(1024, 1 << 20)
        assert not context.execute_async_v3(7)
        assert "unknown stream" in logger.last()
        assert simulated.Runtime(logger).deserialize_cuda_engine(np.zeros(9, np.uint8)) is None
