"""Clients that go, at every stage: nothing is drawn for nobody, nothing is lost for others."""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import pytest

from talking import (
    FORM,
    GENERATIONS,
    INFER,
    ask,
    asking,
    assert_right,
    connect,
    get,
    hear,
    idle,
    joined,
    metrics,
    together,
    until,
)
from talking import request as http
from trt_var import Pipeline

QUEUED, RUNNING = 'trt_var_cancelled_total{stage="queued"}', 'trt_var_cancelled_total{stage="running"}'
DRAWN = 'trt_var_images_total{n_draft="4"}'
STREAM = {"stream": True, "partial_images": 5}
ENDS = pytest.mark.parametrize("at_once", [False, True], ids=["closed", "reset"])


def leave(client: socket.socket, at_once: bool) -> None:
    """Close a connection, or tear it down."""
    if at_once:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def sent(url: str, data: bytes) -> socket.socket:
    client = connect(url)
    client.sendall(data)
    return client


def heard(client: socket.socket, what: bytes) -> None:
    """Read until it has come."""
    found = b""
    while what not in found:
        chunk = hear(client)
        assert chunk, found
        found += chunk


@pytest.fixture(scope="module")
def url(here: Callable[..., Any]) -> str:
    return str(here().url)


class Counted:
    """What the metrics counted since."""

    def __init__(self, url: str) -> None:
        self._url, self._before = url, metrics(url)

    def __call__(self, name: str) -> float:
        return metrics(self._url).get(name, 0.0) - self._before.get(name, 0.0)

    def status(self, status: int) -> float:
        """How many requests were answered so."""
        return sum(map(self, (name for name in metrics(self._url) if "requests_total" in name and f'"{status}"' in name)))

    def settled(self) -> None:
        until(lambda: idle(self._url), "nothing is waited for")
        assert get(self._url, "/readyz").json == {"status": "ready"}
        assert self.status(500) == 0


@pytest.fixture
def counted(url: str) -> Counted:
    return Counted(url)


@ENDS
@pytest.mark.parametrize("given", [{}, {"n": 10}, STREAM], ids=["one", "ten", "stream"])
def test_while_queued(url: str, counted: Counted, gate: Any, digits: Pipeline, given: dict[str, Any], at_once: bool) -> None:
    """Six go while others are drawn; two stay."""
    gate.close()
    threads, found = together(1, lambda _: ask(url, {"prompt": 1, "seed": 10, "n": 8}))
    until(lambda: counted("trt_var_running_images") == 8, "a batch is begun")
    leaving = [sent(url, asking({"prompt": 2, **given})) for _ in range(6)]
    staying, kept = together(2, lambda i: ask(url, {"prompt": 3, "seed": 20 + i}))
    images = 6 * given.get("n", 1)
    until(lambda: counted("trt_var_queue_images") == images + 2, "all are queued")
    for client in leaving:
        leave(client, at_once)
    until(lambda: counted("trt_var_queue_images") == 2, "those who went are out of the queue")
    assert counted(QUEUED) == images
    gate.open()
    joined([*threads, *staying])
    assert_right(found[0], digits, 1, 10, 8)
    for i in range(2):
        assert_right(kept[i], digits, 3, 20 + i)
    counted.settled()
    assert counted(DRAWN) == 10, "nothing was drawn for those who went"


@ENDS
@pytest.mark.parametrize("given", [{}, {"n": 8}, STREAM], ids=["one", "eight", "stream"])
def test_while_drawn(url: str, counted: Counted, gate: Any, digits: Pipeline, given: dict[str, Any], at_once: bool) -> None:
    """Nobody waits for the batch any more: it ends before its next scale."""
    gate.close(scale=2)
    client = sent(url, asking({"prompt": 2, **given}))
    until(lambda: counted('trt_var_scale_duration_seconds_count{scale="1"}') == 1, "two scales are drawn")
    if given is STREAM:
        heard(client, b"image_generation.partial_image")
    leave(client, at_once)
    until(lambda: not gate.wanted(), "the service knows")
    gate.open()
    until(lambda: counted(RUNNING) == given.get("n", 1), "the batch ends early")
    assert counted('trt_var_scale_duration_seconds_count{scale="5"}') == 0
    counted.settled()
    assert_right(ask(url, {"prompt": 3, "seed": 20}), digits, 3, 20)


