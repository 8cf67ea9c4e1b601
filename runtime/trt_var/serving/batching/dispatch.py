"""The planner between threads: callers put requests in, workers take batches out."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future
from enum import Enum

from trt_var.errors import BackendError, DeadlineError, OverloadedError
from trt_var.serving.batching.planning import Batch, Planner
from trt_var.serving.batching.tickets import Served, Ticket
from trt_var.serving.batching.watching import Watcher

log = logging.getLogger(__name__)


class State(Enum):
    """Of a batcher.

    Example:
        >>> from trt_var import Batcher, Pipeline
        >>> Batcher(Pipeline.load("digits")).state
        <State.STARTING: 'starting'>
    """

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class Dispatch:
    """A planner with a lock, and the state that goes with it."""

    def __init__(self, planner: Planner, watcher: Watcher, failures: int, has_lone: bool = False) -> None:
        """With ``has_lone``, one of the workers draws lone images, on the cores that the others share."""
        self._planner, self._watcher, self._most_failures, self._has_lone = planner, watcher, failures, has_lone
        self.clock = time.monotonic
        self._changed = threading.Condition()
        self._failures = 0
        self.state, self.trouble = State.READY, ""

    def admit(self, ticket: Ticket) -> None:
        """Take a request in.

        Raises:
            OverloadedError: no room, or no time; or closing.
            BackendError: the engine has failed too often.
        """
        with self._changed:
            self._check_open()
            try:
                self._planner.admit(ticket, self.clock())
            except OverloadedError as error:
                self._watcher.rejected(error.reason, ticket.images)
                raise
            self._changed.notify_all()  # one of them may suit it, and who knows which
        ticket.future.add_done_callback(lambda future: self._cancelled(ticket, future))

    def take(self, lone: bool = False) -> Batch | None:
        """The next batch; waits for one. None when there will be none any more."""
        while self.state is not State.FAILED:
            with self._changed:
                suits = not self._has_lone or self._planner.suits(lone)
                batch = self._planner.take(self.clock(), lone) if suits else None
                late = self._planner.pop_late()
                if batch is None and not late:
                    if self.state is State.DRAINING and not self._planner.waiting:
                        return None
                    self._changed.wait()
            for ticket in late:  # outside the lock: callers may have hung anything on their futures
                self._watcher.late(1)
                ticket.fail(DeadlineError("not begun in time, and too late to be; ask with a longer timeout"))
            if batch is not None:
                return batch
        return None

    def finished(self, batch: Batch, *, whole: bool) -> None:
        """A batch is done with."""
        with self._changed:
            self._planner.finished(batch, self.clock(), whole=whole)
            self._changed.notify_all()

    def sound(self) -> None:
        """The engine works."""
        self._failures = 0

    def failed(self, reason: str) -> None:
        """A whole batch failed, each image alone, too."""
        self._failures += 1
        if self._failures >= self._most_failures:
            self.break_down(f"the engine failed {self._failures} times one after the other, last: {reason}", None)

    def halve(self) -> None:
        """Take smaller batches from now on: there was too little memory."""
        with self._changed:
            self._planner.size = max(1, self._planner.size // 2)
            log.warning("batches of at most %d from now on", self._planner.size)

    def break_down(self, reason: str, batch: Batch | None) -> None:
        """Nothing more will be drawn: all who wait are told."""
        with self._changed:
            self.state, self.trouble = State.FAILED, reason
            log.error("%s", reason)
            tickets = self._planner.clear() + [row.ticket for row in (batch.rows if batch else ())]
            self._changed.notify_all()
        for ticket in tickets:
            ticket.fail(BackendError(reason))

    def drain(self) -> None:
        """Take nothing more in; what was is drawn."""
        with self._changed:
            if self.state is State.READY:
                self.state = State.DRAINING
            self._changed.notify_all()

    def abandon(self) -> None:
        """Give up what waits and what is drawn."""
        with self._changed:
            tickets = [*self._planner.clear(), *self._planner.drawn()]
            self._changed.notify_all()
        for ticket in tickets:
            ticket.fail(OverloadedError("given up: the service ends", 1.0, "draining"))

    def forget(self, ticket: Ticket) -> None:
        """Draw no more of a request that has failed."""
        with self._changed:
            self._planner.discard(ticket)

    def look(self) -> Planner:
        """The planner, as it is now, to read numbers of."""
        with self._changed:
            self._planner.look(self.clock())
        return self._planner

    def _check_open(self) -> None:
        if self.state is State.FAILED:
            raise BackendError(self.trouble)
        if self.state is State.DRAINING:
            self._watcher.rejected("draining", 0)
            raise OverloadedError("closing: no more requests are taken", 1.0, "draining")

    def _cancelled(self, ticket: Ticket, future: Future[Served]) -> None:
        if not future.cancelled():
            return
        with self._changed:
            waited = self._planner.discard(ticket)
            self._changed.notify_all()  # what is left may be another worker's
            if waited:
                self._watcher.cancelled("queued", ticket.images - ticket.taken)
