"""Many callers on devices: captured where nobody looks on, scale by scale where somebody does, one queue for several."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

from simulating import assert_same, device
from trt_var import Batcher, Batching, Pipeline, Preview, Sampling, Served

SETTINGS = [Sampling(), Sampling(cfg=3, top_k=9), Sampling(cfg=0), Sampling(temperature=0.5)]


def test_two_devices_share_a_queue(digits: Path) -> None:
    with (
        Pipeline.load(digits, "onnxruntime") as reference,
        Pipeline.load(digits, "tensorrt") as first,
        Pipeline.load(digits, "tensorrt") as second,
        Batcher([first, second], Batching(batch=64)) as batcher,
    ):
        assert batcher.planner.size == 8, "the engines are built for as many"
        futures = [batcher.submit(i % 10, seed=i, n_draft=(2, 4)[i % 2], sampling=SETTINGS[i % 4]) for i in range(60)]
        for i, future in enumerate(futures):
            expected = reference.generate(i % 10, seeds=i, n_draft=(2, 4)[i % 2], sampling=SETTINGS[i % 4])
            assert_same(future.result(60), expected)
        assert device(first).launches > 0
        assert device(second).launches > 0


def test_previews_and_regions_on_a_device(digits: Path) -> None:
    with Pipeline.load(digits, "onnxruntime") as reference, Pipeline.load(digits, "tensorrt") as pipeline:
        image = reference.generate(3, seeds=1).images[0]
        mask = np.arange(32)[None, :] >= 12 + np.zeros((32, 1), int)

        async def ask() -> tuple[list[Preview | Served], list[Served]]:
            async with Batcher(pipeline, Batching(batch=4)) as batcher:
                kept = pipeline.kept(image, mask)
                others = [asyncio.ensure_future(batcher.generate(5, seed=i, kept=kept if i % 2 else None)) for i in range(6)]
                seen = [one async for one in batcher.stream(7, seed=3)]
                return seen, await asyncio.gather(*others)

        seen, drawn = asyncio.run(ask())
        expected = list(reference.stream(7, seeds=3))
        assert isinstance(seen[-1], Served)
        assert_same(seen[-1], expected[-1].generation)
        for preview in seen[:-1]:
            assert isinstance(preview, Preview)
            assert_same(preview.generation, expected[preview.scale].generation)
        for i, one in enumerate(drawn):
            assert_same(one, reference.inpaint(image, mask, 5, seeds=i) if i % 2 else reference.generate(5, seeds=i))
