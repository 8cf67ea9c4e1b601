"""The engine as the app sees it on Ray Serve: a handle of replicas that may die; requests are sent again elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from typing import Any

from ray import exceptions
from ray.serve.exceptions import DeploymentUnavailableError, ReplicaUnavailableError

from trt_var.errors import BackendError, DeadlineError, OverloadedError, TrtVarError
from trt_var.requests.results import Preview
from trt_var.serving.batching.dispatch import State
from trt_var.serving.batching.tickets import LATE, Served
from trt_var.serving.batching.watching import Watcher
from trt_var.serving.engine import Ask, Description

TRIES = 4  # of one request: one that kills whoever draws it must not kill them all
PAUSE = 0.1  # seconds before the second try; twice as long before each further one
GONE = (
    exceptions.RayActorError,  # died, or cannot be reached
    exceptions.NodeDiedError,
    exceptions.WorkerCrashedError,
    exceptions.OutOfMemoryError,
    exceptions.ObjectLostError,
    ReplicaUnavailableError,
)
DRAINS = "draining"


class RayEngine:
    """An ``Engine`` over the handle of an engine deployment.

    A request is a function of its ``Ask`` alone, so one whose replica died is sent to another, as long as its deadline
    lasts and a few times at most; a stream goes on behind the last preview that was shown, with the N that it had.
    """

    def __init__(self, handle: Any, watcher: Watcher | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Of a ``DeploymentHandle``; ``watcher`` is told of refusals and deadlines."""
        self._handle, self._streaming = handle, handle.options(stream=True)
        self._watcher, self._clock = watcher or Watcher(), clock
        self._described: Description | None = None
        self._state = State.STARTING

    async def start(self) -> None:
        """See ``Engine``; waits until a replica serves."""
        while self._described is None:
            try:
                self._described = await self._handle.describe.remote()
            except GONE:
                await asyncio.sleep(PAUSE)
        self._state = State.READY

    async def close(self) -> None:
        """See ``Engine``; replicas end by themselves."""
        self.drain()

    def drain(self) -> None:
        """See ``Engine``."""
        self._state = State.DRAINING

    def abandon(self) -> None:
        """See ``Engine``; the callers' own ends cancel what they wait for."""
        self.drain()

    def state(self) -> State:
        """See ``Engine``: of this side. Whether a replica is there shows when one is asked."""
        return self._state

    def describe(self) -> Description:
        """See ``Engine``.

        Raises:
            BackendError: not started.
        """
        if self._described is None:
            raise BackendError("no engine has answered yet")
        return self._described

    async def generate(self, ask: Ask) -> Served:
        """See ``Engine``."""
        way = self._way(ask)
        while True:
            try:
                call = self._handle.generate.remote(way.ask())
                served: Served = await way.answer(call, call)
                return served
            except _LostError as lost:
                await way.again(lost)

    async def stream(self, ask: Ask) -> AsyncGenerator[Preview | Served, None]:
        """See ``Engine``."""
        events = self._events(self._way(ask))
        await anext(events)  # a replica has taken it in, or refused
        return events

    async def _events(self, way: _Way) -> AsyncGenerator[Any, None]:
        """None once a replica has taken the request in; previews that were not shown; the result."""
        taken = False
        while True:
            call = self._streaming.stream.remote(way.ask())
            ended = False
            try:
                while not ended:
                    event = await way.answer(call, anext(call))
                    ended = isinstance(event, Served)
                    if isinstance(event, Preview) and not way.shows(event):
                        continue
                    if event is not None or not taken:
                        taken = True
                        yield event
                return
            except _LostError as lost:
                ended = True
                await way.again(lost)
            finally:
                if not ended:
                    call.cancel()

    def _way(self, ask: Ask) -> _Way:
        if self._state is State.DRAINING:
            raise OverloadedError("this service is about to end", reason=DRAINS)
        return _Way(ask, self.describe().timeout, self._watcher, self._clock)


class _LostError(Exception):
    """A replica that had a request is gone, or takes nothing in any more."""


class _Way:
    """One request's: its deadline, its tries, and what of it has been shown."""

    def __init__(self, ask: Ask, timeout: float, watcher: Watcher, clock: Callable[[], float]) -> None:
        self._ask, self._watcher, self._clock = ask, watcher, clock
        self._end = clock() + (timeout if ask.timeout is None else ask.timeout)
        self._tries, self._last = 1, -1

    def ask(self) -> Ask:
        """What to send now, with the seconds that are left.

        Raises:
            DeadlineError: none are.
        """
        left = self._end - self._clock()
        if left <= 0:
            raise self._late()
        return replace(self._ask, timeout=left)

    async def answer(self, call: Any, awaited: Awaitable[Any]) -> Any:
        """What a replica answers; a call that nobody waits for any more is cancelled there.

        Raises:
            TrtVarError: it says why there is no picture.
            _LostError: ask another.
        """
        task = asyncio.ensure_future(awaited)
        try:
            await asyncio.wait({task}, timeout=max(self._end - self._clock(), 0))
            if not task.done():
                raise self._late()
            if task.cancelled():  # not by us: the replica was about to end
                raise _LostError("it ended")
            found = task.result()
        except (*GONE, StopAsyncIteration) as error:
            raise _LostError(str(error) or type(error).__name__) from error
        except DeploymentUnavailableError as error:
            raise BackendError("no engine can be started; see the state of the application") from error
        finally:
            if not task.done():
                task.cancel()
                call.cancel()
        return self._meant(found)

    def _meant(self, found: Any) -> Any:
        if not isinstance(found, TrtVarError):
            return found
        if isinstance(found, OverloadedError):
            if found.reason == DRAINS:
                raise _LostError(str(found))
            self._watcher.rejected(found.reason, len(self._ask.labels))
        elif isinstance(found, DeadlineError):
            self._watcher.late(1)
        raise found

    def shows(self, preview: Preview) -> bool:
        """Whether a preview is new; what comes after it is then asked for with the same N."""
        if preview.scale <= self._last:
            return False
        self._last = preview.scale
        later = frozenset(scale for scale in self._ask.previews if scale > preview.scale)
        n_draft = preview.provenance.n_draft if preview.provenance else self._ask.n_draft
        self._ask = replace(self._ask, previews=later, n_draft=n_draft)
        return True

    async def again(self, lost: _LostError) -> None:
        """Wait a little before the next try.

        Raises:
            BackendError: that was the last one.
            DeadlineError: there is no time for it.
        """
        if self._tries == TRIES:
            raise BackendError(f"{TRIES} engines were lost under this request, one after the other") from lost
        pause = PAUSE * 2 ** (self._tries - 1)
        self._tries += 1
        if self._end - self._clock() <= pause:
            raise self._late() from lost
        await asyncio.sleep(pause)

    def _late(self) -> DeadlineError:
        self._watcher.late(1)
        return DeadlineError(LATE)
