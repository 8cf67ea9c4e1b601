"""Schedules and mixes, without any service."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from trt_var import UsageError
from trt_var.bundle.opening import Bundle
from trt_var.decoding.sampling import Sampling
from trt_var.serving.load import rubbish
from trt_var.serving.load.mix import Mix, settings
from trt_var.serving.load.plan import Arrivals, plans
from trt_var.serving.load.service import Model

MODEL = Model("digits", "trt-var", 10, 6, (1, 2, 3, 4, 6, 8), max_images=10, seconds={"4": 0.02})


def test_poisson() -> None:
    (plan,) = plans(Arrivals((1000.0,), 20.0, seed=3), Mix(), MODEL)
    intervals = np.diff(plan.arrivals)
    assert (intervals >= 0).all() and plan.arrivals[0] >= 0 and plan.arrivals[-1] < 20
    assert abs(len(plan.arrivals) - 20_000) < 4 * math.sqrt(20_000)
    assert abs(intervals.mean() * 1000 - 1) < 0.03 and abs(intervals.std() * 1000 - 1) < 0.03, "exponential"
    assert plan.window == 20
    seconds = np.histogram(plan.arrivals, 20, (0, 20))[0]
    assert abs(seconds.var() / seconds.mean() - 1) < 0.9, "counts of a second vary as Poisson's do"


@pytest.mark.parametrize(("shape", "variation"), [(0.25, 2.0), (4.0, 0.5), (100.0, 0.1)])
def test_bursts(shape: float, variation: float) -> None:
    (plan,) = plans(Arrivals((500.0,), None, 20_000, shape), Mix(), MODEL)
    intervals = np.diff(plan.arrivals)
    assert len(plan.requests) == 20_000 and plan.window == plan.arrivals[-1]
    assert abs(intervals.mean() * 500 - 1) < 0.06
    assert abs(intervals.std() / intervals.mean() / variation - 1) < 0.06


def test_same_seed_same_load_and_rates_differ() -> None:
    arrivals, mix = Arrivals((50.0, 50.0), 4.0, seed=2**64 - 10_000), Mix(stream=0.3, rubbish=0.1, disconnect=0.2)
    first, again = plans(arrivals, mix, MODEL), plans(arrivals, mix, MODEL)
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.arrivals, other.arrivals) and one.requests == other.requests
    assert not np.array_equal(first[0].arrivals[:50], first[1].arrivals[:50])
    seeds = [request.seed for plan in first for request in plan.requests if not request.rubbish]
    assert seeds == list(range(2**64 - 10_000, 2**64 - 10_000 + len(seeds))), "consecutive across rates"


def test_a_rate_so_low_that_nothing_comes_offers_one() -> None:
    (plan,) = plans(Arrivals((0.001,), 0.01), Mix(), MODEL)
    assert plan.arrivals.tolist() == [0.0]


def test_mix() -> None:
    mix = Mix(
        n_draft=((4, 3.0), ("auto", 1.0), ((2, 5), 2.0)),
        sampling=({"cfg": 0}, {"preset": "code", "temperature": [1.0] * 6}),
        images=((1, 1.0), (3, 1.0)),
        stream=0.25,
        partial_images=3,
        disconnect=0.1,
        rubbish=0.05,
    )
    (plan,) = plans(Arrivals((1.0,), None, 20_000), mix, MODEL)
    valid = [request for request in plan.requests if not request.rubbish]
    bodies = [json.loads(request.body) for request in valid]

    def share(found: list[Any]) -> float:
        return len(found) / len(valid)

    assert abs(1 - len(valid) / 20_000 - 0.05) < 0.01
    assert {request.rubbish for request in plan.requests} == {"", *rubbish.NAMES}
    assert all(request.body == rubbish.KINDS[request.rubbish] for request in plan.requests if request.rubbish)
    by_class = Counter(body["prompt"] for body in bodies)
    assert sorted(by_class) == [str(i) for i in range(10)] and max(by_class.values()) < 1.2 * min(by_class.values())
    drafted = Counter(json.dumps(body["n_draft"]) for body in bodies)
    assert {key: round(count / len(valid) * 6) for key, count in drafted.items()} == {
        "4": 3,
        '"auto"': 1,
        '{"min": 2, "max": 5}': 2,
    }
    assert abs(share([body for body in bodies if body.get("cfg") == 0]) - 0.5) < 0.02
    assert all((body.get("preset") == "code") == (len(body.get("temperature", [])) == 6) for body in bodies)
    streams = [body for body in bodies if body.get("stream")]
    assert abs(share(streams) - 0.25) < 0.02 and all(body["n"] == 1 and body["partial_images"] == 3 for body in streams)
    leaving = [request.leaves for request in valid if request.leaves is not None]
    assert abs(share(leaving) - 0.1) < 0.01 and min(leaving) >= 0 and 0.03 < max(leaving) <= 0.04, "twice an image"
    seed = 0
    for request, body in zip(valid, bodies, strict=True):
        assert (body["seed"], body["n"], body["model"]) == (seed, request.images, "digits")
        assert (request.seed, request.label, request.stream) == (seed, int(body["prompt"]), body.get("stream", False))
        seed += request.images


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rates": ()}, "rates are none"),
        ({"rates": (1e5 + 1,)}, "rates are 100001; expected 1 to 100, each 0.001 to 100000 requests a second"),
        ({"rates": (math.nan,)}, "rates are nan"),
        ({"rates": (1.0,) * 101}, "rates are 1, 1"),
        ({"duration": 0.0}, "duration is 0"),
        ({"duration": math.nan}, "duration is nan"),
        ({"duration": None}, "a duration or a number of requests"),
        ({"count": 3}, "not both"),
        ({"duration": None, "count": 0}, "requests are 0"),
        ({"duration": None, "count": 1_000_001}, "requests are 1000001; expected 1 to 1000000"),
        ({"rates": (1e5,), "duration": 11.0}, "1100000 requests in all"),
        ({"burstiness": 0.0}, "burstiness is 0"),
        ({"burstiness": math.inf}, "burstiness is inf"),
        ({"seed": -1}, "-1 does not; the same seed offers the same requests again"),
        ({"seed": 2**64}, "18446744073709551616 does not"),
    ],
)
def test_bad_arrivals(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        Arrivals(**values)


def test_seeds_that_leave_theirs() -> None:
    with pytest.raises(UsageError, match="does not"):
        plans(Arrivals(seed=2**64 - 5), Mix(), MODEL)


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        (Mix(stream=1.1), "stream is 1.1; expected a share"),
        (Mix(rubbish=math.nan), "rubbish is nan"),
        (Mix(disconnect=-0.1), "disconnect is -0.1"),
        (Mix(images=((11, 1.0),)), "images a request are 11; digits takes 1 to 10"),
        (Mix(partial_images=6), "partial images are 6; digits gives 0 to 5"),
        (Mix(sampling=({"colour": 1},)), "sampling has colour"),
        (Mix(sampling=({"cfg": "much"},)), "sampling is not settings"),
        (Mix(sampling=({"preset": "best"},)), "preset is 'best'; expected default, code"),
        (Mix(sampling=({"preset": 3},)), "preset is '3'"),
        (Mix(sampling=({},) * 65), "sampling has 65 values"),
        (Mix(n_draft=()), "n_draft has 0 values"),
        (Mix(output_format="gif"), "format is 'gif'"),
    ],
)
def test_bad_mix(mix: Mix, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plans(Arrivals(), mix, MODEL)


def test_settings_are_those_of_the_api() -> None:
    manifest = Bundle.open("digits").manifest
    assert settings({}, manifest) == Sampling(top_k=min(600, manifest.vocabulary))
    found = settings({"preset": "code", "cfg": 0, "scales": 5}, manifest)
    assert (found.cfg, found.scales, found.temperature) == (0, 5, (1.1, 1.1, 1.1, 1.0, 1.0, 1.0))
