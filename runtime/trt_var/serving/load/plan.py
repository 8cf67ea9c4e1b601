"""When requests arrive: a schedule that is drawn before the clock starts and owes nothing to the answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trt_var.decoding.numbers import whole
from trt_var.errors import UsageError
from trt_var.requests.seeds import check_range
from trt_var.serving.load.mix import Mix, Request, draw
from trt_var.serving.load.service import Model

MIN_RATE, MAX_RATE = 1e-3, 1e5
MAX_RATES = 100
MAX_REQUESTS = 1_000_000
MAX_DURATION = 86_400.0
MIN_BURSTINESS, MAX_BURSTINESS = 0.01, 100.0


@dataclass(frozen=True)
class Arrivals:
    """How requests come, at one rate after another.

    Attributes:
        rates: requests a second.
        duration: seconds of each rate, or None.
        count: requests of each rate, or None; one of both is given.
        burstiness: the shape of the gamma distribution of intervals: 1 is a Poisson process, less comes in bursts, more
            evenly.
        seed: of the schedule, of the mix, and of the first image; 0 to 2^64 − 1.
    """

    rates: tuple[float, ...] = (10.0,)
    duration: float | None = 10.0
    count: int | None = None
    burstiness: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= len(self.rates) <= MAX_RATES or not all(MIN_RATE <= rate <= MAX_RATE for rate in self.rates):
            told = ", ".join(f"{rate:g}" for rate in self.rates[:8])
            raise UsageError(
                f"rates are {told or 'none'}; expected 1 to {MAX_RATES}, each {MIN_RATE:g} to {MAX_RATE:g} requests a second"
            )
        if (self.duration is None) == (self.count is None):
            raise UsageError("give a duration or a number of requests, not both")
        if self.duration is not None and not 0 < self.duration <= MAX_DURATION:
            raise UsageError(f"duration is {self.duration:g}; expected more than 0, and at most {MAX_DURATION:g} seconds")
        if self.count is not None and not 1 <= whole(self.count, "requests") <= MAX_REQUESTS:
            raise UsageError(f"requests are {self.count}; expected 1 to {MAX_REQUESTS}")
        if not MIN_BURSTINESS <= self.burstiness <= MAX_BURSTINESS:
            raise UsageError(f"burstiness is {self.burstiness:g}; expected {MIN_BURSTINESS:g} to {MAX_BURSTINESS:g}")
        check_range(self.seed, self.seed, "the same seed offers the same requests again")
        if self.expected > MAX_REQUESTS:
            raise UsageError(f"{self.expected:.0f} requests in all; expected at most {MAX_REQUESTS}")

    @property
    def expected(self) -> float:
        """Requests of all rates together, on average."""
        return sum((rate * self.duration if self.duration else self.count or 0) for rate in self.rates)


@dataclass(frozen=True)
class Plan:
    """What is offered at one rate.

    Attributes:
        rate: requests a second.
        window: seconds that the offering takes: the duration, or until the last of a number of requests.
        arrivals: seconds after the start, rising [n].
        requests: what arrives then.
    """

    rate: float
    window: float
    arrivals: NDArray[np.float64]
    requests: list[Request]


def plans(arrivals: Arrivals, mix: Mix, model: Model) -> list[Plan]:
    """One plan a rate; schedule and mix of each come from streams of their own of the seed.

    Raises:
        UsageError: a value out of range, or seeds that leave theirs.
    """
    mix.check(model)
    most = int(arrivals.expected * 2 + 1000) * max(count for count, _ in mix.images)
    check_range(arrivals.seed, arrivals.seed + most, "the same seed offers the same requests again")
    found, seed = [], arrivals.seed
    for i, rate in enumerate(arrivals.rates):
        times = schedule(arrivals, rate, _generator(arrivals.seed, 2 * i))
        requests = draw(mix, model, len(times), seed, _generator(arrivals.seed, 2 * i + 1))
        seed += sum(request.images for request in requests)
        window = arrivals.duration or float(times[-1])
        found.append(Plan(rate, window, times, requests))
    return found


def schedule(arrivals: Arrivals, rate: float, generator: np.random.Generator) -> NDArray[np.float64]:
    """Times of arrival at a rate, in seconds from 0 [n]; of a duration, as many as fall into it, one at least."""
    shape = arrivals.burstiness
    if arrivals.count is not None:
        return np.cumsum(generator.gamma(shape, 1 / (rate * shape), arrivals.count))
    end, pieces, last = arrivals.duration or 0.0, [], 0.0
    while last < end:
        piece = last + np.cumsum(generator.gamma(shape, 1 / (rate * shape), int(rate * end) + 64))
        pieces.append(piece)
        last = float(piece[-1])
    times = np.concatenate(pieces)
    inside = times[times < end]
    return inside if len(inside) else np.array([0.0])


def _generator(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=seed).jumped(stream))
