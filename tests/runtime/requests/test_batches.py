"""Kind: promises with their limits. What an image owes to those beside it, by arithmetic, and how it is freed of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import assert_close, assert_tokens
from trt_var import Generation, Pipeline, Sampling, UsageError
from trt_var.backends.base import Backend, Buffer, Graph
from trt_var.backends.onnxruntime.cpu import OnnxRuntime
from trt_var.backends.openvino.runtime import OpenVino
from trt_var.bulk.shards import Bulk, sample
from trt_var.bundle.opening import Bundle

FREE = Sampling(cfg=0.5, top_k=0, top_p=0, temperature=1.5)  # flat distributions, in which rounding shows first
LABELS, SEEDS = [3, 7, 3, 1], [5, 6, 7, 8]


class NeighbourlyGraph:
    """A graph whose float results owe something to the batch's size, an image's place in it and its neighbours."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        self._graph.run(inputs, outputs)
        for name in ("new_f_hat", "features"):
            if name in outputs:
                array: Any = outputs[name]
                axis = 0 if name == "new_f_hat" else 1
                places = np.arange(array.shape[axis], dtype=np.float32).reshape(
                    [-1 if a == axis else 1 for a in range(array.ndim)]
                )
                array += np.float32(0.3) * (len(places) + np.sin(places) + np.float32(array.mean()))


class Neighbourly(OnnxRuntime):
    """The worst that arithmetic may do."""

    smallest = 1

    def __init__(self) -> None:
        super().__init__()
        self.description = "a backend, CPU, bfloat16 arithmetic"

    def load(self, path: Path, *, exact: bool = False, images: int | None = None) -> Graph:
        return NeighbourlyGraph(super().load(path, exact=exact))

    def padded(self, images: int) -> int:
        return max(self.smallest, images)


class NeighbourlyByFour(Neighbourly):
    """With engines for no fewer than four."""

    smallest = 4


def everywhere(pipeline: Pipeline, sampling: Sampling = FREE) -> Iterator[tuple[list[int], Generation]]:
    """The same images in other batches, orders and company: their numbers in ``SEEDS``, and what came."""
    for batch in (1, 2):
        yield list(range(4)), pipeline.generate(LABELS, seeds=SEEDS, sampling=sampling, batch_size=batch)
    order = [3, 1, 0, 2]
    labels, seeds = np.array(LABELS)[order], np.array(SEEDS)[order]
    yield order, pipeline.generate(labels, seeds=seeds, sampling=sampling, batch_size=3)
    *_, last = pipeline.stream(labels[:2], seeds=seeds[:2], sampling=sampling)
    yield order[:2], last.generation
    strangers = pipeline.generate([3, 8, 8], seeds=[5, 77, 78], sampling=sampling, batch_size=3)
    first = {name: getattr(strangers, name)[:1] for name in ("images", "tokens", "labels", "seeds")}
    yield [0], Generation(**first)


def assert_invariant(pipeline: Pipeline, sampling: Sampling = FREE) -> None:
    expected = pipeline.generate(LABELS, seeds=SEEDS, sampling=sampling)
    for order, found in everywhere(pipeline, sampling):
        assert_tokens(found.tokens, expected.tokens[order])
        assert_close(found.images, expected.images[order])


@contextmanager
def opened(backend: Backend, batch_invariant: bool = True, bundle: str | Path = "digits") -> Iterator[Pipeline]:
    with Pipeline(Bundle.open(bundle), backend, batch_invariant=batch_invariant) as pipeline:
        yield pipeline


@pytest.mark.parametrize("kind", [Neighbourly, NeighbourlyByFour])
def test_whatever_arithmetic_does(kind: type[Neighbourly]) -> None:
    with opened(kind()) as pipeline:
        assert_invariant(pipeline)
        assert "by itself" in pipeline.backend
    with opened(kind(), batch_invariant=False) as pipeline:
        assert "rounding may depend" in pipeline.backend
        with pytest.raises(AssertionError, match="tokens differ"):
            assert_invariant(pipeline)


@pytest.mark.parametrize(
    "backend", [OnnxRuntime, lambda: OpenVino(False), lambda: OpenVino(True)], ids=["ort", "f32", "bf16"]
)
def test_backends(backend: Any) -> None:
    with opened(backend()) as pipeline:
        assert_invariant(pipeline)


def test_inpainting_and_reconstruction() -> None:
    with opened(Neighbourly()) as pipeline:
        images = pipeline.generate(LABELS, seeds=SEEDS).images
        mask = np.zeros((32, 32), np.bool_)
        mask[:, 16:] = True
        together = pipeline.inpaint(images[0], mask, LABELS, seeds=SEEDS)
        alone = pipeline.inpaint(images[0], mask, LABELS[3], seeds=SEEDS[3])
        assert_tokens(together.tokens[3:4], alone.tokens)
        assert_close(together.images[3:4], alone.images)
        together, alone = pipeline.reconstruct(images), pipeline.reconstruct(images[3:4])
        assert_tokens(together.tokens[3:4], alone.tokens)
        assert_close(together.images[3:4], alone.images)


def test_threads_beside_each_other() -> None:
    with opened(OpenVino(True)) as pipeline:
        expected = pipeline.generate(LABELS, seeds=SEEDS, sampling=FREE)
        found: dict[int, Generation] = {}

        def work(i: int) -> None:
            found[i] = pipeline.generate(LABELS[i:], seeds=SEEDS[i:], sampling=FREE)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for i, result in found.items():
        assert_tokens(result.tokens, expected.tokens[i:])
        assert_close(result.images, expected.images[i:])


def test_what_the_results_say() -> None:
    with opened(OpenVino(True)) as pipeline:
        made = pipeline.generate(LABELS, batch_size=4).provenance
    with opened(OpenVino(True), batch_invariant=False) as pipeline:
        other = pipeline.generate(LABELS, batch_size=4).provenance
    assert made is not None and other is not None
    assert (made.batch_invariant, made.batch_size, made.arithmetic) == (True, 1, "bfloat16")
    assert (other.batch_invariant, other.batch_size) == (False, 4)
    with opened(OnnxRuntime(), batch_invariant=False) as pipeline:
        assert "tokens do not depend on the batch" in pipeline.backend


def test_shards_do_not_mix(tmp_path: Path) -> None:
    with opened(OpenVino(True)) as pipeline:
        sample(pipeline, Bulk(4, batch_size=2), tmp_path)
        sample(pipeline, Bulk(4, batch_size=3), tmp_path)  # no batch, no size of it
    with (
        opened(OpenVino(True), batch_invariant=False) as pipeline,
        pytest.raises(UsageError, match="batch_invariant True there"),
    ):
        sample(pipeline, Bulk(4, batch_size=2), tmp_path)
