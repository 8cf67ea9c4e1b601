"""Requests and answers that take too long or too much: the service stays small, and open for others."""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from talking import (
    EDITS,
    FORM,
    GENERATIONS,
    INFER,
    JSON,
    Answer,
    Served,
    answer,
    ask,
    asking,
    assert_picture,
    assert_right,
    connect,
    ended,
    events,
    exchange,
    form,
    get,
    grown,
    hear,
    joined,
    talk,
    together,
    unharmed,
    until,
)
from talking import request as http
from trt_var import Pipeline
from trt_var.serving.app.app import build
from trt_var.serving.app.settings import Settings
from trt_var.serving.batching import mailbox
from trt_var.serving.batching.settings import Batching
from trt_var.serving.engine import LocalEngine

KIND, BLOCK = f"Content-Type: {JSON}", b" " * 65_536
CHUNK = b"10000\r\n" + BLOCK + b"\r\n"
HASTE = """
from functools import partial
from trt_var.serving.app import settings
settings.Settings = partial(settings.Settings, body_timeout=1.0, write_timeout=1.0, body=16 << 20)
"""
SIZE = 12_000_000  # of an answer, more than the system takes in for a client that does not read


@pytest.fixture(scope="module")
def hasty(there: Callable[..., Any]) -> Served:
    """One that waits for a second, for bodies and for readers; it takes large ones."""
    served: Served = there(code=HASTE).ready()
    return served


def large(url: str, head: bytes, block: bytes, count: int) -> bytes:
    """Send a head and a block so many times, or until nobody listens any more; what was answered."""
    found = b""
    with connect(url) as client:
        with suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(head)
            for _ in range(count):
                client.sendall(block)
        with suppress(ConnectionResetError):
            while b"\r\n\r\n" not in found and (chunk := hear(client)):
                found += chunk
    return found


@pytest.mark.parametrize("path", [GENERATIONS, INFER, EDITS])
@pytest.mark.parametrize("how", ["length", "chunks"])
def test_a_hundred_megabytes(service: Served, digits: Pipeline, path: str, how: str) -> None:
    """Nearly all of them sent in spite of the answer; the largest body that is taken is 16 MiB."""
    said = "Content-Length: 104857600" if how == "length" else "Transfer-Encoding: chunked"
    head = http(path, f"Content-Type: {FORM if path == EDITS else JSON}", said, method="POST", close=False)
    begin = b'--XX\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    head += b"%x\r\n%b\r\n" % (len(begin), begin) if how == "chunks" else begin
    found: list[bytes] = []
    with unharmed(service):
        more = grown(service, lambda: found.append(large(service.url, head, CHUNK if how == "chunks" else BLOCK, 1599)))
        assert answer(found[0]).status in ((413,) if path == EDITS or how == "length" else (413, 400)), found
        assert more < 48 << 20
    assert_right(ask(service.url, {"prompt": 3, "seed": 1}), digits, 3, 1)


@pytest.mark.parametrize(("path", "bound"), [(GENERATIONS, 1 << 20), (INFER, 1 << 20), (EDITS, 16 << 20)])
def test_the_largest_body(service: Served, path: str, bound: int) -> None:
    with unharmed(service):
        kind = f"Content-Type: {FORM if path == EDITS else JSON}"
        assert talk(service.url, http(path, kind, body=b" " * bound)).status == 400
        assert talk(service.url, http(path, kind, body=b" " * (bound + 1))).status == 413
        assert talk(service.url, http(path, kind, f"Content-Length: {bound + 1}", method="POST")).status == 413


def test_bodies_that_stop(hasty: Served) -> None:
    """At once: before their first byte, and behind it."""
    places = [(path, sent) for path in (GENERATIONS, INFER, EDITS) for sent in (0, 5)]

    def stop(place: int) -> Answer:
        path, sent = places[place]
        kind = f"Content-Type: {FORM if path == EDITS else JSON}"
        return talk(hasty.url, http(path, kind, "Content-Length: 100", method="POST") + b"--XX\r\n"[:sent])

    with unharmed(hasty):
        threads, found = together(len(places), stop)
        joined(threads)
        for place, (path, _) in enumerate(places):
            assert found[place].status == 408, found[place]
            assert path == INFER or found[place].code == "request_timeout"


