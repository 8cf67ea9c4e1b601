"""The planner on a clock of its own: what a policy would do under a load, in no time."""

from __future__ import annotations

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
    waiting: int = 1 << 30,
    timeout: float = math.inf,
    overhead: float = 0.0,
) -> list[Answer]:
    """Answers to requests for one image each that come at given seconds, rising, on one device.

    Args:
        manifest: of a bundle.
        policy: which N the load bears; its levels are what every request allows.
        cost: seconds of a batch, by N and size.
        size: images drawn together at most.
        arrivals: seconds.
        waiting: images that may wait.
        timeout: seconds after which a request is given up.
        overhead: seconds that every answer takes besides.
    """
    times = Times()
    for n_draft in policy.levels:
        for batch in sorted({1, size}):
            times.add(n_draft, batch, cost(n_draft, batch))
    planner = Planner(manifest, policy, times, size, waiting)
    run = Run((0,), (0,), policy.levels[0], Sampling())
    answers: list[Answer] = []
    running: Batch | None = None
    place, now, ends = 0, 0.0, math.inf
    while place < len(arrivals) or running is not None:
        if place < len(arrivals) and arrivals[place] <= ends:
            now = arrivals[place]
            place += 1
            _admit(planner, Ticket(run, policy.levels, now + timeout), now, answers)
        elif running is not None:
            now = ends
            planner.finished(running, now)
            answers += [
                Answer(row.ticket.arrived, now - row.ticket.arrived + overhead, running.n_draft) for row in running.rows
            ]
            running, ends = None, math.inf
        if running is None:
            running = planner.take(now)
            late = [Answer(ticket.arrived, math.inf, ticket.allowed[-1]) for ticket in planner.pop_late()]
            answers += late
            ends = now + cost(running.n_draft, len(running.rows)) if running else math.inf
    return sorted(answers, key=lambda answer: answer.arrived)


def _admit(planner: Planner, ticket: Ticket, now: float, answers: list[Answer]) -> None:
    try:
        planner.admit(ticket, now)
    except OverloadedError:
        answers.append(Answer(now, math.inf, ticket.allowed[-1]))
