"""The open loop against a service in this process."""

from __future__ import annotations

import asyncio
import importlib.util
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from trt_var.serving.load import counting, run
from trt_var.serving.load.mix import Mix
from trt_var.serving.load.plan import Arrivals, Plan, plans
from trt_var.serving.load.rows import Row
from trt_var.serving.load.run import Going, Run
from trt_var.serving.load.service import Model, Target


def offered(fake: Any, mix: Mix, count: int = 100, rate: float = 500.0, going: Going = Going(), **target: Any) -> Run:  # noqa: B008
    where = Target(fake.url, **target)
    (found,) = run.go(where, plans(Arrivals((rate,), None, count), mix, run.ask(where)), going)
    return found


def row(fake: Any, mix: Mix, objective: float | None = None, **how: Any) -> Row:
    return counting.row(offered(fake, mix, **how), objective)


def test_nothing_waits_for_answers(fake: Any) -> None:
    fake.delay = 1.0
    found = row(fake, Mix(), count=200, rate=400.0)
    assert found.served == 200 and found.statuses == {"200": 200} and not found.problems
    assert found.seconds < 5, "200 answers of 1 s each were waited for at once"
    assert found.whole and 1 <= found.whole.p50 < 1.8
    assert found.queue and found.queue.p50 == 0.5
    assert found.lost == found.unconnected == found.broken == found.unsound == 0


