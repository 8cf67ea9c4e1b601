"""Requests whose replica died are sent elsewhere, by a handle that does what a test tells it. Kind: no cluster."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

pytest.importorskip("ray.serve", reason="needs trt-var[ray]")

from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve.exceptions import DeploymentUnavailableError

from trt_var import BackendError, DeadlineError, OverloadedError, Preview, Provenance, Sampling, UsageError
from trt_var.serving.batching.tickets import Served
from trt_var.serving.batching.watching import Watcher
from trt_var.serving.engine import Ask, Description
from trt_var.serving.ray import engine
from trt_var.serving.ray.edge import Edge, Once
from trt_var.serving.ray.engine import RayEngine

ZERO = np.zeros((1, 2, 2, 3), np.uint8)
ARRAYS = (ZERO, np.zeros((1, 4), np.uint16), np.array([3]), np.array([7], np.uint64))
MADE = Provenance("", "", "", "float32", 2, Sampling(), 1)
RESULT = Served(*ARRAYS, MADE, 2)
DESCRIBED = Description("b", True, "tokens", (1, 2), 2, 4, 4, 10, (), (2, 4), 4, 4, False, {}, 1, 1, 9, 60.0)
ASK = Ask((3,), (7,), timeout=30.0, previews=frozenset({0, 1, 2}))
DIED, AWAY, NEVER = ActorDiedError(), ActorUnavailableError("away", None), object()


def preview(scale: int) -> Preview:
    return Preview(scale, 5, "drafter", *ARRAYS, MADE)


class Call:
    """One call of a handle: what comes of it, one after the other; an exception is raised, NEVER is waited for."""

    def __init__(self, ask: Ask, events: list[Any]) -> None:
        self.ask, self._events, self.cancelled = ask, iter(events), False

    def cancel(self) -> None:
        self.cancelled = True

    async def __anext__(self) -> Any:
        event = next(self._events, StopAsyncIteration())
        if event is NEVER:
            await asyncio.sleep(1e6)
        if isinstance(event, asyncio.CancelledError | ActorDiedError | ActorUnavailableError | StopAsyncIteration):
            raise event
        if isinstance(event, DeploymentUnavailableError):
            raise event
        return event

    def __await__(self) -> Any:
        return self.__anext__().__await__()


class Handle:
    """A deployment whose replicas do, call by call, what is given; the last of it again and again."""

    def __init__(self, *replies: list[Any]) -> None:
        self._replies, self.calls = list(replies), list[Call]()

    def options(self, stream: bool) -> Handle:
        return self

    @property
    def describe(self) -> Any:
        return self._method(lambda: Call(ASK, [DESCRIBED]))

    @property
    def generate(self) -> Any:
        return self._method(self._next)

    stream = generate

    def _next(self, ask: Ask) -> Call:
        self.calls.append(Call(ask, self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]))
        return self.calls[-1]

    def _method(self, act: Any) -> Any:
        return type("Method", (), {"remote": staticmethod(act)})


class Counted(Watcher):
    def __init__(self) -> None:
        self.told: list[str] = []

    def rejected(self, reason: str, images: int) -> None:
        self.told.append(reason)

    def late(self, requests: int) -> None:
        self.told.append("late")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "PAUSE", 0.001)


def started(handle: Handle, watcher: Watcher | None = None) -> Coroutine[Any, Any, RayEngine]:
    async def begin() -> RayEngine:
        found = RayEngine(handle, watcher)
        await found.start()
        return found

    return begin()


def generated(handle: Handle, ask: Ask = ASK, watcher: Watcher | None = None) -> Served:
    async def main() -> Served:
        return await (await started(handle, watcher)).generate(ask)

    return asyncio.run(main())


def streamed(handle: Handle, ask: Ask = ASK) -> list[Any]:
    async def main() -> list[Any]:
        return [event async for event in await (await started(handle)).stream(ask)]

    return asyncio.run(main())


def test_errors_are_the_same_behind_pickle() -> None:
    for error in (OverloadedError("full", 2.5, "key"), DeadlineError("late"), UsageError("no"), BackendError("broken")):
        found = pickle.loads(pickle.dumps(error))
        assert (type(found), str(found), vars(found)) == (type(error), str(error), vars(error))
    found = pickle.loads(pickle.dumps(RESULT))
    assert found == RESULT and (found.n_draft, found.provenance) == (2, MADE)
    assert pickle.loads(pickle.dumps(DESCRIBED)) == DESCRIBED and pickle.loads(pickle.dumps(ASK)) == ASK


@pytest.mark.parametrize("lost", [DIED, AWAY, asyncio.CancelledError(), OverloadedError("it ends", reason="draining")])
def test_a_lost_request_is_sent_again_with_the_time_that_is_left(lost: Any) -> None:
    handle = Handle([lost], [lost], [RESULT])
    assert generated(handle) == RESULT
    seconds = [call.ask.timeout for call in handle.calls]
    assert seconds == sorted(seconds, reverse=True) and len(set(seconds)) == 3 and seconds[0] <= 30


def test_a_request_that_kills_is_given_up() -> None:
    handle = Handle([DIED])
    with pytest.raises(BackendError, match="4 engines were lost"):
        generated(handle)
    assert len(handle.calls) == engine.TRIES
    with pytest.raises(BackendError, match="no engine can be started"):
        generated(Handle([DeploymentUnavailableError(None)]))  # type: ignore[arg-type]


def test_what_a_replica_says_is_not_asked_again() -> None:
    told = Counted()
    for error in (OverloadedError("full", 2.5), DeadlineError("late"), UsageError("no"), BackendError("broken")):
        handle = Handle([error])
        with pytest.raises(type(error)) as raised:
            generated(handle, watcher=told)
        assert raised.value is error and len(handle.calls) == 1
    assert told.told == ["full", "late"]


def test_a_deadline_ends_a_call_on_the_replica_too() -> None:
    told, handle = Counted(), Handle([NEVER])
    with pytest.raises(DeadlineError):
        generated(handle, replace(ASK, timeout=0.05), told)
    assert handle.calls[0].cancelled and told.told == ["late"]
    handle = Handle([DIED])
    with pytest.raises(DeadlineError):  # no time for another try
        generated(handle, replace(ASK, timeout=0.0005))


def test_a_caller_that_goes_is_gone_on_the_replica_too() -> None:
    async def main() -> None:
        handle = Handle([NEVER])
        task = asyncio.ensure_future((await started(handle)).generate(ASK))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled() and handle.calls[0].cancelled

        handle = Handle([None, preview(0), NEVER])
        events = await (await started(handle)).stream(ASK)
        assert (await anext(events)).images is ZERO
        await events.aclose()
        assert handle.calls[0].cancelled

    asyncio.run(main())


def test_a_stream_goes_on_behind_what_was_shown() -> None:
    handle = Handle([None, preview(0), preview(1), DIED], [DIED], [None, preview(1), preview(2), RESULT])
    found = streamed(handle)
    assert [getattr(event, "scale", None) for event in found] == [0, 1, 2, None] and found[-1] is RESULT
    first, second, third = (call.ask for call in handle.calls)
    assert (first.n_draft, first.previews) == (None, {0, 1, 2})
    assert (second.n_draft, second.previews) == (third.n_draft, third.previews) == (2, {2})  # N is what it was
    assert not any(call.cancelled for call in handle.calls)


def test_a_stream_that_breaks_off_or_is_refused() -> None:
    assert streamed(Handle([DIED], [None], [None, RESULT])) == [RESULT]  # before it was taken in; without a result
    with pytest.raises(OverloadedError):
        asyncio.run(_begun(Handle([OverloadedError("full")])))  # before anything is sent to the client

    async def late() -> None:
        events = await _begun(Handle([None, preview(0), UsageError("odd")]))
        assert (await anext(events)).scale == 0
        with pytest.raises(UsageError):
            await anext(events)

    asyncio.run(late())


async def _begun(handle: Handle) -> Any:
    return await (await started(handle)).stream(ASK)


def test_an_engine_that_ends_takes_nothing_in() -> None:
    async def main() -> None:
        found = RayEngine(Handle([RESULT]))
        with pytest.raises(BackendError):
            found.describe()
        await found.start()
        assert found.state().value == "ready" and msgspec.to_builtins(found.describe())["batch"] == 1
        await found.close()
        assert found.state().value == "draining"
        with pytest.raises(OverloadedError):
            await found.generate(ASK)

    asyncio.run(main())


def passed(app: Any, *headers: tuple[bytes, bytes]) -> tuple[list[tuple[bytes, bytes]], list[tuple[bytes, bytes]]]:
    """Headers that come to an app behind a middleware, and those that it sends."""
    seen: dict[str, Any] = {}

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen["in"] = scope["headers"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-request-id", b"a"), (b"b", b"c")]})

    async def send(message: Any) -> None:
        seen["out"] = message["headers"]

    asyncio.run(app(inner)({"type": "http", "headers": list(headers)}, None, send))
    return seen["in"], seen["out"]


def test_headers_for_serve_come_from_nobody() -> None:
    name, given = b"x-request-id", (b"a", b"1")
    for_serve = [b"X-Request-Timeout-Seconds", b"x-request-disconnect-disabled", b"serve_multiplexed_model_id"]
    found, _ = passed(Edge, given, *((header, b"0") for header in for_serve), (name, b"mine-1"))
    assert found == [given, (name, b"mine-1")]
    found, _ = passed(Edge, (name, b"no\xe9 good"), (name, b"second"))
    assert len(found) == 1 and len(found[0][1]) == 24
    assert passed(Once, given) == ([given], [(b"b", b"c")])
