"""The CUDA provider's buffers and replays, its sessions and buffers on the CPU; tests/test_golden.py has the real one."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from helpers import assert_tokens
from trt_var import BackendError, Pipeline, Sampling
from trt_var.backends.base import DeviceArray
from trt_var.backends.onnxruntime import cpu, cuda
from trt_var.backends.onnxruntime.replay import Replay
from trt_var.bundle.opening import PACKAGED, Bundle
from trt_var.serving.batching import sizing
from trt_var.serving.batching.settings import Batching
from trt_var.serving.batching.times import Times


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> cuda.OnnxRuntimeCuda:
    allocate, graph, session = ort.OrtValue.ortvalue_from_shape_and_type, cpu.OnnxGraph.__init__, cpu.session
    monkeypatch.setattr(
        ort.OrtValue, "ortvalue_from_shape_and_type", lambda shape, dtype, device, number: allocate(shape, dtype, "cpu", 0)
    )
    monkeypatch.setattr(cpu.OnnxGraph, "__init__", lambda self, made, device: graph(self, made, "cpu"))
    monkeypatch.setattr(cuda, "session", lambda path, provider: session(path, ("CPUExecutionProvider", {})))
    monkeypatch.setattr(ort, "preload_dlls", lambda: None, raising=False)
    return cuda.OnnxRuntimeCuda()


def test_replays_draw_what_the_cpu_draws(backend: cuda.OnnxRuntimeCuda) -> None:
    bundle = Bundle.open(PACKAGED / "digits")
    with Pipeline(bundle, backend) as pipeline, Pipeline.load(PACKAGED / "digits", "exact") as reference:
        for turn, n_draft, batch in itertools.product(range(3), (2, 4), (1, 3, 11)):
            asked: dict[str, Any] = {"seeds": turn, "n_draft": n_draft, "sampling": Sampling(top_k=5 + turn)}
            labels = [(turn + i) % 10 for i in range(batch)]
            asked["batch_size"] = batch
            expected, found = reference.generate(labels, **asked), pipeline.generate(labels, **asked)
            assert_tokens(found.tokens, expected.tokens)
            assert (found.images == expected.images).all()
    kept = [replay for replay in backend._replays.values() if replay]
    assert len(kept) == 4, "two small sizes for two N are replayed, the large one is not"
    numbers = [number for replay in kept for number in replay._numbers]
    assert len(numbers) == len(set(numbers)), "captured graphs share a number"


def test_sizes_that_are_replayed_are_few(backend: cuda.OnnxRuntimeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "CAPTURED_SIZES", 2)
    with Pipeline(Bundle.open(PACKAGED / "digits"), backend) as pipeline:
        for _, batch in itertools.product(range(2), (1, 2, 3)):
            pipeline.generate([0] * batch, seeds=0, n_draft=4)
    assert len(backend._replays) == 2


def test_maps_of_each_captured_size_have_a_session(backend: cuda.OnnxRuntimeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    session = cuda.session
    monkeypatch.setattr(cuda, "session", lambda path, provider: made.append(path.stem) or session(path, provider))
    with Pipeline(Bundle.open(PACKAGED / "digits"), backend) as pipeline:
        drawn = {size: pipeline.generate(range(size % 10), seeds=0, batch_size=size).images for size in (9, 2, 1, 2, 9)}
        assert made.count("decoder") == made.count("quantise_03") == 3, "of 9, of 2 and of 1, each once"
        assert made.count("drafter") == 1
        made.clear()
        pipeline.generate([0, 1, 2], seeds=0)
        assert made.count("decoder") == 1, "of 4"
    assert (drawn[9][:2] == drawn[2]).all()


def test_what_is_replayed_is_run_in_one_thread(backend: cuda.OnnxRuntimeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    turn = Replay.turn
    monkeypatch.setattr(Replay, "turn", lambda *given: (seen.add(threading.current_thread().name), turn(*given))[1])
    with Pipeline(Bundle.open(PACKAGED / "digits"), backend) as pipeline, ThreadPoolExecutor(3) as callers:
        pictures = list(callers.map(lambda _: pipeline.generate([3], seeds=7).images, range(9)))
    assert len(seen) == 1
    assert all((picture == pictures[0]).all() for picture in pictures)


def test_services_draw_sizes_that_were_drawn_at_the_start(
    backend: cuda.OnnxRuntimeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizing, "REPEATS", 1)
    settings = Batching(batch=13, n_draft=4, floor=3)
    pipeline = Pipeline(Bundle.open(PACKAGED / "digits"), backend)
    assert sizing.measure(pipeline, settings, times := Times()) == 13
    assert {n: sorted(sizes) for n, sizes in times.measured().items()} == {n: [1, 2, 4, 8, 13] for n in (3, 4)}
    fit = sizing.fitting(backend, 13)
    assert [fit(images) for images in (1, 3, 5, 8, 9, 12, 13)] == [1, 3, 5, 8, 8, 8, 13]
    assert {backend.padded(images) for images in range(1, 9)} == {1, 2, 4, 8}
    known = len(backend._replays)
    pipeline.generate([0] * 5, seeds=0, n_draft=3)
    assert len(backend._replays) == known


def test_a_failed_replay_is_not_kept(backend: cuda.OnnxRuntimeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    with Pipeline(Bundle.open(PACKAGED / "digits"), backend) as pipeline:
        first = pipeline.generate([3], seeds=0, n_draft=4)
        with monkeypatch.context() as context:
            context.setattr(Replay, "take", lambda *_: (_ for _ in ()).throw(BackendError("no memory left")))
            with pytest.raises(BackendError, match="no memory left"):
                pipeline.generate([3], seeds=0, n_draft=4)
        assert not any(backend._replays.values())
        assert (pipeline.generate([3], seeds=0, n_draft=4).images == first.images).all()


def test_graphs_that_cannot_be_captured_run_as_they_are(
    backend: cuda.OnnxRuntimeCuda, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    session = cuda.session

    def partly(path: Path, provider: tuple[str, dict[str, str]]) -> ort.InferenceSession:
        if path.name == "encoder.onnx" and "enable_cuda_graph" in provider[1]:
            raise BackendError("not all nodes are on the device")
        return session(path, provider)

    monkeypatch.setattr(cuda, "session", partly)
    caplog.set_level("INFO", "trt_var.backends.onnxruntime.cuda")
    with Pipeline(Bundle.open(PACKAGED / "digits"), backend) as pipeline:
        drawn = pipeline.generate([3], n_draft=4)
        assert pipeline.reconstruct(drawn.images).images.shape == drawn.images.shape
    assert "encoder.onnx is not captured: not all nodes" in caplog.text
    assert caplog.text.count("is not captured") == 1


def test_work_of_another_shape_is_refused(backend: cuda.OnnxRuntimeCuda) -> None:
    replay = Replay(backend._allocate, itertools.count())
    array = {"x": np.ones(3, np.float32)}

    def work(shape: tuple[int, ...]) -> Any:
        return lambda inputs: {"y": replay.take(shape, np.float32), **inputs}

    first = replay.turn(array, work((2,)))
    assert isinstance(first["y"], DeviceArray)
    again = replay.turn({"x": np.full(3, 2, np.float32)}, work((2,)))
    assert again["y"] is first["y"]
    assert (backend.download(again["x"]) == 2).all()
    with pytest.raises(BackendError, match="cannot be replayed"):
        replay.turn(array, work((4,)))