def test_a_body_that_trickles(hasty: Served) -> None:
    """Every byte comes in time; the whole does not."""
    with connect(hasty.url) as client, suppress(BrokenPipeError, ConnectionResetError):
        client.sendall(http(GENERATIONS, KIND, "Content-Length: 1000", method="POST"))
        client.settimeout(0.1)
        found = b""
        for _ in range(200):
            client.sendall(b" ")
            with suppress(TimeoutError):
                found += client.recv(65_536)
            if found:
                break
    assert answer(found).status == 408


@pytest.mark.parametrize("data", [b"", b"GET /healthz HTTP/1.1\r\nHost: local"], ids=["nothing", "half"])
def test_a_head_that_stops(hasty: Served, data: bytes) -> None:
    with connect(hasty.url) as client:
        client.sendall(data)
        client.settimeout(4)
        assert client.recv(1) in (b"", b"H")


def test_a_second_head_that_stops(hasty: Served) -> None:
    with connect(hasty.url) as client:
        client.sendall(http("/healthz", close=False))
        while b'"ok"' not in hear(client):
            pass
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: local")
        client.settimeout(4)
        assert client.recv(1) in (b"", b"H")


def test_a_body_that_trickles_after_it_was_refused(hasty: Served) -> None:
    with connect(hasty.url) as client:
        client.sendall(http(GENERATIONS, KIND, "Content-Length: 1000000000", method="POST", close=False))
        assert answer(hear(client)).status == 413
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for _ in range(70):  # longer than idle connections are kept, and than a body may take
                client.sendall(b" ")
                time.sleep(0.1)


@pytest.mark.parametrize("headers", [[f"X: {'y' * 70_000}"], [f"X{i}: y" for i in range(10_000)]], ids=["one", "many"])
def test_headers_of_more_than_64_kilobytes(service: Served, headers: list[str]) -> None:
    assert get(service.url, "/healthz", *headers).status in (400, 431)


@pytest.mark.parametrize("block", [b"y" * 65_536, b"X: yyyyyyyy\r\n" * 5000], ids=["one", "many"])
def test_headers_of_twenty_megabytes(service: Served, block: bytes) -> None:
    head = http("/healthz", "X: ", close=False).removesuffix(b"\r\n\r\n")
    assert grown(service, lambda: exchange(service.url, head, *[block] * 320, shut=True)) < 8 << 20


def test_requests_of_two_megabytes_before_an_answer_is_read(hasty: Served) -> None:
    def flood() -> None:
        with connect(hasty.url) as client:
            client.sendall(asking({"prompt": 3, "n": 10}, close=False))
            client.sendall(http("/v1/models", close=False) * 50_000)
            time.sleep(2)

    assert grown(hasty, flood) < 32 << 20


