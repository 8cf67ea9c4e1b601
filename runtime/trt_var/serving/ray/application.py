"""The application for ``serve deploy`` and ``trt-var serve --ray``: ``import_path: trt_var.serving.ray:app``."""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve import Application

from trt_var.serving.ray.deployments import ENGINE, INGRESS, EngineReplica, ingress
from trt_var.serving.ray.settings import Args

GRACE = 15.0  # seconds beyond the longest request
ATTEMPTS = 3  # to start a replica
LOOK = 5.0  # seconds between checks of its health
MOST_OPEN = 10_000  # requests at an ingress, which bounds by itself what it takes in
BESIDE = 2  # times the images that may wait: the batcher refuses, with the time after which to ask again; Serve should not


def app(args: dict[str, Any]) -> Application:
    """Two deployments: the app as ingress, behind it the engines. ``args`` are those of ``Args``.

    Raises:
        UsageError: unknown, of another kind, or out of range.
    """
    found = Args.of(args)
    shared = {"max_constructor_retry_count": ATTEMPTS, "health_check_period_s": LOOK, "graceful_shutdown_wait_loop_s": 1.0}
    patience = found.timeout + GRACE
    engines = serve.deployment(EngineReplica).options(
        name=ENGINE,
        num_replicas=found.replicas,
        ray_actor_options={"num_cpus": found.cpus, "num_gpus": found.gpus},
        max_ongoing_requests=BESIDE * found.waiting + 64,
        graceful_shutdown_timeout_s=patience,
        **shared,
    )
    front = serve.deployment(ingress(found)).options(
        name=INGRESS,
        num_replicas=found.ingresses,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=MOST_OPEN,
        graceful_shutdown_timeout_s=patience + GRACE,
        **shared,
    )
    return front.bind(engines.bind(found))
