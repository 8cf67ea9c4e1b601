"""``trt-var serve``: an HTTP service on a bundle."""

from __future__ import annotations

import argparse
import copy
import logging
import re
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_var.backends.installed import needed
from trt_var.bundle.hub.address import short_name
from trt_var.cli import options as arguments
from trt_var.cli.serving import clustered
from trt_var.errors import BackendError, UsageError
from trt_var.files.paths import expanded

if TYPE_CHECKING:
    import socket

    from trt_var.pipeline import Pipeline
    from trt_var.serving.batching.settings import Batching
    from trt_var.serving.server import Process

PACKAGES = ("starlette", "uvicorn", "prometheus_client", "multipart", "python_multipart", "anyio")
AUTO = "auto"
NAME = re.compile(r"[^/.\x00-\x1f\ud800-\udfff][^/\x00-\x1f\ud800-\udfff]{0,99}")
HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9a-f:]+\]")
MOST_RATE, MOST_IMAGES = 1e6, 1000
SMALL = 100_000_000  # bytes of a bundle
GAINS = "onnxruntime"  # OpenVINO draws less side by side (docs/serving.md has figures)
USUAL_BESIDE, MOST_BESIDE = 4, 64


def add(parser: argparse.ArgumentParser, name: str) -> None:
    arguments.describe(
        parser,
        "Serve a bundle over HTTP. Requests of all clients share batches; every picture is the one that trt-var run draws. "
        "Speaks OpenAI's image API (also as a stream of previews), the Open Inference Protocol, and has a page at /. Ends "
        "on SIGTERM or Ctrl-C after everything accepted has been answered (docs/serving.md).",
        "serve --engines digits --n-draft auto            # http://127.0.0.1:8080",
        "serve --host 0.0.0.0 --api-key-file keys.txt --key-rate 2 --n-draft auto --target-latency 2",
        "serve --ray local --replicas 2                   # docs/scale.md",
    )
    arguments.add_engines(parser)
    _add_process(parser)
    _add_access(parser)
    _add_batching(parser)
    clustered.add(parser)
    parser.add_argument("--model-name", metavar="TEXT", help="for clients (default: the bundle's folder)")
    parser.add_argument(
        "--max-images", type=int, default=10, metavar="n", help="a request may ask for (default: %(default)s)"
    )
    parser.add_argument("--no-page", action="store_true", help="no page at /")
    parser.set_defaults(command=_serve)


