"""For the benchmarks of the service on a local Ray cluster: the cluster, the application, a request."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

REPLICAS, PORT = 2, 8765
ENGINE, INGRESS, PROXY = "ray::ServeReplica:trt-var:engine", "ray::ServeReplica:trt-var:ingress", "ray::ProxyActor"
URL = f"http://127.0.0.1:{PORT}"


@contextmanager
def cluster(**environment: Any) -> Iterator[None]:
    """One of this machine alone; ``environment`` is its workers'."""
    import ray
    from ray import serve

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init(num_cpus=REPLICAS, runtime_env=environment, **quiet)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT}, logging_config={"log_level": "ERROR"})
    try:
        yield
    finally:
        serve.shutdown()
        ray.shutdown()


def run(engines: Path | str, **args: Any) -> None:
    """Serve a bundle, or replace the one that is served; returns once all engines are new."""
    from ray import serve

    from trt_var.serving.ray import app

    given = {"engines": str(engines), "backend": "onnxruntime", "replicas": REPLICAS, "cpus": 1, "batch": 4, **args}
    serve.run(app(given), name="trt-var", route_prefix="/")


def ask(seed: int, n_draft: int, images: int = 1) -> tuple[int, bytes]:
    """Status and body."""
    body = json.dumps({"prompt": seed % 10, "seed": seed, "n_draft": n_draft, "n": images}).encode()
    request = urllib.request.Request(f"{URL}/v1/images/generations", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def named(name: str) -> list[psutil.Process]:
    """Processes of an actor: Ray names one when its actor has been made."""
    processes = psutil.process_iter(["cmdline"])
    return [one for one in processes if " ".join(one.info["cmdline"] or ()).startswith(name)]
