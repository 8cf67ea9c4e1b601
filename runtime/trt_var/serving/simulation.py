"""The planner on a clock of its own: what a service, or a fleet of them, would do under a load, in no time."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from trt_var.bundle.manifest import Manifest
from trt_var.decoding.sampling import Sampling
from trt_var.errors import OverloadedError
from trt_var.requests.checking import Run
from trt_var.serving.batching.planning import Batch, Fit, Planner
from trt_var.serving.batching.policy import Policy
from trt_var.serving.batching.tickets import Ticket
from trt_var.serving.batching.times import Times

Cost = Callable[[int, int], float]


@dataclass(frozen=True)
class Answer:
    """One simulated request of one image.

    Attributes:
        arrived: seconds from the beginning.
        seconds: from arrival to answer; infinite if it was refused.
        n_draft: that it was drawn with.
        sent: how often it was given to a replica: more than once where one was lost.
    """

    arrived: float
    seconds: float
    n_draft: int
    sent: int = 1


@dataclass(frozen=True)
class Loss:
    """A replica that ends without notice.

    Attributes:
        at: seconds from the beginning.
        replica: its number, from 0.
        noticed: seconds until what it had is given to others; until then it is also given what comes.
        back: seconds until another serves in its place; infinite for never.
    """

    at: float
    replica: int = 0
    noticed: float = 1.0
    back: float = math.inf


def simulate(
    manifest: Manifest,
    policy: Policy,
    cost: Cost,
    size: int,
    arrivals: Sequence[float],
    *,
    devices: int = 1,
    replicas: int = 1,
    losses: Sequence[Loss] = (),
    waiting: int = 1 << 30,
    timeout: float = math.inf,
    overhead: float = 0.0,
    fit: Fit = lambda images: images,
    seed: int = 0,
) -> list[Answer]:
    """Answers to requests for one image each that come at given seconds, rising.

    Args:
        manifest: of a bundle.
        policy: which N the load bears; its levels are what every request allows.
        cost: seconds of a batch, by N and size, while all devices work.
        size: images drawn together at most.
        arrivals: seconds.
        devices: that share the queue of a replica.
        replicas: with a queue each; a request goes to the emptier of two that are drawn at random, as Ray Serve does.
        losses: of replicas.
        waiting: images that may wait at a replica.
        timeout: seconds after which a request is given up.
        overhead: seconds that every answer takes besides.
        fit: see ``Planner``.
        seed: of the two that are drawn.
    """
    times = {n_draft: {batch: cost(n_draft, batch) for batch in (1, size)} for n_draft in policy.levels}

    def planner() -> Planner:
        return Planner(manifest, policy, Times.of(times), size, waiting, devices, fit)

    fleet = _Fleet(planner, cost, replicas, overhead, np.random.Generator(np.random.Philox(key=seed)))
    for at in arrivals:
        fleet.plan(at, lambda now: fleet.come(_Request(now, now + timeout, policy.levels), now))
    for loss in losses:
        fleet.plan(loss.at, lambda now, loss=loss: fleet.lose(loss, now))  # type: ignore[misc]
    return fleet.run()


@dataclass(eq=False)
class _Request:
    """One request, wherever it waits."""

    arrived: float
    deadline: float
    levels: tuple[int, ...]
    sent: int = 0

    def ticket(self) -> Ticket:
        self.sent += 1
        return Ticket(Run((0,), (0,), self.levels[0], Sampling()), self.levels, self.deadline)


class _Replica:
    """A queue, and batches that are drawn."""

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        self.running: set[Batch] = set()
        self.requests: dict[Ticket, _Request] = {}
        self.alive = self.known = True  # whether it draws, and whether others think so

    @property
    def load(self) -> int:
        """Images that it has."""
        return len(self.requests)


class _Fleet:
    """Replicas, and what happens to them, in the order of time."""

    def __init__(
        self, planner: Callable[[], Planner], cost: Cost, replicas: int, overhead: float, chance: np.random.Generator
    ) -> None:
        self._planner, self._cost, self._overhead, self._chance = planner, cost, overhead, chance
        self._replicas = [_Replica(planner()) for _ in range(replicas)]
        self._events: list[tuple[float, int, Callable[[float], object]]] = []
        self._order = itertools.count()
        self._answers: list[Answer] = []

    def plan(self, at: float, happens: Callable[[float], object]) -> None:
        """Something happens at a time."""
        heapq.heappush(self._events, (at, next(self._order), happens))

    def run(self) -> list[Answer]:
        """Everything that was planned, and what comes of it."""
        while self._events:
            at, _, happens = heapq.heappop(self._events)
            happens(at)
        return sorted(self._answers, key=lambda answer: answer.arrived)

    def come(self, request: _Request, now: float) -> None:
        """A request, the first time or again."""
        known = [replica for replica in self._replicas if replica.known]
        if not known:
            self._refuse(request)
            return
        replica = min(self._two(known), key=lambda one: one.load)
        ticket = request.ticket()
        try:
            replica.planner.admit(ticket, now)
        except OverloadedError:
            self._refuse(request)
            return
        replica.requests[ticket] = request
        self._draw(replica, now)

    def _two(self, known: list[_Replica]) -> list[_Replica]:
        """Different ones, in an order that is chance."""
        if len(known) == 1:
            return known
        first, second = int(self._chance.integers(len(known))), int(self._chance.integers(len(known) - 1))
        return [known[first], known[second + (second >= first)]]

    def lose(self, loss: Loss, now: float) -> None:
        """A replica ends; what it has is lost with it until somebody notices."""
        replica = self._replicas[loss.replica]
        replica.alive = False

        def notice(now: float) -> None:
            replica.known = False
            for request in list(replica.requests.values()):
                self.come(request, now)

        def come_back(now: float) -> None:
            self._replicas[loss.replica] = _Replica(self._planner())

        self.plan(now + loss.noticed, notice)
        if math.isfinite(loss.back):
            self.plan(now + max(loss.back, loss.noticed), come_back)

    def _draw(self, replica: _Replica, now: float) -> None:
        """Whatever can be begun."""
        while replica.alive and len(replica.running) < replica.planner.devices:
            batch = replica.planner.take(now)
            for late in replica.planner.pop_late():
                self._refuse(replica.requests.pop(late))
            if batch is None:
                return
            replica.running.add(batch)
            self.plan(now + self._cost(batch.n_draft, len(batch.rows)), lambda now, one=batch: self._end(replica, one, now))  # type: ignore[misc]

    def _end(self, replica: _Replica, batch: Batch, now: float) -> None:
        if not replica.alive:
            return
        replica.running.discard(batch)
        replica.planner.finished(batch, now)
        for row in batch.rows:
            request = replica.requests.pop(row.ticket)
            seconds = now - request.arrived + self._overhead
            self._answers.append(Answer(request.arrived, seconds, batch.n_draft, request.sent))
        self._draw(replica, now)

    def _refuse(self, request: _Request) -> None:
        self._answers.append(Answer(request.arrived, math.inf, request.levels[-1], request.sent))
