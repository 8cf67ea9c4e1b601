"""What Prometheus is told. Seconds and images; no label that a client chooses."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from trt_var.serving.batching.watching import Watcher

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
GAUGES = {
    "trt_var_queue_images": "Images that wait",
    "trt_var_running_images": "Images that are being drawn",
    "trt_var_n_draft": "N of the next batch, where requests leave it open",
}


class _Bounds(TypedDict):
    buckets: tuple[float, ...]
    registry: CollectorRegistry


class Metrics(Watcher):
    """Counts what a batcher and the app do, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        seconds: _Bounds = {"buckets": SECONDS, "registry": registry}
        self.requests = Counter("trt_var_requests", "Requests answered", ["route", "status"], registry=registry)
        told = "From a request to the end of its answer"
        self.durations = Histogram("trt_var_request_duration_seconds", told, ["route", "stream"], **seconds)
        told = "From a request to its first preview"
        self.first = Histogram("trt_var_time_to_first_preview_seconds", told, **seconds)
        self._waits = Histogram("trt_var_queue_wait_seconds", "That an image waited", **seconds)
        self._sizes = Histogram("trt_var_batch_images", "Images of a batch", buckets=SIZES, registry=registry)
        self._batches = Histogram("trt_var_batch_duration_seconds", "Of a batch, by N", ["n_draft"], **seconds)
        self._scales = Histogram("trt_var_scale_duration_seconds", "Of a scale of a batch", ["scale"], **seconds)
        self._images = Counter("trt_var_images", "Images drawn, by N", ["n_draft"], registry=registry)
        self._rejected = Counter("trt_var_rejected", "Requests refused", ["reason"], registry=registry)
        self._cancelled = Counter("trt_var_cancelled", "Images whose callers went", ["stage"], registry=registry)
        self._late = Counter("trt_var_deadline", "Requests that were not done in time", registry=registry)
        self._errors = Counter("trt_var_engine_errors", "Batches over which an engine failed", registry=registry)
        for reason in ("full", "deadline", "draining", "key"):  # there from the start, so that the first one is an increase
            self._rejected.labels(reason)
        for stage in ("queued", "running"):
            self._cancelled.labels(stage)
        self._built = Gauge("trt_var_build_info", "What serves", ["version", "bundle", "backend"], registry=registry)

    def watch(self, waiting: Callable[[], float], running: Callable[[], float], n_draft: Callable[[], float]) -> None:
        """Read these whenever somebody looks: images that wait, images that are drawn, N of the next batch."""
        for (name, text), read in zip(GAUGES.items(), (waiting, running, n_draft), strict=True):
            Gauge(name, text, registry=self._registry).set_function(read)

    def built(self, version: str, bundle: str, backend: str) -> None:
        """Say what serves."""
        self._built.labels(version, bundle, backend).set(1)

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)

    def rejected(self, reason: str, images: int) -> None:
        """See ``Watcher``."""
        self._rejected.labels(reason).inc()

    def began(self, images: int, waits: list[float]) -> None:
        """See ``Watcher``."""
        self._sizes.observe(images)
        for wait in waits:
            self._waits.observe(wait)

    def scale(self, index: int, seconds: float) -> None:
        """See ``Watcher``."""
        self._scales.labels(str(index)).observe(seconds)

    def batch(self, n_draft: int, images: int, seconds: float) -> None:
        """See ``Watcher``."""
        self._batches.labels(str(n_draft)).observe(seconds)
        self._images.labels(str(n_draft)).inc(images)

    def cancelled(self, stage: str, images: int) -> None:
        """See ``Watcher``."""
        self._cancelled.labels(stage).inc(images)

    def late(self, requests: int) -> None:
        """See ``Watcher``."""
        self._late.inc(requests)

    def failed(self, images: int) -> None:
        """See ``Watcher``."""
        self._errors.inc()
