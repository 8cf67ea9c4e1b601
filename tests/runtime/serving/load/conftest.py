"""A service in this process that answers as the real one does, or as badly as a test asks for."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from trt_var.pictures.encoding import to_png
from trt_var.serving.load import rubbish

GREY = to_png(np.full((32, 32, 3), 128, np.uint8))
MODEL = {
    "id": "digits",
    "object": "model",
    "created": 1,
    "owned_by": "trt-var",
    "backend": "ONNX Runtime 1.32.0, CPU, float32 arithmetic",
    "n_draft": {"default": 4, "serves": [0, 1, 2, 3, 4, 5, 6], "floor": 2, "ceiling": 4, "auto": False},
    "scales": 6,
    "schedule": [1, 2, 3, 4, 6, 8],
    "classes": 10,
    "max_images": 10,
    "seconds": {"4": 0.02},
    "reproducible": "tokens",
    "exact": True,
}
Refuse = Callable[[int], web.Response | None]


class Fake:
    """What it answers with, to be changed by tests, and what it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.model: dict[str, Any] = MODEL
        self.key: str | None = None
        self.delay = 0.0
        self.to_rubbish = 400
        self.refuse: Refuse = lambda number: None
        self.draw: Callable[[dict[str, Any], int], bytes] = lambda asked, seed: GREY
        self.change: Callable[[dict[str, Any]], Any] = lambda answer: answer
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.gone = 0

    async def models(self, request: web.Request) -> web.Response:
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": {"code": "invalid_api_key"}}, status=401)
        return web.json_response({"object": "list", "data": [self.model]})

    async def generations(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if body in rubbish.KINDS.values():
            return web.json_response({"error": {"message": "no", "code": None}}, status=self.to_rubbish)
        asked = json.loads(body)
        self.bodies.append(asked)
        self.headers.append(dict(request.headers))
        if (refused := self.refuse(len(self.bodies))) is not None:
            return refused
        try:
            if asked.get("stream"):
                return await self._stream(request, asked)
            await asyncio.sleep(self.delay)
        except asyncio.CancelledError:
            self.gone += 1
            raise
        label, n_draft = int(asked["prompt"]), self._n_draft(asked)
        data = [
            {"b64_json": self._picture(asked, seed), "revised_prompt": "", "seed": seed, "label": label}
            for seed in range(asked["seed"], asked["seed"] + asked["n"])
        ]
        timing = {"queue_s": self.delay / 2, "draw_s": self.delay / 2}
        answer = {"created": 1, "data": data, "n_draft": n_draft, "reproducible": "tokens", "timing": timing}
        return web.json_response(self.change(answer))

    async def _stream(self, request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        fields = {"b64_json": self._picture(asked, asked["seed"]), "seed": asked["seed"], "label": int(asked["prompt"])}
        fields["n_draft"] = self._n_draft(asked)
        await response.write(b": waiting\n\n")
        for i in range(asked["partial_images"]):
            event = {"type": "image_generation.partial_image", "partial_image_index": i, **fields}
            await response.write(b"event: image_generation.partial_image\ndata: " + json.dumps(event).encode() + b"\n\n")
            await asyncio.sleep(self.delay)
        timing = {"queue_s": 0.001, "draw_s": self.delay}
        event = self.change({"type": "image_generation.completed", **fields, "timing": timing, "reproducible": "tokens"})
        name = "error" if "error" in event else "image_generation.completed"
        await response.write(f"event: {name}\ndata: {json.dumps(event)}\n\n".encode())
        return response

    def _n_draft(self, asked: dict[str, Any]) -> int:
        wanted = asked.get("n_draft", 4)
        return int(wanted["max"] if isinstance(wanted, dict) else 4 if wanted == "auto" else wanted)

    def _picture(self, asked: dict[str, Any], seed: int) -> str:
        return base64.b64encode(self.draw(asked, seed)).decode()


@pytest.fixture
def fake() -> Iterator[Fake]:
    found, ready, stop = Fake(), threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        app = web.Application()
        app.router.add_get("/v1/models", found.models)
        app.router.add_post("/v1/images/generations", found.generations)
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    ready.wait(10)
    yield found
    loops[0].call_soon_threadsafe(stop.set)
    thread.join(10)


@pytest.fixture
def raw() -> Iterator[Callable[[Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]], str]]:
    """Listens and does with a connection what it is told; returns the address."""
    ends: list[Callable[[], None]] = []

    def listen(handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> str:
        ready, urls, loops, stop = threading.Event(), [], [], asyncio.Event()

        async def serve() -> None:
            server = await asyncio.start_server(handle, "127.0.0.1", 0)
            urls.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            loops.append(asyncio.get_running_loop())
            ready.set()
            await stop.wait()
            server.close()

        thread = threading.Thread(target=asyncio.run, args=(serve(),))
        thread.start()
        ready.wait(10)

        def end() -> None:
            loops[0].call_soon_threadsafe(stop.set)
            thread.join(10)

        ends.append(end)
        return urls[0]

    yield listen
    for end in ends:
        end()
