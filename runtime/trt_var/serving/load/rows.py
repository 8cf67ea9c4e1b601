"""The numbers of one rate, as reports hold them."""

from __future__ import annotations

import msgspec


class Spread(msgspec.Struct, frozen=True):
    """Of several seconds: percentiles, interpolated linearly."""

    p50: float
    p95: float
    p99: float
    max: float


class Moment(msgspec.Struct, frozen=True):
    """Of the requests that were due in a stretch of time; None where there is none to tell of.

    Attributes:
        at: seconds after the start, the middle.
        offered, served: requests a second.
        p50, p99: of the whole latency, seconds.
        queue: median, seconds.
        n_draft: mean.
    """

    at: float
    offered: float
    served: float
    p50: float | None
    p99: float | None
    queue: float | None
    n_draft: float | None


class Row(msgspec.Struct, frozen=True):
    """One rate. Seconds, and requests or images a second.

    Attributes:
        rate: that was asked for.
        window: seconds in which requests were offered.
        seconds: from the start to the last answer, or the end of the window.
        requests: all that were sent, invalid ones and those that went too.
        offered, offered_images: requests that waited for an answer to a valid body; the numbers below are of these.
        served, images: with a sound answer of status 200.
        in_time, images_in_time: served within the objective, or all served without one.
        goodput, image_goodput: in time, over the window, or until the last of them if that is longer.
        attainment: in time, of those offered.
        images_per_second: served, over ``seconds``.
        whole: from when a request was due to the end of its sound answer.
        first: the same to the end of the first preview, of streams.
        queue: that sound answers say.
        statuses: of HTTP, how many each.
        codes: of errors, how many each.
        n_draft: images by N.
        mean_n: of the images.
        retry_after: answers of status 429 or 503 that say when to come again.
        retry_least, retry_most: seconds that they say.
        unconnected, lost, broken: without a connection, without any answer, with one that broke off; of all valid ones.
        failed: streams of status 200 that end in an error.
        unsound: other answers of status 200 that are not what was asked for.
        problems: of failed, unsound, broken, lost and unconnected ones, how many each.
        left, stayed: clients that went before their answer; that meant to, and had it sooner.
        rubbish, mistaken: invalid requests; those answered otherwise than 4xx.
        mistaken_kinds: what was answered to which of them.
        late_p99, late_max: seconds that the generator sent requests after they were due.
        cpu: processor time of the generator, of one core.
        timeline: by the time when requests were due.
    """

    rate: float
    window: float
    seconds: float
    requests: int
    offered: int
    offered_images: int
    served: int
    images: int
    in_time: int
    images_in_time: int
    goodput: float
    image_goodput: float
    attainment: float
    images_per_second: float
    whole: Spread | None
    first: Spread | None
    queue: Spread | None
    statuses: dict[str, int]
    codes: dict[str, int]
    n_draft: dict[str, int]
    mean_n: float | None
    retry_after: int
    retry_least: float | None
    retry_most: float | None
    unconnected: int
    lost: int
    broken: int
    failed: int
    unsound: int
    problems: dict[str, int]
    left: int
    stayed: int
    rubbish: int
    mistaken: int
    mistaken_kinds: dict[str, int]
    late_p99: float
    late_max: float
    cpu: float
    timeline: list[Moment]