def test_while_drawn_with_others(url: str, counted: Counted, gate: Any, digits: Pipeline) -> None:
    gate.close()
    first, found = together(1, lambda _: ask(url, {"prompt": 1, "seed": 10}))
    until(lambda: counted("trt_var_running_images") == 1, "a batch is begun")
    client = sent(url, asking({"prompt": 2, "seed": 1}))
    threads, kept = together(3, lambda i: ask(url, {"prompt": 3, "seed": 20 + i}))
    until(lambda: counted("trt_var_queue_images") == 4, "all are queued")
    gate.close(scale=2)
    until(lambda: counted("trt_var_running_images") == 4, "they are drawn together")
    leave(client, False)
    until(lambda: counted.status(499) == 1, "the service knows")
    gate.open()
    joined([*first, *threads])
    assert_right(found[0], digits, 1, 10)
    for i in range(3):
        assert_right(kept[i], digits, 3, 20 + i)
    counted.settled()
    assert counted(RUNNING) == 1


@ENDS
@pytest.mark.parametrize("place", ["generations", "infer"])
def test_before_the_body_ends(
    url: str, counted: Counted, caplog: pytest.LogCaptureFixture, place: str, at_once: bool
) -> None:
    path = GENERATIONS if place == "generations" else INFER
    leave(sent(url, asking({"prompt": 3}, path=path)[:-5]), at_once)
    until(lambda: bool(counted.status(499) + counted.status(500)), "the service knows")
    counted.settled()
    assert not [record for record in caplog.records if record.exc_info]


@ENDS
def test_before_a_form_ends(url: str, counted: Counted, at_once: bool) -> None:
    form = http("/v1/images/edits", f"Content-Type: {FORM}", body=b"--XX\r\n" + b"x" * 100_000)
    leave(sent(url, form[:5000]), at_once)
    until(lambda: bool(counted.status(400) + counted.status(499)), "the service knows")
    counted.settled()


@ENDS
@pytest.mark.parametrize(
    "data", [b"", b"G", b"GET /v1/models HT", http("/v1/models")[:-2]], ids=["none", "G", "GET", "head"]
)
def test_before_the_head_ends(url: str, counted: Counted, data: bytes, at_once: bool) -> None:
    for _ in range(20):
        leave(sent(url, data), at_once)
    counted.settled()


@ENDS
def test_after_the_answer(url: str, counted: Counted, digits: Pipeline, at_once: bool) -> None:
    """Whether it was read or not."""
    for seed in range(3):
        client = sent(url, asking({"prompt": 3, "seed": seed}, close=False))
        until(lambda count=seed + 1: counted(DRAWN) == count, "the picture is drawn")  # type: ignore[misc]
        if seed:
            heard(client, b"200 OK")
        leave(client, at_once)
    counted.settled()
    assert counted(QUEUED) == counted(RUNNING) == 0
    assert_right(ask(url, {"prompt": 3, "seed": 20}), digits, 3, 20)


def test_at_any_time(url: str, counted: Counted, digits: Pipeline) -> None:
    """A hundred and twenty go at random moments, plain and as streams; twelve stay."""
    chance = random.Random(0)
    moments = [chance.expovariate(50) for _ in range(120)]

    def go(place: int) -> None:
        given = {"prompt": 2, **chance.choice([{}, {"n": 3}, STREAM, {"n_draft": 0}])}
        client = sent(url, asking(given))
        time.sleep(moments[place])
        leave(client, place % 2 == 0)

    leaving, _ = together(120, go)
    staying, kept = together(12, lambda i: ask(url, {"prompt": 3, "seed": i}))
    joined([*leaving, *staying])
    for i in range(12):
        assert_right(kept[i], digits, 3, i)
    counted.settled()
