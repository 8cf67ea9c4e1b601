"""The planner on a clock of its own: what a policy would do under a load, in no time."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trt_var.bundle.manifest import Manifest
from trt_var.decoding.sampling import Sampling
from trt_var.errors import OverloadedError
from trt_var.requests.checking import Run
from trt_var.serving.batching.planning import Batch, Planner
from trt_var.serving.batching.policy import Policy
from trt_var.serving.batching.tickets import Ticket
from trt_var.serving.batching.times import Times


@dataclass(frozen=True)
class Answer:
    """One simulated request of one image.

    Attributes:
        arrived: seconds from the beginning.
        seconds: from arrival to answer; infinite if it was refused.
        n_draft: that it was drawn with.
    """

    arrived: float
    seconds: float
    n_draft: int


def simulate(
    manifest: Manifest,
    policy: Policy,
    cost: Callable[[int, int], float],
    size: int,
    arrivals: Sequence[float],
    *,
    devices: int = 1,
    waiting: int = 1 << 30,
    timeout: float = math.inf,
    overhead: float = 0.0,
) -> list[Answer]:
    """Answers to requests for one image each that come at given seconds, rising.

    Args:
        manifest: of a bundle.
        policy: which N the load bears; its levels are what every request allows.
        cost: seconds of a batch, by N and size, while all devices work.
        size: images drawn together at most.
        arrivals: seconds.
        devices: that share the queue.
        waiting: images that may wait.
        timeout: seconds after which a request is given up.
        overhead: seconds that every answer takes besides.
    """
    times = Times()
    for n_draft in policy.levels:
        for batch in sorted({1, size}):
            times.add(n_draft, batch, cost(n_draft, batch))
    planner = Planner(manifest, policy, times, size, waiting, devices)
    run = Run((0,), (0,), policy.levels[0], Sampling())
    answers: list[Answer] = []
    running: list[tuple[float, int, Batch]] = []
    place = 0
    while place < len(arrivals) or running:
        if place < len(arrivals) and (not running or arrivals[place] <= running[0][0]):
            now = arrivals[place]
            place += 1
            _admit(planner, Ticket(run, policy.levels, now + timeout), now, answers)
        else:
            now, _, ended = heapq.heappop(running)
            planner.finished(ended, now)
            answers += [Answer(row.ticket.arrived, now - row.ticket.arrived + overhead, ended.n_draft) for row in ended.rows]
        while len(running) < devices and (taken := planner.take(now)) is not None:
            heapq.heappush(running, (now + cost(taken.n_draft, len(taken.rows)), id(taken), taken))
        answers += [Answer(ticket.arrived, math.inf, ticket.allowed[-1]) for ticket in planner.pop_late()]
    return sorted(answers, key=lambda answer: answer.arrived)


def _admit(planner: Planner, ticket: Ticket, now: float, answers: list[Answer]) -> None:
    try:
        planner.admit(ticket, now)
    except OverloadedError:
        answers.append(Answer(now, math.inf, ticket.allowed[-1]))
