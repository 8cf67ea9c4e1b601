"""How many devices a load needs: the service's own planner and policy, simulated with a device's batch times."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trt_var.bundle.manifest import Manifest
from trt_var.errors import UsageError
from trt_var.serving.batching.policy import Policy
from trt_var.serving.batching.times import Times
from trt_var.serving.simulation import Answer, Loss, simulate

MOST_DEVICES = 100_000
SIMULATED = 32  # devices at most; of more, so many get their share of the load, and are no busier than all are
LEAST_REQUESTS, MOST_REQUESTS, MOST_SHAKEN = 2000, 10_000, 60_000  # that are simulated, and of a failure
SECONDS = 30.0  # that are simulated, in so far
FINE = 1.03  # times the fewest devices that may be too many
HEADROOM = 0.9  # share of what devices can draw that they are given: no load is as even as a simulated one
LEAST_WAITING = 256  # images that may wait at a device, as by default
SPARES = 8  # devices more that are tried
BACK = 60.0  # seconds until a lost device is replaced, of which so many are looked at as there are requests for
LOW = 0.25  # of the day's peak that the quietest hour has


@dataclass(frozen=True)
class Demand:
    """What has to be served.

    Attributes:
        rate: requests for one image a second.
        quantile, seconds: the share of them that is answered within so many seconds of its arrival.
    """

    rate: float
    quantile: float
    seconds: float


@dataclass(frozen=True)
class Fleet:
    """Devices that meet a demand, and how.

    Attributes:
        devices: a queue each.
        levels: N, falling; load chooses where there are several.
        batch: images drawn together at most.
        latency: seconds by quantile: 0.5, 0.95, 0.99; infinite where that many are refused.
        mean_n: of what was drawn.
        busy: share of the time that devices draw.
    """

    devices: int
    levels: tuple[int, ...]
    batch: int
    latency: dict[float, float]
    mean_n: float
    busy: float


@dataclass(frozen=True)
class Failure:
    """What the loss of one device costs, until another takes its place.

    Attributes:
        resent: requests that had to be drawn again elsewhere, of the whole fleet.
        late: share, of those that came meanwhile, that missed the objective.
        spare: devices more with which the objective holds all the same; None if more than are tried.
    """

    resent: int
    late: float
    spare: int | None


def least(
    manifest: Manifest, times: Times, demand: Demand, levels: Sequence[int], sizes: Sequence[int] | None = None
) -> Fleet:
    """The fewest devices that meet a demand, with the batch, of ``sizes``, that needs fewest, and is least busy with them.

    Raises:
        UsageError: no number of devices does, since a single image takes longer, or more than are planned with.
    """
    policy = Policy(tuple(levels), demand.seconds)
    found: list[Fleet] = []
    for size in sorted(times.measured()[policy.levels[-1]]) if sizes is None else sizes:
        if times.seconds(policy.levels[-1], size) > demand.seconds:
            break
        fewest = max(1, math.ceil(demand.rate * times.seconds(policy.levels[-1], size) / size / HEADROOM))
        most = min((one.devices for one in found), default=MOST_DEVICES)
        found += _fewest(lambda count, size=size: _fleet(manifest, times, demand, policy, size, count), demand, fewest, most)  # type: ignore[misc]
    if not found:
        quickest = times.seconds(policy.levels[-1], 1)
        raise UsageError(
            f"no fleet of at most {MOST_DEVICES} answers {demand.quantile:.0%} within {demand.seconds:g} s: one image takes "
            f"{quickest:.3g} s with N = {policy.levels[-1]}; allow more time, or a smaller N"
        )
    return min(found, key=lambda one: (one.devices, round(one.busy, 2), one.batch))


def failure(manifest: Manifest, times: Times, demand: Demand, fleet: Fleet) -> Failure:
    """One device is lost under the full load."""
    policy = Policy(fleet.levels, demand.seconds)
    span = max(min(BACK, MOST_SHAKEN / demand.rate), 10 * demand.seconds)
    loss = Loss(min(10.0, span), back=BACK)
    found: list[tuple[int, float]] = []
    for spare in range(SPARES + 1):
        count = fleet.devices + spare
        replicas = min(count, SIMULATED)
        answers = _simulated(manifest, times, demand, policy, fleet.batch, count, loss.at + span, (loss,))
        shaken = [one for one in answers if loss.at - demand.seconds <= one.arrived <= loss.at + span]
        late = float(np.mean([one.seconds > demand.seconds for one in shaken] or [False])) * replicas / count
        found.append((sum(one.sent > 1 for one in answers), late))
        if late <= 1 - demand.quantile:
            return Failure(*found[0], spare)
    return Failure(*found[0], None)


def day(manifest: Manifest, times: Times, demand: Demand, fleet: Fleet) -> list[int]:
    """Devices by the hour, of a day whose load swings from a quarter of the demand to all of it and back."""
    by_rate: dict[float, int] = {}
    hours = []
    for hour in range(24):
        share = round(LOW + (1 - LOW) * (1 - math.cos(2 * math.pi * hour / 24)) / 2, 6)
        if share not in by_rate:
            now = replace(demand, rate=share * demand.rate)
            by_rate[share] = least(manifest, times, now, fleet.levels, (fleet.batch,)).devices
        hours.append(by_rate[share])
    return hours


def _fewest(fleet: Callable[[int], Fleet], demand: Demand, fewest: int, most: int) -> list[Fleet]:
    """The fewest devices that do, one or none: by doubling, then between."""

    def does(one: Fleet) -> bool:
        return one.latency[demand.quantile] <= demand.seconds

    count, below, found = fewest, fewest - 1, None
    while count <= most and found is None:
        tried = fleet(count)
        if does(tried):
            found = tried
        else:
            below, count = count, 2 * count
    while found and found.devices - below > max(1, (FINE - 1) * found.devices):
        tried = fleet((below + found.devices) // 2)
        if does(tried):
            found = tried
        else:
            below = tried.devices
    return [found] if found else []


def _fleet(manifest: Manifest, times: Times, demand: Demand, policy: Policy, size: int, count: int) -> Fleet:
    seconds = max(SECONDS, 10 * demand.seconds)
    answers = _simulated(manifest, times, demand, policy, size, count, seconds, most=MOST_REQUESTS)
    filled = answers[len(answers) // 10 :]  # what comes before queues have filled finds it easy
    waits = [one.seconds for one in filled]
    quantiles = sorted({0.5, 0.95, 0.99, demand.quantile})
    latency = {share: float(np.quantile(waits, share, method="higher")) for share in quantiles}
    mean = float(np.mean([one.n_draft for one in filled if math.isfinite(one.seconds)] or policy.levels[-1]))
    nearest = min(policy.levels, key=lambda n: abs(n - mean))
    busy = demand.rate * times.seconds(nearest, size) / size / count
    return Fleet(count, policy.levels, size, latency, mean, min(busy, 1.0))


def _simulated(
    manifest: Manifest,
    times: Times,
    demand: Demand,
    policy: Policy,
    size: int,
    count: int,
    seconds: float,
    losses: Sequence[Loss] = (),
    most: int = 1 << 30,
) -> list[Answer]:
    """Answers of the devices, or of ``SIMULATED`` of them."""
    replicas = min(count, SIMULATED)
    rate = demand.rate * replicas / count
    number = min(max(LEAST_REQUESTS, math.ceil(rate * seconds)), most)
    gaps = np.random.Generator(np.random.Philox(key=1)).exponential(1 / rate, number)
    arrivals = np.cumsum(gaps).tolist()
    return simulate(
        manifest,
        policy,
        times.seconds,
        size,
        arrivals,
        replicas=replicas,
        losses=losses,
        waiting=max(LEAST_WAITING, math.ceil(1.5 * demand.seconds * demand.rate / count)),
        timeout=10 * demand.seconds,
    )