def test_a_thousand_idle_connections(service: Served, digits: Pipeline) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2000:
        pytest.skip("this system allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    with ExitStack() as stack, unharmed(service):
        for place in range(1000):
            client = stack.enter_context(connect(service.url))
            client.sendall((b"", b"G", b"GET /healthz HTTP/1.1\r\nHost: ")[place % 3])
        for seed in range(3):
            assert_right(ask(service.url, {"prompt": 3, "seed": seed}), digits, 3, seed)
            assert get(service.url, "/healthz").status == 200
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def unread(url: str) -> socket.socket:
    """A client with room for little that reads nothing of an answer that says again what it was sent."""
    given = {"inputs": [{"name": "label", "shape": [1], "datatype": "INT64", "data": [3]}], "id": "x" * SIZE}
    client = connect(url, room=4096)
    client.sendall(asking(given, path=INFER, close=False))
    return client


def test_others_than_a_client_that_does_not_read(hasty: Served, digits: Pipeline) -> None:
    with unharmed(hasty), ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(unread(hasty.url))
        for seed in range(3):
            assert_right(ask(hasty.url, {"prompt": 3, "seed": seed}), digits, 3, seed)


def test_a_client_that_does_not_read_is_given_up(hasty: Served) -> None:
    found = 0
    with unread(hasty.url) as client, suppress(ConnectionResetError):
        time.sleep(3)  # a second is allowed
        while found < SIZE and (chunk := hear(client)):
            found += len(chunk)
    assert found < SIZE


def test_a_client_that_does_not_read_does_not_hold_up_the_end(there: Callable[..., Any]) -> None:
    served = there(code=HASTE).ready()
    with unread(served.url):
        assert talk(served.url, asking({"prompt": 3})).status == 200, "the other is answered by now"
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(6) == 0


def test_a_second_signal_in_spite_of_a_client_that_does_not_read(there: Callable[..., Any]) -> None:
    served = there(code=HASTE.replace("write_timeout=1.0", "write_timeout=60.0")).ready()
    with unread(served.url):
        assert talk(served.url, asking({"prompt": 3})).status == 200, "the other is answered by now"
        served.process.send_signal(signal.SIGTERM)
        until(lambda: "SIGTERM" in served.log.read_text(), "the first is heard")
        served.process.send_signal(signal.SIGTERM)
        assert ended(served.process) == 0
    assert "Traceback" not in served.log.read_text()


async def read_late(app: Any, given: dict[str, Any], others: int) -> tuple[bytes, list[int]]:
    """A stream whose client reads nothing until others, who came later, have been served; its body, their statuses."""
    body, released, gone = asking(given).partition(b"\r\n\r\n")[2], asyncio.Event(), asyncio.Event()
    headers = [(b"host", b"localhost"), (b"content-type", JSON.encode())]
    scope = {"type": "http", "method": "POST", "path": GENERATIONS, "headers": headers, "query_string": b"", "root_path": ""}
    scope |= {"raw_path": GENERATIONS.encode(), "scheme": "http", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80)}

    async def call(body: bytes, read: Callable[[dict[str, Any]], Any]) -> None:
        parts = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if not parts:
                await gone.wait()
                return {"type": "http.disconnect"}
            return parts.pop()

        await app({**scope, "state": {}}, receive, read)

    found: list[bytes] = []
    statuses: list[int] = []

    async def late(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            await released.wait()
            found.append(message["body"])

    async def at_once(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    slow = asyncio.ensure_future(call(body, late))
    for seed in range(others):
        await call(asking({"prompt": 1, "seed": seed}).partition(b"\r\n\r\n")[2], at_once)
    released.set()
    await slow
    return b"".join(found), statuses


@pytest.mark.parametrize(("room", "shown"), [(None, [0, 1, 2, 3, 4]), (0, [0, 3, 4])], ids=["small", "large"])
def test_a_slow_reader_of_a_stream(
    digits: Pipeline, monkeypatch: pytest.MonkeyPatch, room: int | None, shown: list[int]
) -> None:
    """Small previews wait for it; of large ones the last two, and the one that it has not read yet."""
    if room is not None:
        monkeypatch.setattr(mailbox, "HELD", room)

    async def run() -> tuple[bytes, list[int]]:
        app = build(LocalEngine(digits, Batching(batch=8)), Settings(model="digits"))
        async with app.router.lifespan_context(app):
            return await read_late(app, {"prompt": 3, "seed": 7, "stream": True, "partial_images": 5}, 3)

    body, statuses = asyncio.run(run())
    assert statuses == [200] * 3
    *previews, (name, told) = events(body)
    assert [one["scale"] for _, one in previews] == shown
    assert [one["partial_image_index"] for _, one in previews] == list(range(len(shown)))
    assert name == "image_generation.completed" and told["seed"] == 7
    assert_picture(told, digits, told["n_draft"])


def test_a_stream_of_an_edit_that_cannot_be(service: Served) -> None:
    body = form(("image", b"hello", "a"), ("mask", b"hello", "b"), ("prompt", "3", None), ("stream", "true", None))
    assert talk(service.url, http(EDITS, f"Content-Type: {FORM}", body=body)).status == 400