def _add_process(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("process")
    group.add_argument("--host", default="127.0.0.1", help="to listen on (default: %(default)s, this machine alone)")
    group.add_argument("--port", type=int, default=8080, help="0 is any free one (default: %(default)s)")
    slow = "seconds after SIGTERM in which connections are still taken, and refused politely (default: %(default)g)"
    group.add_argument("--drain-delay", type=float, default=0.0, metavar="s", help=slow)
    given = "seconds that requests may still take after SIGTERM (default: as long as they need)"
    group.add_argument("--patience", type=float, metavar="s", help=given)
    group.add_argument("--tls-certificate", type=expanded, metavar="FILE", help="to speak TLS, with --tls-key")
    group.add_argument("--tls-key", type=expanded, metavar="FILE", help="the certificate's")
    logs = "of the log on standard error; JSON has a line a request (default: text on a terminal, else json)"
    group.add_argument("--log-format", choices=("text", "json"), help=logs)


def _add_access(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("access")
    keys = "API keys, a line 'name key' each; read again on SIGHUP. Without it anyone who reaches the port may ask"
    group.add_argument("--api-key-file", type=expanded, metavar="FILE", help=keys)
    group.add_argument("--key-rate", type=float, metavar="R", help="images a second that each key may ask for")
    group.add_argument("--key-images", type=int, metavar="n", help="images that each key may have under way")
    group.add_argument("--insecure", action="store_true", help="listen beyond this machine without keys")
    hosts = "a name that the service answers to (Host); any if none is given, but on 127.0.0.1 localhost alone"
    group.add_argument("--allow-host", action="append", default=[], metavar="NAME", help=hosts)


def _add_batching(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("drawing")
    n_draft = "scales that the drafter draws where a request does not say; auto: fewer under load, down to --n-draft-floor"
    group.add_argument("--n-draft", default=None, metavar="N", help=f"{n_draft} (default: the bundle's)")
    group.add_argument(
        "--n-draft-ceiling", type=int, metavar="N", help="with auto, while there is time (default: the bundle's)"
    )
    group.add_argument("--n-draft-floor", type=int, metavar="N", help="with auto, the least (default: the least it serves)")
    target = "seconds from arrival to answer that auto lowers N for (default: %(default)g)"
    group.add_argument("--target-latency", type=float, default=1.0, metavar="s", help=target)
    together = "images drawn together at most (default: measured at the start)"
    group.add_argument("--batch-size", "--batch", dest="batch", type=int, metavar="B", help=together)
    beside = (
        "engines that share the cores of a CPU (default: one a core, at most 4, for small bundles on ONNX Runtime; else 1, "
        "and with --batch-invariant)"
    )
    group.add_argument("--side-by-side", type=int, metavar="n", help=beside)
    group.add_argument(
        "--max-waiting", type=int, default=256, metavar="n", help="images that may wait (default: %(default)s)"
    )
    late = "seconds after which a request is given up (default: %(default)g); clients may ask for less"
    group.add_argument("--request-timeout", type=float, default=60.0, metavar="s", help=late)


def _serve(options: argparse.Namespace) -> None:
    with needed("trt-var serve", PACKAGES, "pip install 'trt-var[serve]'"):
        from trt_var.serving import memory, server
        from trt_var.serving.app.app import build
        from trt_var.serving.app.guarding.metrics import Metrics
        from trt_var.serving.app.keys import Keys
        from trt_var.serving.app.settings import Settings
        from trt_var.serving.engine import LocalEngine
    process = _process(options)
    _check(options)
    clustered.check(options)
    keys = None
    if options.api_key_file:
        keys = Keys(options.api_key_file, options.key_rate, options.key_images)
    elif options.key_rate is not None or options.key_images is not None:
        raise UsageError("--key-rate and --key-images are limits of keys; give --api-key-file")
    elif not (server.is_loopback(options.host) or options.insecure):
        raise UsageError(
            f"host {options.host} can be reached from beyond this machine, and anyone could ask for pictures; give "
            "--api-key-file, or --insecure if something in front of it checks who asks"
        )
    hosts = frozenset(name.lower() for name in options.allow_host)
    if server.is_loopback(options.host):
        hosts |= server.LOOPBACK
    name = options.model_name or short_name(options.engines)
    if options.ray is not None:
        clustered.serve(options, _args(options, name, hosts))
        return
    listening = server.bind(process)
    settings = Settings(name, options.max_images, keys=keys, hosts=hosts, page=not options.no_page)
    with arguments.pipeline(options) as pipeline:
        if _small(pipeline):  # large models fetch the pages of their buffers once, and keep them
            memory.steady()
        metrics = Metrics()
        engine = LocalEngine(pipeline, _batching(options, pipeline.manifest.serves), metrics, _beside(options, pipeline))
        app = build(engine, settings, metrics)
        lines = options.log_format == "json" or (options.log_format is None and not sys.stderr.isatty())
        server.log_to_stderr(lines, logging.INFO)
        engine.batcher.start()  # before the server: what fails here, or is interrupted, ends as any command does
        if server.serve(app, process, listening, lambda: _say(process, listening)):
            raise BackendError(f"the service ended: {engine.batcher.trouble}")


def _args(options: argparse.Namespace, name: str, hosts: frozenset[str]) -> dict[str, Any]:
    """Of the application on Ray Serve, see ``trt_var.serving.ray.settings.Args``; paths are those of this machine."""
    from trt_var.bulk.cluster import Source
    from trt_var.bundle.opening import Bundle

    bundle = Bundle.open(options.engines)
    batching = _batching(options, bundle.manifest.serves)
    batching.check(bundle.manifest)
    source = Source.of(options.engines, bundle, options.backend)
    shared = ("backend", "batch_invariant", "threads", "keep_compiled", "verify", "key_rate", "key_images")
    return {
        **{one: getattr(options, one) for one in shared},
        **{one: getattr(batching, one) for one in ("n_draft", "floor", "target", "batch", "waiting", "timeout")},
        "engines": "digits" if source.path is None else str(source.path),
        "model": name,
        "images": options.max_images,
        "key_file": str(options.api_key_file.absolute()) if options.api_key_file else None,
        "hosts": sorted(hosts),
        "page": not options.no_page,
    }


def _process(options: argparse.Namespace) -> Process:
    from trt_var.serving.batching.settings import LONGEST
    from trt_var.serving.server import Process

    if not 0 <= options.port <= 65_535:
        raise UsageError(f"--port is {options.port}; expected 0 to 65535")
    for name in ("drain_delay", "patience"):
        value = getattr(options, name)
        if value is not None and not 0 <= value <= LONGEST:
            raise UsageError(f"--{name.replace('_', '-')} is {value:g}; expected seconds, 0 to {LONGEST:g}")
    files = [options.tls_certificate, options.tls_key]
    if any(files) != all(files):
        raise UsageError("--tls-certificate and --tls-key go together")
    for file in filter(None, files):
        if not file.is_file():
            raise UsageError(f"{file} is no file")
    if all(files):
        _check_certificate(*files)
    certificate, key = (str(file) if file else None for file in files)
    return Process(options.host, options.port, options.drain_delay, options.patience, certificate, key)


def _check(options: argparse.Namespace) -> None:
    """Compare with their ranges what nothing later does."""
    if options.key_rate is not None and not 0 < options.key_rate <= MOST_RATE:
        raise UsageError(f"--key-rate is {options.key_rate:g}; expected images a second, more than 0")
    if options.key_images is not None and options.key_images < 1:
        raise UsageError(f"--key-images is {options.key_images}; expected 1 or more")
    if options.model_name is not None and not NAME.fullmatch(options.model_name):
        raise UsageError("--model-name: expected 1 to 100 printable characters, without / and not beginning with a dot")
    if not 1 <= options.max_images <= MOST_IMAGES:
        raise UsageError(f"--max-images is {options.max_images}; expected 1 to {MOST_IMAGES}")
    for name in options.allow_host:
        if not HOST.fullmatch(name):
            raise UsageError(f"--allow-host is {name[:80]!r}; expected a host's name, without scheme and port")


def _check_certificate(certificate: Path, key: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ValueError) as error:  # SSLError is an OSError; what is encrypted is not asked about
        raise UsageError(f"{certificate} and {key} are no certificate and its key, unencrypted: {error}") from error


def _batching(options: argparse.Namespace, serves: tuple[int, ...]) -> Batching:
    from trt_var.serving.batching.settings import Batching

    auto = options.n_draft == AUTO
    if not auto and (options.n_draft_ceiling is not None or options.n_draft_floor is not None):
        raise UsageError("--n-draft-ceiling and --n-draft-floor belong to --n-draft auto")
    n_draft = options.n_draft_ceiling if auto else _number(options.n_draft)
    floor = (min(serves) if options.n_draft_floor is None else options.n_draft_floor) if auto else None
    return Batching(
        batch=options.batch,
        waiting=options.max_waiting,
        timeout=options.request_timeout,
        n_draft=n_draft,
        floor=floor,
        target=options.target_latency,
    )


def _beside(options: argparse.Namespace, pipeline: Pipeline) -> list[Pipeline]:
    """Pipelines that share the cores of the given one; none on a GPU, and where each image is drawn alone.

    Such an image is promised for a number of threads; here the load would decide whether it is drawn on all or on a share.

    Raises:
        UsageError: a number out of range, or of images that are drawn alone.
    """
    threads, count = pipeline.threads, options.side_by_side
    if count is not None and not 1 <= count <= MOST_BESIDE:
        raise UsageError(f"--side-by-side is {count}; expected 1 to {MOST_BESIDE}")
    if pipeline.batch_invariant and count not in (None, 1):
        raise UsageError("--side-by-side and --batch-invariant do not go together: it would change an image's threads")
    if threads is None or pipeline.batch_invariant:
        return []
    if count is None:
        count = min(threads, USUAL_BESIDE) if _small(pipeline) and pipeline.backend_name == GAINS else 1
    if count == 1:
        return []
    shared = copy.copy(options)
    shared.threads = max(1, threads // count)
    if options.backend == AUTO:
        shared.backend = pipeline.backend_name
    return [arguments.pipeline(shared) for _ in range(count)]


def _small(pipeline: Pipeline) -> bool:
    return sum(file.size for file in pipeline.manifest.files.values()) < SMALL


def _number(text: str | None) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"-?[0-9]{1,9}", text):
        raise UsageError(f"--n-draft is {text[:40]!r}; expected a whole number or {AUTO}")
    return int(text)


def _say(process: Process, listening: socket.socket) -> None:
    """Where the service is, for people and for programs that asked for any free port."""
    scheme = "https" if process.certificate else "http"
    host, port = listening.getsockname()[:2]
    print(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
