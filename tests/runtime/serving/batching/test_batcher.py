"""Many callers, one pipeline: every picture is the one that it draws alone."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibrating import open_digits, quantised, seen
from helpers import assert_close, assert_tokens
from trt_var import Generation, Pipeline, Preview, Sampling, UsageError
from trt_var.errors import DeadlineError, OverloadedError
from trt_var.serving.batching.batcher import Batcher
from trt_var.serving.batching.dispatch import State
from trt_var.serving.batching.settings import Batching
from trt_var.serving.batching.sizing import _best
from trt_var.serving.batching.tickets import Served

SETTINGS = [Sampling(), Sampling(cfg=3, top_k=40), Sampling(temperature=0.7, top_p=0.5), Sampling(cfg=0), Sampling(scales=4)]
FIXED = Batching(batch=8)


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    with Pipeline.load("digits", "onnxruntime") as found:
        yield found


@pytest.fixture(scope="module")
def batcher(pipeline: Pipeline) -> Iterator[Batcher]:
    with Batcher(pipeline, FIXED) as found:
        yield found


def assert_same(found: Generation, expected: Generation) -> None:
    assert_tokens(found.tokens, expected.tokens)
    assert_close(found.images, expected.images, absolute=1)
    assert (found.labels.tolist(), found.seeds.tolist()) == (expected.labels.tolist(), expected.seeds.tolist())


def test_mixed_requests_share_batches_and_are_drawn_as_alone(pipeline: Pipeline, batcher: Batcher) -> None:
    """500 of them: class, seed, N, settings and number of images at random."""
    random = np.random.Generator(np.random.Philox(key=19))
    asked = [
        (int(random.integers(10)), int(random.integers(2**63)), int(random.choice([2, 4, 6])), SETTINGS[random.integers(5)])
        for _ in range(500)
    ]

    async def ask_all() -> list[Served]:
        waiting = [
            batcher.generate([label] * (1 + i % 3), seed=seed, n_draft=n, sampling=sampling)
            for i, (label, seed, n, sampling) in enumerate(asked)
        ]
        return list(await asyncio.gather(*waiting))

    batcher.planner._most = 10_000
    served = asyncio.run(ask_all())
    for i, ((label, seed, n, sampling), one) in enumerate(zip(asked, served, strict=True)):
        assert_same(one, pipeline.generate([label] * (1 + i % 3), seeds=seed, n_draft=n, sampling=sampling))
    sizes = [one.provenance.batch_size for one in served if one.provenance]
    assert np.mean(sizes) > 4, sizes


def test_threads(pipeline: Pipeline, batcher: Batcher) -> None:
    futures = [batcher.submit("seven", seed=seed, n_draft=4) for seed in range(20)]
    for seed, future in enumerate(futures):
        assert_same(future.result(60), pipeline.generate("seven", seeds=seed, n_draft=4))


def test_previews_are_those_of_stream(pipeline: Pipeline, batcher: Batcher) -> None:
    async def collect() -> list[Preview | Served]:
        others = [asyncio.ensure_future(batcher.generate(i, seed=i)) for i in range(5)]
        found = []
        async for one in batcher.stream(3, seed=9, n_draft=4):
            found.append(one)
            await asyncio.sleep(0)
        await asyncio.gather(*others)
        return found

    *previews, last = asyncio.run(collect())
    expected = list(pipeline.stream(3, seeds=9, n_draft=4))
    assert isinstance(last, Served)
    assert_same(last, expected[-1].generation)
    assert previews
    for preview in previews:
        assert isinstance(preview, Preview)
        assert_same(preview.generation, expected[preview.scale].generation)
        assert preview.role == expected[preview.scale].role


def test_a_stream_that_nobody_begins_to_read_leaves_the_queue(batcher: Batcher, monkeypatch: pytest.MonkeyPatch) -> None:
    futures: list[Future[Served]] = []
    submit = batcher.submit
    monkeypatch.setattr(batcher, "submit", lambda *given, **more: futures.append(submit(*given, **more)) or futures[-1])

    async def turn_away() -> None:
        first = submit([3] * 64, seed=0, n_draft=6)
        shown = batcher.stream(4, seed=0, n_draft=2)
        await shown.aclose()
        del shown
        assert futures[0].cancelled()
        first.cancel()

    asyncio.run(turn_away())


def test_inpainting_shares_batches_with_all_else(pipeline: Pipeline, batcher: Batcher) -> None:
    image = pipeline.generate(3, seeds=1).images[0]
    mask = np.zeros((32, 32), bool)
    mask[:, 12:] = True
    kept = pipeline.kept(image, mask)
    futures = [batcher.submit(5, seed=seed, kept=kept if seed % 2 else None) for seed in range(6)]
    for seed, future in enumerate(futures):
        expected = pipeline.inpaint(image, mask, 5, seeds=seed) if seed % 2 else pipeline.generate(5, seeds=seed)
        assert_same(future.result(60), expected)


def test_values_are_refused_before_they_wait(batcher: Batcher) -> None:
    for options, told in (
        ({"n_draft": 99}, "n_draft is 99"),
        ({"n_draft": (8, 9)}, "n_draft is from 8 to 9; this bundle serves N = 0, 1, 2, 3, 4, 5, 6"),
        ({"timeout": -1}, "timeout is -1"),
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"sampling": "best"}, "preset is 'best'"),
    ):
        with pytest.raises(UsageError, match=told):
            batcher.submit(3, **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="did you mean seven"):
        batcher.submit("sevn")
    assert batcher.planner.waiting == 0


def test_a_cancelled_request_leaves_the_queue(batcher: Batcher) -> None:
    first = batcher.submit([3] * 64, seed=0, n_draft=6)
    second = batcher.submit([4] * 64, seed=0, n_draft=2)
    assert second.cancel()
    assert len(first.result(60).images) == 64
    assert batcher.planner.waiting == 0
    assert batcher.submit(1).result(60).labels.tolist() == [1]


def test_a_batch_that_nobody_waits_for_ends_between_scales(pipeline: Pipeline) -> None:
    seen: list[str] = []

    class Watch(Batcher):
        pass

    from trt_var.serving.batching.watching import Watcher  # beside what it overrides

    class Counting(Watcher):
        def cancelled(self, stage: str, images: int) -> None:
            seen.append(f"{stage} {images}")

    with Watch(pipeline, Batching(batch=64), Counting()) as batcher:
        future = batcher.submit([3] * 64, n_draft=6)
        while not batcher.planner.running:
            time.sleep(0.001)
        future.cancel()
        while batcher.planner.running:
            time.sleep(0.001)
    assert seen == ["running 64"]


def test_bounds(pipeline: Pipeline) -> None:
    with Batcher(pipeline, Batching(batch=2, waiting=4)) as batcher:
        futures = [batcher.submit([1] * 4)]
        with pytest.raises(OverloadedError, match="find no room"):
            for _ in range(50):
                futures.append(batcher.submit([1] * 4))
        for future in futures:
            future.result(60)


def test_deadlines(pipeline: Pipeline, batcher: Batcher) -> None:
    with pytest.raises((DeadlineError, OverloadedError)):
        batcher.submit([3] * 64, n_draft=6, timeout=0.02).result(60)

    async def wait() -> None:
        await batcher.generate([3] * 64, n_draft=6, timeout=0.02)

    with pytest.raises((DeadlineError, OverloadedError)):
        asyncio.run(wait())


def test_closing_draws_what_was_taken_in_and_takes_no_more(pipeline: Pipeline) -> None:
    batcher = Batcher(pipeline, FIXED)
    assert batcher.state is State.STARTING
    with pytest.raises(UsageError, match="has not been started"):
        batcher.submit(1)
    batcher.start()
    assert batcher.state is State.READY
    futures = [batcher.submit(1, seed=seed) for seed in range(30)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    while batcher.state is State.READY:
        time.sleep(0.001)
    with pytest.raises(OverloadedError, match="closing") as refused:
        batcher.submit(1)
    assert refused.value.reason == "draining"
    closing.join(60)
    assert all(future.done() and future.exception() is None for future in futures)


@pytest.mark.parametrize("precision", ["float", "int8"])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_alone_where_the_pipeline_draws_every_image_alone(backend: str, precision: str, tmp_path: Path) -> None:
    """In whatever arithmetic: float is bfloat16 on OpenVINO, where the processor has it."""
    bundle = quantised(open_digits(), seen(), tmp_path / "int8").path if precision == "int8" else "digits"
    with Pipeline.load(bundle, backend, batch_invariant=True) as alone, Batcher(alone, Batching(batch=8)) as batcher:
        served = [batcher.submit(label, seed=label, sampling=SETTINGS[label % 5]) for label in range(10)]
        for label, future in enumerate(served):
            expected = alone.generate([9, label, 4], seeds=[1, label, 2], sampling=SETTINGS[label % 5])
            np.testing.assert_array_equal(future.result(60).images[0], expected.images[1])
            np.testing.assert_array_equal(future.result().tokens[0], expected.tokens[1])


def test_the_batch_that_pays_is_measured(pipeline: Pipeline) -> None:
    with Batcher(pipeline, Batching(floor=2)) as batcher:
        measured = batcher.planner.times.measured()
        assert set(measured) == {2, 3, 4}
        assert batcher.planner.size in measured[4] and 1 in measured[2]


@pytest.mark.parametrize(
    ("seconds", "size", "tried"),
    [
        ({1: 1.0, 2: 1.1, 4: 1.3, 8: 2.4, 16: 4.8, 32: 9.6}, 8, 32),  # no more a second from 8 on, and two tries
        ({1: 1.0, 2: 2.0, 4: 4.0}, 1, 4),  # nothing gained at all
        ({1: 1.0, 2: 2.2, 4: 2.4, 8: 4.8, 16: 9.6}, 4, 16),  # one that was disturbed does not end it
        ({1: 1.0, 2: 60.0}, 1, 2),  # too long for anyone to wait for
    ],
)
def test_the_smallest_batch_as_good_as_the_best(seconds: dict[int, float], size: int, tried: int) -> None:
    asked: list[int] = []

    def measure(batch: int) -> float:
        asked.append(batch)
        return seconds[batch]

    assert _best(measure, 256, 30.0) == size
    assert asked[-1] == tried


def test_settings_are_checked(pipeline: Pipeline) -> None:
    for wrong, told in (
        (replace(FIXED, batch=0), "batch is 0; expected a whole number from 1 to 256"),
        (replace(FIXED, waiting=10**9), "waiting is 1000000000"),
        (replace(FIXED, timeout=float("inf")), "timeout is inf"),
        (replace(FIXED, n_draft=9), "n_draft is 9; this bundle serves N"),
        (replace(FIXED, floor=6), "floor is 6, above N = 4"),
    ):
        with pytest.raises(UsageError, match=told):
            Batcher(pipeline, wrong)
