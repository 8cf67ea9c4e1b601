"""Which batch pays on this machine: measured, never assumed. On a CPU a large pair draws one as fast as several."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trt_var.backends.base import Backend
from trt_var.bundle.memory import MAX_BATCH
from trt_var.errors import BackendError
from trt_var.pipeline import Pipeline
from trt_var.serving.batching.planning import Fit
from trt_var.serving.batching.settings import Batching
from trt_var.serving.batching.times import Times

log = logging.getLogger(__name__)
GAIN = 1.05  # images a second that a larger batch must bring
PATIENCE = 2  # sizes in a row that may bring less, since other work on the machine disturbs
ENOUGH = 0.95  # share of the best rate at which the smaller batch is taken
REPEATS, SHORT = 5, 0.25  # batches below so many seconds are measured several times, the best counts


@dataclass(frozen=True)
class Line:
    """Who draws, and in which batches.

    Attributes:
        working: share the queue.
        lone: draws lone images, on the cores that the others share; None where there are no such.
        size: images drawn together at most.
        times: measured, of the working ones.
        fit: how many of the images that wait make the next batch.
        alone: seconds of a single image, by N.
    """

    working: list[Pipeline]
    lone: Pipeline | None
    size: int
    times: Times
    fit: Fit
    alone: dict[int, float]


def choose(pipelines: list[Pipeline], beside: list[Pipeline], settings: Batching) -> Line:
    """Measure which batch pays, of those beside each other if there are any; the single one then draws lone images.

    Raises:
        BundleError, BackendError: a single image cannot be drawn.
    """
    single, times = pipelines[0], Times()
    size = measure(single, settings, times)
    alone = {n: sizes[1] for n, sizes in times.measured().items() if 1 in sizes}
    working, lone = pipelines, None
    if beside:
        working, lone, times = beside, single, Times()
        size = measure(beside[0], settings, times)
    for other in working[1:]:
        _prepare(other, settings, size)
    return Line(working, lone, size, times, fitting(_backend(single, settings), size), alone)


def measure(pipeline: Pipeline, settings: Batching, times: Times) -> int:
    """Draw batches of rising size until that no longer pays; the size to serve with. All N that load may choose get times.

    Raises:
        BundleError, BackendError: what the pipeline raises where a single image cannot be drawn.
    """
    levels = settings.levels(pipeline.manifest)
    backend = _backend(pipeline, settings)
    most = min(MAX_BATCH, backend.padded(MAX_BATCH))  # engines may be built for less
    if pipeline.batch_invariant:
        size = 1
    elif settings.batch is not None:
        size = min(settings.batch, most)
    else:
        size = _best(lambda size: _seconds(pipeline, levels[0], size, times), most, settings.longest_batch)
    for n_draft in levels:
        for batch in _sizes(backend, size):
            if batch not in times.measured().get(n_draft, {}):
                _seconds(pipeline, n_draft, batch, times)
    seconds = times.seconds(levels[0], size)
    log.info("batches of %d: %.3f s, %.1f images a second (N = %d)", size, seconds, size / seconds, levels[0])
    return size


def fitting(backend: Backend, size: int) -> Fit:
    """Where a backend replays, batches are of sizes that were drawn at the start; the first of another takes much longer."""
    if not backend.settled:
        return lambda images: images
    sizes = _sizes(backend, size)
    ready = {backend.padded(one) for one in sizes}
    return lambda images: images if backend.padded(images) in ready else max(one for one in sizes if one <= images)


def _sizes(backend: Backend, size: int) -> list[int]:
    """What is drawn at the start: the smallest and the largest batch, and steps between where a backend replays."""
    steps = {1 << i for i in range(size.bit_length())} if backend.settled else {1}
    return sorted(steps | {size})


def _prepare(pipeline: Pipeline, settings: Batching, size: int) -> None:
    """What the first pipeline did while it was measured, with another."""
    backend, levels = _backend(pipeline, settings), settings.levels(pipeline.manifest)
    if not backend.settled:
        pipeline.warm(levels[0], size)
        return
    for n_draft in levels:
        for batch in _sizes(backend, size):
            _seconds(pipeline, n_draft, batch, Times())


def _backend(pipeline: Pipeline, settings: Batching) -> Backend:
    return pipeline.chain(settings.levels(pipeline.manifest)[0]).backend


def _best(seconds: Callable[[int], float], most: int, longest: float) -> int:
    """The smallest size whose rate is as good as the best, of those tried until two in a row brought nothing."""
    rates: dict[int, float] = {}
    size, best, idle = 1, 0.0, 0
    while size <= most and idle < PATIENCE:
        try:
            taken = seconds(size)
        except BackendError as error:
            if size == 1:
                raise
            log.info("no batches of %d: %s", size, error)
            break
        if size > 1 and taken > longest:
            break
        rates[size] = size / taken
        idle = 0 if rates[size] > GAIN * best else idle + 1
        best, size = max(best, rates[size]), 2 * size
    return next(size for size, rate in rates.items() if rate >= ENOUGH * best)


def _seconds(pipeline: Pipeline, n_draft: int, size: int, times: Times) -> float:
    """The shortest of a few batches, after one or more that prepare for them."""
    taken = _run(pipeline, n_draft, size)
    for _ in range(pipeline.chain(n_draft).backend.settled):
        _run(pipeline, n_draft, size)
    taken = min(_run(pipeline, n_draft, size) for _ in range(REPEATS if taken < SHORT else 1))
    times.add(n_draft, size, taken)
    return taken


def _run(pipeline: Pipeline, n_draft: int, size: int) -> float:
    started = time.perf_counter()
    labels: Sequence[int] = [i % pipeline.manifest.classes for i in range(size)]
    pipeline.generate(labels, n_draft=n_draft, batch_size=size)
    return time.perf_counter() - started
