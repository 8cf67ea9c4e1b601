"""An image as a stream of server-sent events: what is known after some scales, then the whole."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import ExitStack
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from trt_var.errors import TrtVarError
from trt_var.requests.results import Preview
from trt_var.serving.app.faults import refusal
from trt_var.serving.app.protocols import asking
from trt_var.serving.app.protocols.pictures import encoded
from trt_var.serving.app.protocols.wanted import Wanted
from trt_var.serving.app.service import Service, answered, remaining
from trt_var.serving.batching.tickets import Served

Event = Preview | Served
BEAT = b": waiting\n\n"


class Stream:
    """One request's events. Begun, it has its place in the queue."""

    def __init__(self, request: Request, wanted: Wanted) -> None:
        self._service: Service = request.app.state.service
        self._request, self._wanted = request, wanted
        self._held = ExitStack()
        if (limit := self._service.limit(request)) is not None:
            self._held.enter_context(limit.held(1))
        self._source: AsyncGenerator[Event, None] | None = None
        self._next: asyncio.Task[Event] | None = None
        self._shown = 0

    async def begin(self) -> None:
        """Take a place in the queue.

        Raises:
            TrtVarError: refused.
        """
        try:
            self._source = await self._service.engine.stream(remaining(self._request, self._wanted.ask))
        except BaseException:
            self._held.close()
            raise

    async def events(self) -> AsyncIterator[bytes]:
        """The bytes of each, with signs of life while nothing happens."""
        try:
            while True:
                task = self._next or asyncio.ensure_future(anext(self._source))  # type: ignore[arg-type]
                self._next = task
                done, _ = await asyncio.wait({task}, timeout=self._service.settings.heartbeat)
                if not done:
                    yield BEAT
                    continue
                self._next = None
                event = task.result()
                yield await self._bytes(event)
                if isinstance(event, Served):
                    return
        except TrtVarError as error:
            yield _event("error", {"error": refusal(error).body})
        finally:
            await self.end()

    async def end(self) -> None:
        """Let go of what it holds, if it still does."""
        if self._next is not None:
            self._next.cancel()
            await asyncio.wait({self._next})
        self._held.close()
        if self._source is not None:
            await self._source.aclose()

    async def _bytes(self, event: Event) -> bytes:
        wanted, served = self._wanted, self._service.served()
        file = (await encoded([event.images[0]], wanted.form, wanted.quality))[0]
        label = int(event.labels[0])
        shared = {
            "b64_json": file,
            "created_at": wanted.created,
            "size": served.size,
            "quality": "auto",
            "background": "opaque",
            "output_format": wanted.form,
            "seed": int(event.seeds[0]),
            "label": label,
        }
        if isinstance(event, Served):
            answered(self._request, event)
            told = {"revised_prompt": asking.title(label, served), **self._end_of(event), **self._service.told(event)}
            return _event(f"{wanted.kind}.completed", {**shared, **told})
        if not self._shown:
            self._service.metrics.first.observe(time.monotonic() - self._request.state.began)
        made = event.provenance
        place = {"partial_image_index": self._shown, "scale": event.scale, "scales": event.scales, "role": event.role}
        self._shown += 1
        return _event(f"{wanted.kind}.partial_image", {**shared, **place, "n_draft": made.n_draft if made else None})

    def _end_of(self, served: Served) -> dict[str, Any]:
        """The place of the last scale, as previews have theirs."""
        drawn = served.provenance.sampling.scales if served.provenance else None
        scales = drawn or len(self._service.served().schedule)
        return {"scale": scales - 1, "scales": scales, "role": "drafter" if served.n_draft >= scales else "refiner"}


class Events(StreamingResponse):
    """A stream as an answer; one that nobody begins to read lets go of what it holds, too."""

    def __init__(self, stream: Stream, headers: Mapping[str, str]) -> None:
        super().__init__(stream.events(), media_type="text/event-stream", headers=headers)
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._stream.end()


def _event(name: str, data: dict[str, Any]) -> bytes:
    body = data if name == "error" else {"type": name, **data}
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(body) + b"\n\n"
