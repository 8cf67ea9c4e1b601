"""What all routes share: the engine, the settings, and whose request it is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request

from trt_var.errors import DeadlineError
from trt_var.serving.app.answers import CLIENT_GONE
from trt_var.serving.app.faults import Refusal
from trt_var.serving.app.guarding.metrics import Metrics
from trt_var.serving.app.keys import Limit
from trt_var.serving.app.settings import Settings
from trt_var.serving.batching.dispatch import State
from trt_var.serving.batching.tickets import LATE, Served
from trt_var.serving.engine import Ask, Description, Engine


@dataclass
class Service:
    """One app's.

    Attributes:
        started: seconds of the epoch at which it began to serve.
    """

    engine: Engine
    settings: Settings
    metrics: Metrics
    started: int = 0
    description: Description | None = None

    def served(self) -> Description:
        """What is served.

        Raises:
            Refusal: not yet, or no more.
        """
        if self.description is None:
            raise Refusal(503, "not ready yet: models are loaded", code="starting", headers={"Retry-After": "5"})
        return self.description

    def state(self) -> State:
        """Whether it serves."""
        return self.engine.state()

    def limit(self, request: Request) -> Limit | None:
        """Of the key that a request came with."""
        keys, name = self.settings.keys, request.state.key
        return keys.limit(name) if keys and name else None

    def most_images(self, request: Request) -> int:
        """That one request may ask for: what could never be drawn is refused for good, not for now."""
        keys, served = self.settings.keys, self.served()
        return min(self.settings.images, served.waiting, keys.most if keys and keys.most else served.waiting)

    def told(self, served: Served) -> dict[str, Any]:
        """What every answer says of how it was drawn."""
        described = self.served()
        tokens = served.tokens.size
        return {
            "usage": {
                "input_tokens": 0,
                "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
                "output_tokens": tokens,
                "total_tokens": tokens,
            },
            "model": self.settings.model,
            "n_draft": served.n_draft,
            "backend": described.backend,
            "reproducible": described.reproducible,
            "timing": {"queue_s": round(served.queue_seconds, 6), "draw_s": round(served.draw_seconds, 6)},
        }


def answered(request: Request, served: Served) -> None:
    """Note for the log what a request got."""
    batch = served.provenance.batch_size if served.provenance else 0
    request.state.told = {
        "images": len(served.images),
        "n_draft": served.n_draft,
        "queue_s": round(served.queue_seconds, 6),
        "engine_s": round(served.draw_seconds, 6),
        "batch": batch,
    }


def remaining(request: Request, ask: Ask) -> Ask:
    """With the time that is left of it: a request's time counts from when its head was there.

    Raises:
        DeadlineError: none is left, if only since the answer was made ready.
    """
    service: Service = request.app.state.service
    most = service.served().timeout
    timeout = most if ask.timeout is None else min(ask.timeout, most)
    seconds = timeout - (time.monotonic() - request.state.began)
    if seconds <= 0:
        service.metrics.late(1)
        raise DeadlineError(LATE)
    return replace(ask, timeout=seconds)


async def drawn(request: Request, ask: Ask) -> Served:
    """What a request asks for, within the limits of its key.

    Raises:
        TrtVarError: as of ``Engine.generate``; or the key asks for too much.
        Refusal: the client has gone.
    """
    service: Service = request.app.state.service
    ask, limit = remaining(request, ask), service.limit(request)
    with limit.held(len(ask.labels)) if limit else nullcontext():
        served = await _gone(request, service.engine.generate(ask))
    answered(request, served)
    return served


async def _gone(request: Request, work: Coroutine[Any, Any, Served]) -> Served:
    """The result of a work, which ends when the client goes."""
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Refusal(CLIENT_GONE, "the client has gone", code="client_gone")
    finally:
        leaving.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
