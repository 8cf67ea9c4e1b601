"""The service's own app under an ASGI server of one's choice, or inside another app.

    uvicorn --factory --app-dir examples/serving asgi:app --port 8080
    uvicorn --factory --app-dir examples/serving asgi:mounted --port 8080    # all of it below /pictures, but the page
    pip install gunicorn uvicorn-worker
    gunicorn --config examples/serving/gunicorn.conf.py --chdir examples/serving "asgi:app()"

Environment: TRT_VAR_ENGINES (a bundle; digits), TRT_VAR_THREADS (of the engine, in each process), TRT_VAR_KEYS (a file of
API keys), TRT_VAR_HOSTS (names that are answered to, separated by commas; this machine's own if not given).

`trt-var serve` is what is recommended: one process a device. It also says that it is going before it does (/readyz, 503
with Retry-After), reads keys again on SIGHUP, writes a JSON line a request, and ends when the engine has failed, so that a
supervisor can start it again. Several processes on one device each hold the models and share no batches; limits of keys, the
queue's length and /metrics are each process's own, and a scrape sees the one that happens to answer it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from trt_var import Batching, Pipeline
from trt_var.serving.app.app import build
from trt_var.serving.app.guarding.metrics import Metrics
from trt_var.serving.app.keys import Keys
from trt_var.serving.app.settings import Settings
from trt_var.serving.engine import LocalEngine


def app(page: bool = True) -> Starlette:
    """The bundle is opened here, its models are loaded by the app's lifespan: each worker has its own."""
    engines, threads, keys = (os.environ.get(f"TRT_VAR_{name}") for name in ("ENGINES", "THREADS", "KEYS"))
    pipeline = Pipeline.load(engines or "digits", threads=int(threads) if threads else None)
    metrics = Metrics()
    # a batch that is given is not measured: workers that start together would disturb each other's clocks
    engine = LocalEngine(pipeline, Batching(batch=8), metrics)
    hosts = os.environ.get("TRT_VAR_HOSTS", "localhost,127.0.0.1,[::1]").split(",")
    name, known = Path(engines or "digits").name, Keys(Path(keys)) if keys else None
    return build(engine, Settings(name, keys=known, hosts=frozenset(hosts), page=page), metrics)


def mounted() -> Starlette:
    """Inside another app, Starlette or FastAPI: that app's lifespan has to enter the service's, since mounting does not."""
    service = app(page=False)  # which asks for what it shows at /

    @asynccontextmanager
    async def lifespan(outer: Starlette) -> AsyncIterator[None]:
        async with service.router.lifespan_context(service):
            yield

    async def below(scope: Scope, receive: Receive, send: Send) -> None:
        """The service knows its routes, their limits and which need no key, by their whole paths."""
        await service({**scope, "path": scope["path"].removeprefix("/pictures"), "root_path": ""}, receive, send)

    async def hello(request: Request) -> Response:
        return PlainTextResponse("pictures are at /pictures/v1/images/generations\n")

    return Starlette(routes=[Route("/", hello), Mount("/pictures", below)], lifespan=lifespan)
