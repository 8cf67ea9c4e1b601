"""The app: routes on an engine."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trt_var import __version__
from trt_var.errors import TrtVarError
from trt_var.serving.app import openapi
from trt_var.serving.app.answers import PLAIN, as_json, place
from trt_var.serving.app.faults import Refusal, refusal
from trt_var.serving.app.guarding.guard import Guard
from trt_var.serving.app.guarding.metrics import Metrics
from trt_var.serving.app.page import Page
from trt_var.serving.app.protocols import catalogue, images, inference
from trt_var.serving.app.service import Service
from trt_var.serving.app.settings import Settings
from trt_var.serving.batching.dispatch import State
from trt_var.serving.engine import Engine, LocalEngine


def build(engine: Engine, settings: Settings = Settings(), metrics: Metrics | None = None) -> Starlette:  # noqa: B008  # frozen
    """The service as an ASGI app: for uvicorn, for a server of one's own, or mounted in another app.

    Args:
        engine: what draws. It is started and closed with the app (ASGI's lifespan).
        settings: names, bounds, keys.
        metrics: those that the engine's batcher was given, to be seen at ``/metrics``.
    """
    service = Service(engine, settings, metrics or Metrics())

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await start(service)
        try:
            yield
        finally:
            engine.drain()
            await engine.close()

    handlers: dict[Any, Any] = {Refusal: _refused, TrtVarError: _failed, HTTPException: _missing}
    guard = Middleware(Guard, settings=settings, metrics=service.metrics)
    app = Starlette(routes=_routes(settings), middleware=[guard], exception_handlers=handlers, lifespan=lifespan)
    app.state.service = service
    return app


async def start(service: Service) -> None:
    """Get an engine ready; what it serves is then known."""
    await service.engine.start()
    described = service.engine.describe()
    service.description, service.started = described, int(time.time())
    service.metrics.built(__version__, service.settings.model, described.backend)
    if isinstance(service.engine, LocalEngine):
        batcher, planner = service.engine.batcher, service.engine.batcher.planner
        service.metrics.watch(lambda: planner.waiting, lambda: planner.running, lambda: batcher.n_draft)


def _routes(settings: Settings) -> list[Route]:
    one, version = "/v2/models/{id}", "/v2/models/{id}/versions/{version}"
    found = [
        Route("/v1/images/generations", images.generations, methods=["POST"]),
        Route("/v1/images/edits", images.edits, methods=["POST"]),
        Route("/v1/models", catalogue.models),
        Route("/v1/models/{id}", catalogue.model),
        Route("/v1/classes", catalogue.classes),
        Route("/v2", inference.server),
        Route("/v2/health/live", inference.live),
        Route("/v2/health/ready", inference.ready),
        Route("/healthz", _healthz),
        Route("/readyz", _readyz),
        Route("/metrics", _metrics),
        Route("/version", _version),
        Route("/openapi.json", _openapi),
    ]
    for base in (one, version):
        found += [Route(base, inference.model), Route(f"{base}/ready", inference.ready)]
        found.append(Route(f"{base}/infer", inference.infer, methods=["POST"]))
    return [*found, Route("/", Page().answer)] if settings.page else found


async def _healthz(request: Request) -> Response:
    """Whether the process is of use at all: starting and draining are."""
    alive = request.app.state.service.state() is not State.FAILED
    return as_json({"status": "ok" if alive else "failed"}, 200 if alive else 503)


async def _readyz(request: Request) -> Response:
    """Whether new requests should come here."""
    service: Service = request.app.state.service
    state = service.state() if service.description else State.STARTING
    return as_json({"status": state.value}, 200 if state is State.READY else 503)


async def _metrics(request: Request) -> Response:
    service: Service = request.app.state.service
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _version(request: Request) -> Response:
    service: Service = request.app.state.service
    return as_json({"version": __version__, "model": service.settings.model, "backend": service.served().backend})


async def _openapi(request: Request) -> Response:
    return as_json(openapi.document(request.app.state.service.settings))


async def _refused(request: Request, error: Refusal) -> Response:
    return error.response(_plain(request))


async def _failed(request: Request, error: TrtVarError) -> Response:
    return refusal(error).response(_plain(request))


async def _missing(request: Request, error: HTTPException) -> Response:
    """Starlette's own: no such route, no such method, too large a body, a form that is none."""
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    return Refusal(error.status_code, error.detail, code=code, headers=dict(error.headers or {})).response(_plain(request))


def _plain(request: Request) -> bool:
    return place(request.scope).startswith(PLAIN)
