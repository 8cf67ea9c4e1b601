"""N falls at once and rises slowly."""

from __future__ import annotations

from collections.abc import Callable

from trt_var.serving.batching.policy import Level, Policy

POLICY = Policy((6, 4, 2), target=1.0, margin=0.7, calm=0.4, spare=0.95, hold=1.0)
RATES = {6: 10.0, 4: 20.0, 2: 40.0}


def waits(queue: float) -> Callable[[int], float]:
    return lambda n: queue / RATES[n]


def step(level: Level, queue: float, arrivals: float = 5.0, now: float = 0.0) -> Level:
    return POLICY.step(level, waits(queue), lambda n: RATES[n], arrivals, now)


def test_n_falls_as_far_as_it_must() -> None:
    assert step(Level(), 6.9) == Level()
    assert step(Level(), 8.0) == Level(1)
    assert step(Level(), 20.0) == Level(2)
    assert step(Level(), 1e6) == Level(2)


def test_n_rises_by_one_step_once_it_was_calm_for_long_enough() -> None:
    waiting = step(Level(2), 1.0, now=10.0)
    assert waiting == Level(2, 10.0)
    assert step(waiting, 1.0, now=10.9) == waiting
    assert step(waiting, 1.0, now=11.0) == Level(1)


def test_what_disturbs_the_calm_begins_it_anew() -> None:
    waiting = Level(1, 10.0)
    assert step(waiting, 5.0, now=10.5) == Level(1)  # 0.5 s at N = 6, more than the calm share of the target
    assert step(waiting, 1.0, arrivals=9.6, now=10.5) == Level(1)  # more than a higher N could draw
    assert step(waiting, 1.0, arrivals=9.4, now=10.5) == waiting


def test_one_level_is_kept() -> None:
    fixed = Policy((4,), 1.0)
    assert fixed.step(Level(), lambda _: 1e9, lambda _: 1.0, 1e9, 0.0) == Level()
    assert fixed.n_draft(Level()) == 4
