"""What is drawn next: the queue, its bounds and the N of what is taken from it. Pure: the time is always given."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from trt_var.bundle.manifest import Manifest
from trt_var.errors import DeadlineError, OverloadedError
from trt_var.requests.checking import MAX_SMOOTH_BATCH
from trt_var.requests.joining import Kind
from trt_var.serving.batching.policy import Level, Policy
from trt_var.serving.batching.tickets import Row, Ticket
from trt_var.serving.batching.times import Times

WINDOW = 2.0  # seconds over which arrivals are counted
MARGIN = 1.15  # times as long as expected that a wait may take, for a request to be taken in: better refused than late
SPARE = 1.5  # times as long as expected that a batch may take, for an image to be begun in one while enough others wait
Fit = Callable[[int], int]
FADE = 0.3  # the share of a new batch in what is known of how full batches get


@dataclass(frozen=True)
class Batch:
    """Images to be drawn together; by the pipeline for lone ones, or not."""

    rows: tuple[Row, ...]
    n_draft: int
    began: float
    lone: bool = False


class Planner:
    """Tickets in the order in which they came. Not safe for threads: its owner locks.

    Attributes:
        waiting: images in the queue.
        times: measured ones, of batches.
        size: images drawn together at most.
        devices: batches that are drawn at the same time.

    Example:
        >>> from trt_var import Batcher, Batching, Pipeline
        >>> with Batcher(Pipeline.load("digits"), Batching(batch=2)) as batcher:
        ...     batcher.planner.size, batcher.planner.waiting
        (2, 0)
    """

    def __init__(
        self,
        manifest: Manifest,
        policy: Policy,
        times: Times,
        size: int,
        most: int,
        devices: int = 1,
        fit: Fit = lambda images: images,
    ) -> None:
        self._manifest, self._policy, self.times, self._fit = manifest, policy, times, fit
        self.size, self._most, self.devices = size, most, devices
        self._queue: deque[Ticket] = deque()
        self._running: set[Batch] = set()
        self._arrivals: deque[tuple[float, int]] = deque()
        self._arrived = 0
        self._late: list[Ticket] = []
        self._level = Level()
        self._fill = float(size)
        self.waiting = 0

    @property
    def running(self) -> int:
        """Images that are being drawn."""
        return sum(len(batch.rows) for batch in self._running)

    @property
    def _usual(self) -> int:
        """Images of a batch, where more wait than it takes: fewer than it may have if they are of many kinds."""
        return max(1, min(self.size, round(self._fill)))

    def admit(self, ticket: Ticket, now: float) -> None:
        """Take a ticket into the queue.

        Raises:
            OverloadedError: no room, or it would wait past its deadline.
            DeadlineError: it would take longer than it may, though nothing else is asked for.
        """
        ticket.arrived = now
        self._arrivals.append((now, ticket.images))
        self._arrived += ticket.images
        self.look(now)
        whole = self.seconds(self._choice(ticket), now, ticket.images)
        if self.waiting + ticket.images > self._most:
            raise OverloadedError(
                f"{self.waiting} images wait and {self._most} may; {ticket.images} more find no room: ask again later", whole
            )
        if now + (MARGIN * whole if self.waiting else whole) > ticket.deadline:
            if not self.waiting and not self._running:  # asking again would not help
                raise DeadlineError(f"an answer takes about {whole:.2g} s; ask with a longer timeout")
            wait = f"an answer would take about {whole:.2g} s, and the request gives up after {ticket.deadline - now:.2g} s"
            again = max(now + whole - ticket.deadline, 1.0)
            raise OverloadedError(f"{wait}: ask again later, or with a longer timeout", again, "deadline")
        self._queue.append(ticket)
        self.waiting += ticket.images

    def suits(self, lone: bool) -> bool:
        """Whether what waits is for the pipeline that draws lone images on all cores, or for those that share them."""
        if any(batch.lone for batch in self._running):
            return False
        return lone == (self.waiting == 1 and not self._running)

    def take(self, now: float, lone: bool = False) -> Batch | None:
        """The next batch: the oldest image and those of its kind that came next; None if none waits.

        Idle devices share what waits, so that none of them stands still meanwhile.
        """
        self._drop_late(now)
        self.look(now)
        if not self._queue:
            return None
        idle = max(1, self.devices - len(self._running))
        share = min(self.size, -(-self.waiting // idle))
        crowded = self.waiting >= self.size * idle
        kind, alike, images = self._alike(share)
        size = self._fit(min(images, MAX_SMOOTH_BATCH) if kind.more_smooth else images)
        rows: list[Row] = []
        for ticket in alike:
            rows += ticket.take(min(size - len(rows), ticket.images - ticket.taken), kind.n_draft, now)
            if ticket.taken == ticket.images:
                self._queue.remove(ticket)
            if len(rows) == size:
                break
        self.waiting -= len(rows)
        if crowded:
            self._fill += FADE * (len(rows) - self._fill)
        rows.sort(key=lambda row: not row.ticket.previews)  # those that are shown meanwhile lie together, in front
        batch = Batch(tuple(rows), rows[0].run.n_draft, now, lone)
        self._running.add(batch)
        return batch

    def finished(self, batch: Batch, now: float, *, whole: bool = True) -> None:
        """A batch is done; its time counts if it was drawn to its end."""
        self._running.discard(batch)
        if whole and not batch.lone:
            self.times.observe(batch.n_draft, len(batch.rows), now - batch.began)

    def discard(self, ticket: Ticket) -> bool:
        """Forget a ticket; whether it was still waiting, in part at least."""
        if ticket not in self._queue:
            return False
        self._queue.remove(ticket)
        self.waiting -= ticket.images - ticket.taken
        return True

    def clear(self) -> list[Ticket]:
        """Empty the queue."""
        found = list(self._queue)
        self._queue.clear()
        self.waiting = 0
        return found

    def drawn(self) -> list[Ticket]:
        """Those whose images are being drawn."""
        return [row.ticket for batch in self._running for row in batch.rows]

    def seconds(self, n_draft: int, now: float, images: int = 1) -> float:
        """Expected from now to the answer of a request that comes now, if all is drawn with N."""
        size = self._usual
        left = [max(0.0, one.began + self.times.seconds(one.n_draft, len(one.rows)) - now) for one in self._running]
        begin = min(left) if len(left) == self.devices else 0.0
        before, last = divmod(self.waiting + images - 1, size)
        return begin + (before * self.times.seconds(n_draft, size)) / self.devices + self.times.seconds(n_draft, last + 1)

    def rate(self, n_draft: int) -> float:
        """Images a second that can be drawn."""
        seconds = self.times.seconds(n_draft, self.size)
        return self.devices * self.size / seconds if seconds else math.inf

    def bearable(self, allowed: tuple[int, ...]) -> int:
        """The largest of these N, falling, that the load bears."""
        most = self._policy.n_draft(self._level)
        return next((n for n in allowed if n <= most), allowed[-1])

    def _alike(self, most: int) -> tuple[Kind, list[Ticket], int]:
        """The kind of the oldest ticket, the next ones of it, and how many images they have, up to ``most``."""
        kind: Kind | None = None
        found: list[Ticket] = []
        images = 0
        for ticket in self._queue:
            own = ticket.kind(self._choice(ticket), self._manifest)
            kind = kind or own
            if own == kind:
                found.append(ticket)
                images = min(most, images + ticket.images - ticket.taken)
            if images == most:
                break
        return kind or own, found, images

    def look(self, now: float) -> None:
        """Let the policy see the queue."""
        while self._arrivals and self._arrivals[0][0] < now - WINDOW:
            self._arrived -= self._arrivals.popleft()[1]
        arrivals = self._arrived / WINDOW
        self._level = self._policy.step(self._level, lambda n: self.seconds(n, now), self.rate, arrivals, now)

    def _choice(self, ticket: Ticket) -> int:
        """N of a ticket: what it was begun with, or the largest that it bears and the load does."""
        if ticket.started is not None:
            return ticket.run.n_draft
        return self.bearable(ticket.allowed)

    def _drop_late(self, now: float) -> None:
        """Put aside those that would be late, before work is lost on them."""
        batch = min(self.waiting, self._usual)
        spare = SPARE if self.waiting > 2 * batch else 1.0  # drawn in vain, it would take the place of one in time
        slowest = now + spare * max(self.times.seconds(n_draft, batch) for n_draft in self._manifest.serves)
        for ticket in [one for one in self._queue if one.deadline < slowest]:  # few, of a queue that may be long
            if now + spare * self.times.seconds(self._choice(ticket), batch) > ticket.deadline:
                self.discard(ticket)
                self._late.append(ticket)

    def pop_late(self) -> list[Ticket]:
        """Those that were dropped because they would be late; they want to be told."""
        late, self._late = self._late, []
        return late
