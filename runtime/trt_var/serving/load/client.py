"""One request over HTTP, and what came of it: times and bytes, nothing decoded."""

from __future__ import annotations

import asyncio
import time
from typing import Literal

import aiohttp
import msgspec
from yarl import URL

from trt_var.serving.load.answers import Answer
from trt_var.serving.load.mix import Request
from trt_var.serving.load.service import Target, reason

STREAM = "text/event-stream"
# less than servers keep connections for, 5 s of uvicorn's: one that goes just as it is used would look like a lost answer
IDLE = 2.0
LONGEST = 80  # characters of a failure
Fate = Literal["answered", "left", "unconnected", "lost", "broken"]
"""``left``: the client went; ``lost``: no answer at all; ``broken``: one that began and did not end."""


class Outcome(msgspec.Struct, gc=False):
    """What came of a request. Times are seconds after the start of the run.

    Attributes:
        index: of the request in its plan.
        sent: when the client took it up.
        ended: when its answer was whole, or it failed.
        fate: see ``Fate``.
        status: of HTTP; 0 if there was none.
        body: of the answer; empty once it has been decoded for want of room.
        marks: of a stream: bytes that had come, and when, in turn.
        retry_after: the header.
        failure: why there is no whole answer.
        answer: what the body says, once it has been decoded.
    """

    index: int
    sent: float
    ended: float = 0.0
    fate: Fate = "answered"
    status: int = 0
    body: bytes = b""
    marks: tuple[float, ...] = ()
    retry_after: str = ""
    failure: str = ""
    answer: Answer | None = None


def session(target: Target, patience: float) -> aiohttp.ClientSession:
    """For very many requests at once; each is given up after ``patience`` seconds. Made inside the running loop."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, limit_per_host=0, keepalive_timeout=IDLE, ttl_dns_cache=3600),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=target.headers(),
        timeout=aiohttp.ClientTimeout(total=patience),
    )


async def exchange(client: aiohttp.ClientSession, url: URL, request: Request, index: int, start: float) -> Outcome:
    """Send a request and wait for its end; nothing is raised, the outcome says what failed.

    Args:
        client: of ``session``.
        url: where to.
        request: what.
        index: of the outcome.
        start: of the run, on ``time.perf_counter``.
    """
    outcome = Outcome(index, time.perf_counter() - start)
    try:
        if request.leaves is None or request.stream:
            await _fill(client, url, request, outcome, start)
        else:
            await asyncio.wait_for(_fill(client, url, request, outcome, start), request.leaves)
    except aiohttp.ClientConnectorError as error:
        outcome.fate, outcome.failure = "unconnected", _told(error)
    except asyncio.TimeoutError:
        left = request.leaves is not None and not request.stream
        outcome.fate = "left" if left else "broken" if outcome.status else "lost"
        outcome.failure = "" if left else "patience ran out"
    except Exception as error:  # whatever it is, there is no whole answer
        outcome.fate, outcome.failure = "broken" if outcome.status else "lost", _told(error)
    outcome.ended = time.perf_counter() - start
    return outcome


async def _fill(client: aiohttp.ClientSession, url: URL, request: Request, outcome: Outcome, start: float) -> None:
    async with client.post(url, data=request.body, allow_redirects=False) as response:
        outcome.status = response.status
        outcome.retry_after = response.headers.get("Retry-After", "")
        if response.content_type != STREAM:
            outcome.body = await response.read()
            return
        chunks: list[bytes] = []
        marks: list[float] = []
        total = 0
        async for chunk in response.content.iter_any():
            total += len(chunk)
            chunks.append(chunk)
            marks += (total, time.perf_counter() - start)
            if request.leaves is not None:
                response.close()
                outcome.fate = "left"
                return
        outcome.body, outcome.marks = b"".join(chunks), tuple(marks)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {reason(error)}"[:LONGEST]
