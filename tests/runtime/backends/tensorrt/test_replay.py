"""Work that is drawn again: eager, captured, launched, with the refiner beside the drafter."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from helpers import GOLDEN, assert_close, assert_tokens
from simulating import assert_same, device
from trt_var import BackendError, Pipeline, Sampling
from trt_var.backends.tensorrt.record import Batch, Guidance, read_record
from trt_var.backends.tensorrt.simulated.device import SimulatedDevice
from trt_var.bundle.memory import need
from trt_var.bundle.opening import PACKAGED
from trt_var.decoding.feeds import one_row
from trt_var_export.engines import EngineRecipe, build_engines

golden = np.load(GOLDEN / "tiny.npz")


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


@pytest.mark.parametrize(
    ("guidance", "sampling", "halved"),
    [
        (("guided", "free"), Sampling(cfg=0), {"drafter", "refiner"}),
        (("guided", "refiner-free"), Sampling(cfg=2, guided_scales=3), {"refiner"}),
        (("guided", "refiner-free"), Sampling(cfg=0), {"refiner"}),
        (("guided",), Sampling(cfg=0), set()),
        (("free",), Sampling(cfg=0, scales=4), {"drafter", "refiner"}),
    ],
)
def test_rows_by_guidance(
    tmp_path: Path,
    guidance: tuple[Guidance, ...],
    sampling: Sampling,
    halved: set[str],
    measured: Callable[[float, float], None],
) -> None:
    measured(1.0, 0.5)
    bundle = shutil.copytree(PACKAGED / "digits", tmp_path / "bundle")
    out = build_engines(EngineRecipe(bundle, "simulated", batch=Batch(1, 2, 4), guidance=guidance))
    assert read_record(out).guidance == guidance
    with Pipeline.load(bundle, "onnxruntime") as reference, Pipeline.load(bundle, "tensorrt") as pipeline:
        assert one_row(pipeline.chain(3), 3, sampling) == halved
        for turn in range(4):
            asked = {"seeds": turn, "n_draft": 3, "sampling": sampling}
            assert_same(pipeline.generate([1, 2], **asked), reference.generate([1, 2], **asked))
        if guidance == ("free",):
            with pytest.raises(BackendError, match="has no profile"):
                pipeline.generate([1, 2, 3, 4], n_draft=3)


def test_old_graphs_give_way(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trt_var.backends.tensorrt.runtime.MAX_REPLAYS", 2)
    with Pipeline.load(digits, "tensorrt") as pipeline:
        free = []
        for n_draft in (1, 2, 3, 4, 1):
            pipeline.generate([1], n_draft=n_draft)
            gc.collect()
            free.append(device(pipeline).free_memory())
        assert len(pipeline._backend._replays) == 2  # type: ignore[attr-defined]
