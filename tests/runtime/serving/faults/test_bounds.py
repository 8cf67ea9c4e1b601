"""What is bounded together, or at the last moment: bodies of all requests, answers that come too late, streams unread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from talking import GENERATIONS, INFER, ask, asking, assert_right, connect, get, metrics, talk, until
from talking import request as http
from trt_var import Pipeline
from trt_var.serving.app.protocols import images
from trt_var.serving.app.protocols.events import Events, Stream
from trt_var.serving.batching.settings import Batching

KIND = "Content-Type: application/json"


def test_bodies_that_are_under_way_together(here: Callable[..., Any], digits: Pipeline) -> None:
    service = here(bodies=100_000)
    half = http(GENERATIONS, KIND, "Content-Length: 60000", method="POST") + b" " * 50_000
    with connect(service.url) as first, connect(service.url) as second:
        first.sendall(half)
        until(lambda: get(service.url, "/healthz").status == 200, "it is there")
        second.sendall(half)
        until(lambda: get(service.url, "/healthz").status == 200, "so is the other")
        found = ask(service.url, {"prompt": 3, "seed": 1})
        assert (found.status, found.code, found.headers["retry-after"]) == (503, "overloaded", "1")
        assert get(service.url, "/v1/models").status == 200, "what has no body is answered"
    until(lambda: ask(service.url, {"prompt": 3, "seed": 1}).status == 200, "they have gone, and there is room again")
    assert_right(ask(service.url, {"prompt": 3, "seed": 1}), digits, 3, 1)


@pytest.mark.parametrize("path", [GENERATIONS, INFER])
def test_an_answer_that_is_ready_too_late_is_none(
    here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Drawn in time, but not made ready in time."""
    service = here(Batching(batch=8))
    infer = {"inputs": [{"name": "label", "shape": [1], "datatype": "INT64", "data": [3]}]}
    given = {"prompt": 3, "seed": 1} if path == GENERATIONS else infer
    limit = "X-Request-Timeout: 2"
    assert talk(service.url, asking(given, limit, path=path)).status == 200
    late = metrics(service.url)["trt_var_deadline_total"]
    if path == GENERATIONS:
        encoded = images.encoded

        async def slowly(*of: Any) -> list[str]:
            await asyncio.sleep(2)
            return await encoded(*of)

        monkeypatch.setattr(images, "encoded", slowly)
    else:
        generate = service.engine.generate

        async def after(asked: Any) -> Any:
            found = await generate(asked)
            await asyncio.sleep(2)
            return found

        monkeypatch.setattr(service.engine, "generate", after)
    assert talk(service.url, asking(given, limit, path=path)).status == 504
    assert metrics(service.url)["trt_var_deadline_total"] == late + 1


def test_a_stream_whose_client_goes_before_its_first_event() -> None:
    """Cancelled before its first step, as by a client that has gone already."""
    closed: list[str] = []

    class Begun(Stream):
        def __init__(self) -> None:
            pass

        async def events(self) -> Any:
            yield b"never"

        async def end(self) -> None:
            closed.append("end")

    async def gone() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise OSError("nobody there")

    async def answer() -> None:
        scope = {"type": "http", "asgi": {"spec_version": "2.3"}}
        await Events(Begun(), headers={})(scope, gone, send)

    with pytest.raises(BaseException, match="nobody there|unhandled"):
        asyncio.run(answer())
    assert closed == ["end"]