def test_latency_counts_from_when_a_request_was_due(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(progress: list[float] = []) -> None:  # noqa: B006
        if not progress:
            time.sleep(0.4)  # the generator itself stands still once
        progress.append(0)

    where = Target(fake.url)
    (found,) = run.go(where, plans(Arrivals((200.0,), None, 100), Mix(), run.ask(where)), Going(), busy)
    numbers = counting.row(found)
    assert numbers.late_max > 0.3
    assert numbers.whole and numbers.whole.max > 0.3, "a request that was sent late took long"


def test_statuses_codes_and_when_to_come_again(fake: Any) -> None:
    def refuse(number: int) -> web.Response | None:
        if number % 4 == 0:
            body = {"error": {"message": "m", "code": "rate_limit_exceeded"}}
            return web.json_response(body, status=429, headers={"Retry-After": str(number % 8 + 1)})
        return web.Response(status=500, text="Internal Server Error") if number % 10 == 1 else None

    fake.refuse = refuse
    found = row(fake, Mix(), objective=5.0)
    assert found.statuses == {"200": 65, "429": 25, "500": 10}
    assert found.codes == {"rate_limit_exceeded": 25, "not as JSON": 10}
    assert (found.retry_after, found.retry_least, found.retry_most) == (25, 1, 5)
    assert (found.offered, found.served, found.in_time, found.attainment) == (100, 65, 65, 0.65)
    assert found.goodput == pytest.approx(65 / found.seconds, rel=0.1)


def test_goodput_is_what_came_in_time(fake: Any) -> None:
    fake.delay = 0.15
    found = row(fake, Mix(images=((3, 1.0),)), objective=0.1, count=20)
    assert (found.served, found.images, found.in_time, found.goodput, found.image_goodput) == (20, 60, 0, 0, 0)
    found = row(fake, Mix(images=((3, 1.0),)), objective=5.0, count=20)
    assert (found.in_time, found.images_in_time) == (20, 60)
    assert found.image_goodput == pytest.approx(60 / found.seconds) == found.images_per_second


def test_streams(fake: Any) -> None:
    fake.delay = 0.3
    found = row(fake, Mix(stream=1.0, partial_images=3), count=30)
    assert found.served == 30 and found.queue and found.queue.p50 == 0.001
    assert found.first and found.whole and found.first.p50 < 0.3 and found.whole.p50 >= 0.9
    assert row(fake, Mix(stream=1.0, partial_images=0), count=5).first is None


def test_n_draft(fake: Any) -> None:
    found = row(fake, Mix(n_draft=((2, 1.0), ((3, 6), 1.0))), count=40)
    assert set(found.n_draft) == {"2", "6"} and sum(found.n_draft.values()) == 40
    assert found.mean_n == pytest.approx((2 * found.n_draft["2"] + 6 * found.n_draft["6"]) / 40)
    assert {str(body["n_draft"]) for body in fake.bodies} == {"2", "{'min': 3, 'max': 6}"}


def test_clients_that_go(fake: Any) -> None:
    fake.delay = 5.0
    found = row(fake, Mix(stream=0.5, disconnect=1.0, leaves=0.05), count=20)
    assert (found.left, found.stayed, found.offered, found.lost, found.broken) == (20, 0, 0, 0, 0)
    assert found.seconds < 4 and found.whole is None and found.attainment == 0
    assert 0 < len(fake.bodies) <= 20
    for _ in range(100):
        if fake.gone == len(fake.bodies):
            break
        time.sleep(0.02)
    assert fake.gone == len(fake.bodies), "every one that had arrived was cancelled"
    fake.delay = 0.0
    assert row(fake, Mix(disconnect=1.0, leaves=30.0), count=5).stayed > 0


def test_rubbish(fake: Any) -> None:
    found = row(fake, Mix(rubbish=1.0), count=60)
    assert (found.rubbish, found.mistaken, found.offered, found.statuses) == (60, 0, 0, {})
    fake.to_rubbish = 500
    found = row(fake, Mix(rubbish=0.5), count=60)
    assert found.mistaken == found.rubbish > 10 and found.statuses == {"200": found.offered}
    assert sum(found.mistaken_kinds.values()) == found.mistaken and all(
        kind.endswith(": 500") for kind in found.mistaken_kinds
    )


def test_answers_that_are_not_what_was_asked_for(fake: Any) -> None:
    fake.change = lambda answer: answer | {"data": answer["data"][:0]}
    found = row(fake, Mix(), count=10)
    assert (found.served, found.unsound, found.statuses) == (0, 10, {"200": 10})
    assert found.problems == {"0 pictures for 1": 10} and found.n_draft == {} and found.mean_n is None
    fake.change = lambda answer: {"error": {"code": "engine_failed"}}
    found = row(fake, Mix(stream=1.0), count=10)
    assert (found.served, found.failed, found.unsound, found.codes) == (0, 10, 0, {"engine_failed": 10})


def test_answers_that_never_come(fake: Any) -> None:
    fake.delay = 5.0
    found = row(fake, Mix(), count=10, going=Going(patience=0.3))
    assert (found.lost, found.served, found.problems) == (10, 0, {"patience ran out": 10})
    found = row(fake, Mix(stream=1.0), count=10, going=Going(patience=0.3))
    assert (found.broken, found.lost) == (10, 0), "those had begun"


@pytest.mark.parametrize(
    ("said", "fate"),
    [
        (b"", "lost"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", "broken"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "lost"),
    ],
)
def test_connections_that_break(raw: Callable[[Any], str], said: bytes, fate: str) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        writer.close()

    found = ended(raw(handle))
    assert {one.fate for one in found.outcomes} == {fate} and all(one.failure for one in found.outcomes)


def test_nobody_listens() -> None:
    found = ended("http://127.0.0.1:9")
    assert {one.fate for one in found.outcomes} == {"unconnected"}
    numbers = counting.row(found)
    assert (numbers.unconnected, numbers.lost, numbers.statuses) == (5, 0, {})


def ended(url: str) -> Run:
    model = Model("digits", "trt-var", 10, 6, (1, 2, 3, 4, 6, 8))
    (found,) = run.go(Target(url), plans(Arrivals((500.0,), None, 5), Mix(), model), Going(patience=5))
    return found


def test_headers(fake: Any) -> None:
    fake.key = "secret"
    row(fake, Mix(), count=3, key="secret", timeout=2.5)
    for headers in fake.headers:
        assert headers["Authorization"] == "Bearer secret" and headers["X-Request-Timeout"] == "2.5"
        assert headers["Content-Type"] == "application/json"


def test_answers_beyond_the_ceiling_are_read_at_once(fake: Any, caplog: pytest.LogCaptureFixture) -> None:
    found = offered(fake, Mix(), count=30, going=Going(keep=0.005))
    kept = [one for one in found.outcomes if one.body]
    assert 0 < len(kept) < 30 and sum(len(one.body) for one in kept) <= 5000
    assert counting.row(found).served == 30
    assert f"more than 0.005 MB of answers; the pictures of {30 - len(kept)} were not kept" in caplog.text


def test_one_rate_after_another_and_in_a_running_loop(fake: Any) -> None:
    where = Target(fake.url)

    async def notebook() -> list[Run]:
        return run.go(where, plans(Arrivals((100.0, 400.0), 0.3), Mix(), run.ask(where)))

    slow, fast = asyncio.run(notebook())
    assert len(fast.outcomes) > 2 * len(slow.outcomes) > 0
    seeds = [body["seed"] for body in fake.bodies]
    assert sorted(seeds) == list(range(len(seeds)))


def test_without_uvloop(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert row(fake, Mix(), count=20).served == 20


def test_timeline(fake: Any) -> None:
    found = offered(fake, Mix(), count=300, rate=300.0)
    moments = counting.row(found).timeline
    step = moments[1].at - moments[0].at
    assert len(moments) <= 51 and sum(moment.offered for moment in moments) * step == pytest.approx(300)
    assert all(moment.n_draft == 4 for moment in moments if moment.served)


def test_a_schedule_that_runs_ahead_of_the_processor(fake: Any, caplog: pytest.LogCaptureFixture) -> None:
    model, where = run.ask(Target(fake.url)), Target(fake.url)
    (plan,) = plans(Arrivals((1e5,), None, 300), Mix(), model)
    (found,) = run.go(where, [Plan(plan.rate, plan.window, np.zeros(300), plan.requests)])
    assert counting.row(found).served == 300
    assert "the generator was up to" in caplog.text
