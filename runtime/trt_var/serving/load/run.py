"""The open loop: requests go out when they are due, whatever became of those before them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import importlib.util
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
from yarl import URL

from trt_var.serving.load.answers import Answer, read
from trt_var.serving.load.client import Outcome, exchange, session
from trt_var.serving.load.plan import Plan
from trt_var.serving.load.service import Model, Target, look

log = logging.getLogger(__name__)
ROUTE = "/v1/images/generations"
AHEAD = 0.05  # seconds between setting the clock and its zero
MEGABYTE = 1_000_000
LATE = 0.01  # seconds of lateness that are said
Result = TypeVar("Result")
Progress = Callable[[], object]


@dataclass(frozen=True)
class Run:
    """What came of a plan.

    Attributes:
        plan: what was offered.
        outcomes: of each request, in the plan's order.
        seconds: from the start to the last answer, or the end of the window.
        cpu: seconds of processor time that this process took meanwhile.
    """

    plan: Plan
    outcomes: list[Outcome]
    seconds: float
    cpu: float

    @property
    def lateness(self) -> list[float]:
        """Seconds after its time that each request was taken up."""
        return [one.sent - due for one, due in zip(self.outcomes, self.plan.arrivals.tolist(), strict=True)]


@dataclass(frozen=True)
class Going:
    """How a run goes.

    Attributes:
        patience: seconds until a request is given up.
        keep: megabytes of answers that are kept to be read after the run; what comes beyond is read at once, and its
            pictures are let go.
    """

    patience: float = 60.0
    keep: float = 1024.0


USUAL = Going()


def ask(target: Target) -> Model:
    """What the service serves; errors as of ``service.look``."""
    return complete(look(target))


def go(target: Target, plans: list[Plan], going: Going = USUAL, progress: Progress = lambda: None) -> list[Run]:
    """Offer one plan after another, each once the one before is answered; then read the answers.

    Args:
        target: the service.
        plans: what to offer, and when.
        going: how.
        progress: called at every end of a request.
    """
    room = _Room(int(going.keep * MEGABYTE))
    with _many_connections(), _undisturbed():
        runs = complete(_offer_all(target, plans, going.patience, room, progress))
    for run in runs:
        for outcome in run.outcomes:
            if outcome.fate == "answered" and outcome.answer is None:
                outcome.answer = _read(run.plan, outcome)
        worst = max(run.lateness)
        if worst > LATE:
            log.warning(
                "at %g requests a second the generator was up to %.0f ms late; latency counts from when a request was due, "
                "and this is in it",
                run.plan.rate,
                worst * 1000,
            )
    if room.spent:
        log.warning("more than %g MB of answers; the pictures of %d were not kept", going.keep, room.spent)
    return runs


def complete(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end on a loop of its own, uvloop's if it is installed; in a notebook, on a thread."""
    run: Callable[[Coroutine[Any, Any, Result]], Result] = asyncio.run
    if importlib.util.find_spec("uvloop") is not None:
        run = importlib.import_module("uvloop").run
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run, work).result()


class _Room:
    """What is left for answers, in bytes, and how many found none."""

    def __init__(self, left: int) -> None:
        self.left, self.spent = left, 0

    def take(self, plan: Plan, outcome: Outcome) -> None:
        """Keep an answer as it is, or read it at once."""
        if len(outcome.body) <= self.left:
            self.left -= len(outcome.body)
            return
        self.spent += 1
        if outcome.fate == "answered":
            outcome.answer = _read(plan, outcome)
        outcome.body = b""


def _read(plan: Plan, outcome: Outcome) -> Answer:
    return read(plan.requests[outcome.index], outcome.status, outcome.body, outcome.marks)


async def _offer_all(target: Target, plans: list[Plan], patience: float, room: _Room, progress: Progress) -> list[Run]:
    async with session(target, patience) as client:
        return [await _offer(client, URL(target.url + ROUTE), plan, room, progress) for plan in plans]


async def _offer(client: aiohttp.ClientSession, url: URL, plan: Plan, room: _Room, progress: Progress) -> Run:
    outcomes: list[Outcome | None] = [None] * len(plan.requests)
    under_way: set[asyncio.Task[None]] = set()
    cpu, start = time.process_time(), time.perf_counter() + AHEAD

    async def one(index: int) -> None:
        outcome = await exchange(client, url, plan.requests[index], index, start)
        room.take(plan, outcome)
        outcomes[index] = outcome
        progress()

    for index, due in enumerate(plan.arrivals.tolist()):
        await asyncio.sleep(0)  # so that those before it go out even where the schedule runs ahead of the processor
        while (wait := start + due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(one(index))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    while under_way:
        await asyncio.wait(under_way)
    done = [outcome for outcome in outcomes if outcome is not None]
    seconds = max(plan.window, *(outcome.ended for outcome in done))
    return Run(plan, done, seconds, time.process_time() - cpu)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """The plan, which stays, is not looked through for garbage again and again."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextlib.contextmanager
def _many_connections() -> Iterator[None]:
    """As many open files as the system allows, where it can be asked."""
    try:
        import resource  # of POSIX systems alone
    except ImportError:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # a system may allow fewer than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
