"""Engines that fail: over one image, over too much memory, for good; and clocks that jump."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from talking import (
    Answer,
    ask,
    asking,
    assert_picture,
    assert_right,
    ended,
    events,
    exchange,
    get,
    idle,
    joined,
    metrics,
    talk,
    together,
    under_way,
    until,
)
from trt_var import Pipeline
from trt_var.errors import BackendError
from trt_var.serving.batching.dispatch import Dispatch
from trt_var.serving.batching.planning import Batch, Planner
from trt_var.serving.batching.policy import Policy
from trt_var.serving.batching.settings import Batching
from trt_var.serving.batching.tickets import Ticket
from trt_var.serving.batching.times import Times
from trt_var.serving.batching.watching import Watcher

POISON = 666
FAULTY = """
from trt_var.errors import BackendError
from trt_var.serving.batching import worker
def faulty(*given):
    raise %s
worker.draw_rows = faulty
"""


@pytest.fixture(scope="module")
def url(here: Callable[..., Any]) -> str:
    return str(here().url)


@pytest.fixture
def poisoned(gate: Any) -> Any:
    """A gate behind which batches fail that hold a certain seed."""
    drawn = gate.draw

    def draw(pipeline: Any, rows: Any, *other: Any) -> Any:
        if any(seed == POISON for row in rows for seed in row.run.seeds):
            raise BackendError("poisoned")
        return drawn(pipeline, rows, *other)

    gate.draw = draw
    return gate


def drawn_together(url: str, gate: Any, given: list[dict[str, Any]]) -> list[Answer]:
    """Answers to requests that share a batch."""
    gate.close()
    before, _ = together(1, lambda _: ask(url, {"prompt": 0, "seed": 0}))
    until(lambda: metrics(url)["trt_var_running_images"] == 1, "a batch is begun")
    threads, found = together(len(given), lambda i: ask(url, given[i]))
    images = sum(one.get("n", 1) for one in given)
    until(lambda: metrics(url)["trt_var_queue_images"] == images, "all are queued")
    gate.open()
    joined([*before, *threads])
    until(lambda: idle(url), "nothing is waited for")
    return [found[i] for i in range(len(given))]


def assert_failed(found: Answer, message: str) -> None:
    assert found.status == 503 and found.code == "engine_failed" and message in found.json["error"]["message"], found
    assert int(found.headers["retry-after"]) > 0


def test_a_poisoned_image_fails_alone(url: str, poisoned: Any, digits: Pipeline) -> None:
    errors = metrics(url)["trt_var_engine_errors_total"]
    seeds = [1, 2, 3, POISON, 5, 6, 7, 8]
    found = drawn_together(url, poisoned, [{"prompt": i, "seed": seed} for i, seed in enumerate(seeds)])
    for i, seed in enumerate(seeds):
        if seed == POISON:
            assert_failed(found[i], "poisoned")
        else:
            assert_right(found[i], digits, i, seed)
    assert metrics(url)["trt_var_engine_errors_total"] == errors + 1
    assert get(url, "/readyz").status == 200


def test_a_request_with_a_poisoned_image_fails_whole(url: str, poisoned: Any, digits: Pipeline) -> None:
    """Its other images are not drawn twice, those of others are right."""
    given = [{"prompt": 1, "seed": POISON - 2, "n": 4}, {"prompt": 2, "seed": 10, "n": 3}, {"prompt": 3, "seed": 20}]
    found = drawn_together(url, poisoned, given)
    assert_failed(found[0], "poisoned")
    assert_right(found[1], digits, 2, 10, 3)
    assert_right(found[2], digits, 3, 20)


def test_a_poisoned_stream_says_so(url: str, poisoned: Any, digits: Pipeline) -> None:
    """What comes before its first event is an answer of its own; behind it, an event."""
    stream = {"stream": True, "partial_images": 5}
    given = [{"prompt": 1, "seed": POISON, **stream}, {"prompt": 2, "seed": 1, **stream}, {"prompt": 3, "seed": 2}]
    found = drawn_together(url, poisoned, given)
    assert found[0].status == 200
    [(name, told)] = events(found[0].body)
    assert name == "error" and told["error"]["code"] == "engine_failed"
    name, told = events(found[1].body)[-1]
    assert name == "image_generation.completed"
    assert_picture(told, digits, told["n_draft"])
    assert_right(found[2], digits, 3, 2)


def test_many_poisoned_images_one_after_the_other(url: str, poisoned: Any, digits: Pipeline) -> None:
    """Two in a row, then one that is sound, again and again: the engine is not what is broken."""
    for seed in range(3):
        for _ in range(2):
            assert_failed(ask(url, {"prompt": 1, "seed": POISON}), "poisoned")
        assert_right(ask(url, {"prompt": 1, "seed": seed}), digits, 1, seed)


def test_too_little_memory(here: Callable[..., Any], gate: Any, digits: Pipeline) -> None:
    """Batches are halved until they fit; every picture is the right one."""
    url, drawn, sizes = here(Batching(batch=8)).url, gate.draw, []

    def draw(pipeline: Any, rows: Any, *other: Any) -> Any:
        sizes.append(len(rows))
        if len(rows) > 2:
            raise MemoryError
        return drawn(pipeline, rows, *other)

    gate.draw = draw
    for batch in (8, 4, 2):
        sizes.clear()
        found = drawn_together(url, gate, [{"prompt": i, "seed": i} for i in range(8)])
        for i in range(8):
            assert_right(found[i], digits, i, i)
        assert max(sizes) == batch
    assert sizes == [1, 2, 2, 2, 2]
    assert metrics(url)["trt_var_engine_errors_total"] == 2  # of eight, and of four
    assert get(url, "/readyz").status == 200


@pytest.fixture(scope="module")
def broken(there: Callable[..., Any]) -> Any:
    """A service all of whose batches have failed, and that has ended."""
    served = there(code=FAULTY % 'BackendError("broken")').ready()
    for _ in range(3):
        assert_failed(ask(served.url, {"prompt": 3}), "broken")
    assert get(served.url, "/readyz").status == 503 and get(served.url, "/readyz").json == {"status": "failed"}
    assert get(served.url, "/healthz").status == get(served.url, "/v2/health/live").status == 503
    assert_failed(ask(served.url, {"prompt": 3}), "3 times")
    ended(served.process)
    return served


def test_an_engine_that_always_fails(broken: Any) -> None:
    assert broken.process.returncode == 1
    last = broken.log.read_text().splitlines()[-1]
    told = "trt-var serve: the service ended: the engine failed 3 times one after the other, last: broken"
    assert last == told


def test_a_failed_engine_ends_without_a_traceback(broken: Any) -> None:
    assert "Traceback" not in broken.log.read_text()


@pytest.mark.parametrize("failure", ["SystemExit(0)", "ValueError('x')"])
def test_an_engine_s_thread_that_ends(there: Callable[..., Any], held: Any, failure: str) -> None:
    """Those who wait are told, those who come are, and so is the supervisor."""
    served = there(code=FAULTY.replace("    raise", held.wait + "    raise") % failure, **held.env).ready()
    held.close()
    threads, found = together(12, lambda i: ask(served.url, {"prompt": 3, "n": 2}))
    until(lambda: under_way(served.url) == 24, "all are there")
    held.open()
    joined(threads)
    for one in found.values():
        assert_failed(one, f"the engine's thread ended: {failure.split('(')[0]}")
    assert get(served.url, "/readyz").json == {"status": "failed"}
    assert ended(served.process) == 1


@pytest.mark.parametrize("step", [86_400.0, -86_400.0, -1e9])
def test_the_clock_jumps(url: str, gate: Any, digits: Pipeline, monkeypatch: pytest.MonkeyPatch, step: float) -> None:
    """Forwards, backwards, and before the epoch, while requests wait and are drawn: deadlines are on another clock."""
    really = time.time
    gate.close()
    threads, found = together(12, lambda i: ask(url, {"prompt": i % 10, "seed": i}, "X-Request-Timeout: 50"))
    until(lambda: under_way(url) == 12, "all are there")
    monkeypatch.setattr(time, "time", lambda: really() + step)
    gate.open()
    joined(threads)
    for i in range(12):
        assert_right(found[i], digits, i % 10, i)
    assert_right(ask(url, {"prompt": 3, "seed": 1}), digits, 3, 1)
    stream = talk(url, asking({"prompt": 3, "seed": 1, "stream": True, "partial_images": 2}))
    assert events(stream.body)[-1][0] == "image_generation.completed"
    assert get(url, "/readyz").status == 200
    assert exchange(url, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").startswith(
        b"HTTP/1.1 200"
    )


def test_a_lone_image_that_is_left_when_another_has_gone(digits: Pipeline) -> None:
    """The pipeline for lone images looked while there were two; the others look when there is one, which is not for them."""
    planner = Planner(digits.manifest, Policy((4,), 1.0), Times(), 8, 256, 2)
    dispatch = Dispatch(planner, Watcher(), 3, has_lone=True)
    taken: list[Batch | None] = []
    lone = threading.Thread(target=lambda: taken.append(dispatch.take(lone=True)), daemon=True)
    tickets = []
    for seed in range(2):
        run = digits.prepare(3, seeds=seed, n_draft=4, sampling="default", batch_size=1)
        tickets.append(Ticket(run, (4,), math.inf))
        dispatch.admit(tickets[-1])
    lone.start()
    time.sleep(0.1)
    tickets[1].future.cancel()
    threading.Thread(target=lambda: taken.append(dispatch.take()), daemon=True).start()
    until(lambda: bool(taken), "the image is taken", 2)
