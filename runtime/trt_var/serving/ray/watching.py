"""What a replica's batcher does, as metrics of Ray: the names of ``/metrics`` and Ray's prefix, by replica."""

from __future__ import annotations

from ray.serve import metrics

from trt_var.serving.app.guarding.metrics import GAUGES, SECONDS, SIZES
from trt_var.serving.batching.watching import Watcher


class RayWatcher(Watcher):
    """Counts what a batcher does. Every node's agent exports it, with the tags deployment and replica."""

    def __init__(self) -> None:
        seconds, sizes = [float(one) for one in SECONDS], [float(one) for one in SIZES]
        self._waits = metrics.Histogram("trt_var_queue_wait_seconds", "That an image waited", seconds)
        self._sizes = metrics.Histogram("trt_var_batch_images", "Images of a batch", sizes)
        told = "Of a batch, by N"
        self._batches = metrics.Histogram("trt_var_batch_duration_seconds", told, seconds, ("n_draft",))
        told = "Of a scale of a batch"
        self._scales = metrics.Histogram("trt_var_scale_duration_seconds", told, seconds, ("scale",))
        self._images = metrics.Counter("trt_var_images", "Images drawn, by N", ("n_draft",))
        self._rejected = metrics.Counter("trt_var_rejected", "Requests refused", ("reason",))
        self._cancelled = metrics.Counter("trt_var_cancelled", "Images whose callers went", ("stage",))
        self._late = metrics.Counter("trt_var_deadline", "Requests that were not done in time")
        self._errors = metrics.Counter("trt_var_engine_errors", "Batches over which an engine failed")
        self._gauges = {name: metrics.Gauge(name, text) for name, text in GAUGES.items()}

    def look(self, waiting: float, running: float, n_draft: float) -> None:
        """Images that wait and that are drawn now, N of the next batch."""
        for gauge, value in zip(self._gauges.values(), (waiting, running, n_draft), strict=True):
            gauge.set(value)

    def rejected(self, reason: str, images: int) -> None:
        """See ``Watcher``."""
        self._rejected.inc(tags={"reason": reason})

    def began(self, images: int, waits: list[float]) -> None:
        """See ``Watcher``."""
        self._sizes.observe(images)
        for wait in waits:
            self._waits.observe(wait)

    def scale(self, index: int, seconds: float) -> None:
        """See ``Watcher``."""
        self._scales.observe(seconds, {"scale": str(index)})

    def batch(self, n_draft: int, images: int, seconds: float) -> None:
        """See ``Watcher``."""
        self._batches.observe(seconds, {"n_draft": str(n_draft)})
        self._images.inc(images, {"n_draft": str(n_draft)})

    def cancelled(self, stage: str, images: int) -> None:
        """See ``Watcher``."""
        self._cancelled.inc(images, {"stage": stage})

    def late(self, requests: int) -> None:
        """See ``Watcher``."""
        self._late.inc(requests)

    def failed(self, images: int) -> None:
        """See ``Watcher``."""
        self._errors.inc()
