"""What the policy does under a load, on a clock of its own."""

from __future__ import annotations

import numpy as np
import pytest

from trt_var import Pipeline
from trt_var.serving.batching.policy import Policy
from trt_var.serving.simulation import Answer, simulate

COSTS = {6: 0.25, 5: 0.19, 4: 0.14, 3: 0.125, 2: 0.11}  # seconds of 32 images


def cost(n_draft: int, size: int) -> float:
    return float(np.interp(size, [1, 32], [0.012, COSTS[n_draft]]))


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.load("digits", "onnxruntime")


def run(pipeline: Pipeline, levels: tuple[int, ...], load: float, seconds: float = 30.0, **options: float) -> list[Answer]:
    """Poisson arrivals at so many times what N = 6 can draw."""
    rate = load * 32 / cost(6, 32)
    gaps = np.random.Generator(np.random.Philox(key=7)).exponential(1 / rate, int(rate * seconds))
    return simulate(pipeline.manifest, Policy(levels, 1.0), cost, 32, np.cumsum(gaps).tolist(), **options)  # type: ignore[arg-type]


def met(answers: list[Answer]) -> float:
    return float(np.mean([answer.seconds <= 1.0 for answer in answers]))


def test_a_fixed_n_fails_under_more_than_it_bears_and_load_chosen_n_does_not(pipeline: Pipeline) -> None:
    assert met(run(pipeline, (6,), 1.4)) < 0.2
    answers = run(pipeline, (6, 5, 4, 3, 2), 1.4)
    assert met(answers) > 0.97
    assert 3.5 < np.mean([answer.n_draft for answer in answers]) < 6


def test_with_time_to_spare_nothing_is_lowered(pipeline: Pipeline) -> None:
    answers = run(pipeline, (6, 4, 2), 0.5)
    assert {answer.n_draft for answer in answers} == {6}
    assert met(answers) == 1.0


def test_n_comes_back_after_a_burst(pipeline: Pipeline) -> None:
    burst, calm = np.full(300, 1.0), np.arange(5.0, 25.0, 0.1)
    answers = simulate(pipeline.manifest, Policy((6, 4, 2), 1.0), cost, 32, [*burst, *calm])
    drawn = [answer.n_draft for answer in answers]
    assert min(drawn[:300]) == 2
    assert drawn[-50:] == [6] * 50


def test_what_cannot_be_done_in_time_is_refused_and_all_else_is_in_time(pipeline: Pipeline) -> None:
    answers = run(pipeline, (6,), 2.0, timeout=1.0)
    done = [answer for answer in answers if np.isfinite(answer.seconds)]
    assert all(answer.seconds <= 1.05 for answer in done)
    span = answers[-1].arrived
    assert len(done) / span > 0.9 * 32 / cost(6, 32)


def test_a_request_goes_to_the_emptier_of_two_different_replicas(pipeline: Pipeline) -> None:
    pairs = np.repeat(np.arange(0.0, 20.0, 0.5), 2)  # at once, and answered before the next pair
    answers = simulate(pipeline.manifest, Policy((6,), 1.0), cost, 32, pairs.tolist(), replicas=2)
    seconds = [answer.seconds for answer in answers]
    assert len(seconds) == len(pairs) and max(seconds) == pytest.approx(cost(6, 1)), "no one waits, nor shares a batch"
