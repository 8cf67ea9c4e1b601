"""``trt-var serve --ray``: the same service by the replicas of a Ray cluster."""

from __future__ import annotations

import argparse
import logging
import os
import re
import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from trt_var.backends.installed import needed
from trt_var.errors import BackendError, UsageError

log = logging.getLogger(__name__)
APP = "trt-var"
INSTALL = 'pip install "trt-var[ray]"'
ALONE = ("drain_delay", "patience", "tls_certificate", "tls_key", "log_format", "side_by_side")  # of a service without --ray
COUNTS = ("replicas", "ingresses")
WITHIN = 10.0  # seconds in which a proxy answers once replicas do
LONGEST = 300  # characters of a reason
ERROR = re.compile(r"^(RuntimeError|trt_var\.errors\.\w+): ")


def add(parser: argparse.ArgumentParser) -> None:
    """The options of a cluster."""
    group = parser.add_argument_group("cluster")
    where = "serve by a Ray cluster: auto, local (one made of this machine), HOST:PORT or ray://…; needs trt-var[ray]"
    group.add_argument("--ray", metavar="ADDRESS", help=f"{where} (docs/scale.md)")
    group.add_argument("--replicas", type=int, metavar="n", help="engines, with --ray (default: 1)")
    told = "processes that speak HTTP for them, some 100 requests a second each, with --ray (default: 1)"
    group.add_argument("--ingresses", type=int, metavar="n", help=told)


def check(options: argparse.Namespace) -> None:
    """Compare with each other the options with and without a cluster.

    Raises:
        UsageError: they do not go together, or a number is out of range.
    """
    counts = {name: getattr(options, name) for name in COUNTS if getattr(options, name) is not None}
    if options.ray is None:
        if counts:
            raise UsageError(f"--{next(iter(counts))} belongs to --ray; without it there is one process")
        return
    for name, count in counts.items():
        if count < 1:
            raise UsageError(f"--{name} is {count}; expected 1 or more")
    for name in ALONE:
        if getattr(options, name):
            raise UsageError(f"--{name.replace('_', '-')} does not go with --ray; docs/scale.md says what Serve has for it")


def serve(options: argparse.Namespace, args: dict[str, Any]) -> None:
    """Until SIGTERM or Ctrl-C; ``args`` are the application's without what a replica takes."""
    from trt_var.bulk.cluster.joining import LOCAL, joined

    local, port = options.ray == LOCAL, options.port or _free(options.host)
    args |= {name: getattr(options, name) or 1 for name in COUNTS}
    with _proxies_guarded(), joined(options.ray, "serving on a cluster needs Ray Serve, which", INSTALL) as ray:
        with needed("serving on a cluster needs Ray Serve, which", ("ray", "fastapi", "starlette"), INSTALL):
            from ray import serve  # optional, and of this alone

            from trt_var.serving.ray.application import app
        made = app({**args, **share([node["Resources"] for node in ray.nodes() if node["Alive"]], args)})
        levels = _quieten()
        try:
            where = {"http_options": {"host": options.host, "port": port}}
            serve.start(**where, proxy_location="HeadOnly" if local else "EveryNode", logging_config={"log_level": "ERROR"})
            serve.run(made, name=APP, route_prefix="/")
            url = _url(options.host, port)
            if not _answers(url) and local:
                raise BackendError(f"Serve's proxy does not answer at {url}; choose another --port")
            print(url, flush=True)
            with suppress(KeyboardInterrupt):
                while True:
                    time.sleep(3600)
        except (ray.exceptions.RayError, RuntimeError) as error:
            raise BackendError(f"the cluster at {options.ray} does not serve this: {_reason(error, serve)}") from error
        finally:
            with suppress(Exception):  # the cluster may be what went wrong
                serve.delete(APP)  # what was accepted is answered first; a shutdown alone would take the proxies away
                if local:
                    serve.shutdown()
            levels.close()


def share(nodes: list[dict[str, float]], args: dict[str, Any]) -> dict[str, int]:
    """Processors and GPUs of a replica: a GPU where there are any, else as many processors as leave room for all replicas.

    Raises:
        BackendError: there is no room.
    """
    from trt_var.bulk.cluster.crew import CPU_ONLY

    replicas, threads = args["replicas"], args.get("threads")
    gpus = sum(int(node.get("GPU", 0)) for node in nodes) if args["backend"] not in CPU_ONLY else 0
    if gpus >= replicas:
        return {"gpus": 1, "cpus": 0}
    if gpus:
        raise BackendError(f"the cluster has {gpus} GPUs for {replicas} replicas; give fewer")
    processors = [int(node.get("CPU", 0)) for node in nodes]
    for cpus in [threads] if threads else range(max(processors, default=0), 0, -1):
        if sum(count // cpus for count in processors) >= replicas:
            return {"cpus": cpus}
    raise BackendError(f"the cluster has {sum(processors)} processors, too few for {replicas} replicas of {threads or 1}")


@contextmanager
def _proxies_guarded() -> Iterator[None]:
    """Proxies of a cluster that is made here drop what clients would tell Serve; others have that from their environment."""
    from trt_var.serving.ray.settings import CALLBACK, VARIABLE

    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = before or CALLBACK
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(VARIABLE, None)


def _quieten() -> ExitStack:
    """What Serve tells of its work, it also writes into its own logs; closed, this lets it speak again."""
    undo = ExitStack()
    for name in ("ray", "ray.serve"):
        undo.callback(logging.getLogger(name).setLevel, logging.getLogger(name).level)
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return undo


def _reason(error: Exception, serve: Any) -> str:
    """The last line of what was raised where a replica or a proxy was started, of the tracebacks that Serve passes on."""
    told = [str(error)]
    with suppress(Exception):  # the cluster may be gone
        told = [one.message for one in serve.status().applications[APP].deployments.values()] + told
    lines = [line.strip() for one in told for line in one.replace("\\n", "\n").splitlines()]
    errors = [line for line in lines if ERROR.match(line)]
    return ERROR.sub("", (errors or lines or [type(error).__name__])[-1])[:LONGEST]


def _free(host: str) -> int:
    """A port that is free now."""
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as found:
        port: int = found.getsockname()[1]
    return port


def _url(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _answers(url: str) -> bool:
    """Whether the service can be reached from here."""
    end = time.monotonic() + WITHIN
    while time.monotonic() < end:
        with suppress(OSError), urllib.request.urlopen(f"{url}/readyz", timeout=WITHIN) as found:  # noqa: S310
            return bool(found.status == 200)
        time.sleep(0.1)
    log.warning("%s does not answer from this machine; Serve's proxies may be elsewhere, or have other options", url)
    return False
