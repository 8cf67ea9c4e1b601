"""The queue: its order, its bounds, what is drawn together and with which N."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from trt_var import Pipeline, Sampling
from trt_var.errors import OverloadedError
from trt_var.requests.checking import Run
from trt_var.serving.batching.planning import Fit, Planner
from trt_var.serving.batching.policy import Policy
from trt_var.serving.batching.tickets import Ticket
from trt_var.serving.batching.times import Times


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    with Pipeline.load("digits", "onnxruntime") as found:
        yield found


def planner(
    pipeline: Pipeline,
    levels: tuple[int, ...] = (4,),
    size: int = 4,
    most: int = 16,
    target: float = 1.0,
    fit: Fit = lambda images: images,
) -> Planner:
    times = Times()
    for n in range(7):
        times.add(n, 1, 0.1 * (n + 1))
        times.add(n, size, 0.2 * (n + 1))
    return Planner(pipeline.manifest, Policy(levels, target), times, size, most, fit=fit)


def ticket(
    images: int = 1,
    n: tuple[int, ...] = (4,),
    deadline: float = math.inf,
    previews: int = 0,
    sampling: Sampling | None = None,
) -> Ticket:
    run = Run((3,) * images, tuple(range(images)), n[0], sampling or Sampling(top_k=256))
    return Ticket(run, n, deadline, previews=frozenset(range(previews)))


def test_batches_take_the_oldest_and_those_like_it(pipeline: Pipeline) -> None:
    plan = planner(pipeline)
    tickets = [
        ticket(),
        ticket(n=(2,)),
        ticket(),
        ticket(n=(2,)),
        ticket(sampling=Sampling(cfg=3, top_k=5, temperature=0.5)),
    ]
    for one in tickets:
        plan.admit(one, 0.0)
    first, second = plan.take(0.0), plan.take(0.0)
    assert first and second
    assert [row.ticket for row in first.rows] == [tickets[0], tickets[2], tickets[4]]
    assert [row.ticket for row in second.rows] == [tickets[1], tickets[3]]
    assert (first.n_draft, second.n_draft, plan.waiting, plan.running) == (4, 2, 0, 5)
    assert plan.take(0.0) is None


def test_unguided_smooth_and_shorter_images_go_apart(pipeline: Pipeline) -> None:
    plan = planner(pipeline)
    kinds = [Sampling(top_k=256), Sampling(cfg=0, top_k=256), Sampling(more_smooth=True, top_k=256), Sampling(scales=3)]
    for kind in kinds:
        plan.admit(ticket(sampling=kind), 0.0)
    assert [len(batch.rows) for batch in iter(lambda: plan.take(0.0), None)] == [1, 1, 1, 1]


def test_batches_are_of_sizes_that_are_ready(pipeline: Pipeline) -> None:
    plan = planner(pipeline, size=32, most=64, fit=lambda images: images if images <= 8 else 1 << (images.bit_length() - 1))
    for one in (ticket(13), ticket(n=(2,)), ticket(9)):
        plan.admit(one, 0.0)
    taken = [(batch.n_draft, len(batch.rows)) for batch in iter(lambda: plan.take(0.0), None)]
    assert taken == [(4, 16), (2, 1), (4, 6)]


def test_a_request_may_lie_across_batches(pipeline: Pipeline) -> None:
    plan = planner(pipeline)
    large, small = ticket(6), ticket(2)
    plan.admit(large, 0.0)
    plan.admit(small, 0.0)
    taken = [[(row.ticket, row.index) for row in batch.rows] for batch in iter(lambda: plan.take(0.0), None)]
    assert taken == [[(large, i) for i in range(4)], [(large, 4), (large, 5), (small, 0), (small, 1)]]


def test_those_that_are_shown_lie_in_front(pipeline: Pipeline) -> None:
    plan = planner(pipeline)
    tickets = [ticket(), ticket(previews=3), ticket(), ticket(previews=2)]
    for one in tickets:
        plan.admit(one, 0.0)
    batch = plan.take(0.0)
    assert batch and [row.ticket for row in batch.rows] == [tickets[1], tickets[3], tickets[0], tickets[2]]


def test_what_finds_no_room_is_told_when_there_will_be(pipeline: Pipeline) -> None:
    plan = planner(pipeline)
    for _ in range(16):
        plan.admit(ticket(), 0.0)
    with pytest.raises(OverloadedError, match="16 images wait and 16 may; 1 more find no room") as refused:
        plan.admit(ticket(), 0.0)
    assert refused.value.reason == "full"
    assert refused.value.retry_after == pytest.approx(4 * 1.0 + 0.5)  # four batches of N = 4, and its own


def test_what_would_be_late_is_refused_at_once(pipeline: Pipeline) -> None:
    plan = planner(pipeline)
    for _ in range(8):
        plan.admit(ticket(), 0.0)
    with pytest.raises(OverloadedError, match=r"an answer would take about 2.5 s, .* gives up after 2 s") as refused:
        plan.admit(ticket(deadline=2.0), 0.0)
    assert refused.value.reason == "deadline"
    plan.admit(ticket(deadline=3.0), 0.0)
    assert plan.waiting == 9


def test_no_work_is_lost_on_those_who_are_late(pipeline: Pipeline) -> None:
    plan = planner(pipeline)
    late, soon = ticket(deadline=1.0), ticket(deadline=10.0)
    plan.admit(late, 0.0)
    plan.admit(soon, 0.0)
    batch = plan.take(0.6)  # half a second for one image: it would end at 1.1
    assert batch and [row.ticket for row in batch.rows] == [soon]
    assert plan.pop_late() == [late]
    assert plan.pop_late() == []


@pytest.mark.parametrize(("others", "begun"), [(0, True), (7, True), (8, False)])
def test_where_many_wait_those_who_would_hardly_be_in_time_make_room(pipeline: Pipeline, others: int, begun: bool) -> None:
    """A batch of four takes a second with N = 4; of the first, 1.2 are left when it could be begun."""
    plan = planner(pipeline)
    narrow = ticket(deadline=100.0)
    plan.admit(narrow, 0.0)
    for _ in range(others):
        plan.admit(ticket(), 0.0)
    batch = plan.take(98.8, False)
    assert batch is not None and (narrow in [row.ticket for row in batch.rows]) == begun
    assert plan.pop_late() == ([] if begun else [narrow])


def test_the_gone_leave_the_queue(pipeline: Pipeline) -> None:
    plan = planner(pipeline)
    large = ticket(6)
    plan.admit(large, 0.0)
    plan.take(0.0)
    assert plan.waiting == 2
    assert plan.discard(large)
    assert (plan.waiting, plan.take(0.0), plan.discard(large)) == (0, None, False)


def test_load_lowers_n_for_those_that_leave_it_open(pipeline: Pipeline) -> None:
    plan = planner(pipeline, levels=(6, 4, 2), most=100)
    fixed, bounded, free = ticket(n=(6,)), ticket(n=(6, 5, 4)), ticket(n=(6, 4, 2))
    for one in [fixed, bounded, free, *(ticket(n=(6, 4, 2)) for _ in range(40))]:
        plan.admit(one, 0.0)
    assert plan.bearable((6, 4, 2)) == 2
    drawn = [batch.n_draft for batch in iter(lambda: plan.take(0.0), None)]
    assert drawn[:3] == [6, 4, 2]
    assert (fixed.run.n_draft, bounded.run.n_draft, free.run.n_draft) == (6, 4, 2)


def test_all_images_of_a_request_have_one_n(pipeline: Pipeline) -> None:
    plan = planner(pipeline, levels=(6, 2), most=100)
    large = ticket(8, n=(6, 2))
    plan.admit(large, 0.0)
    first = plan.take(0.0)
    for _ in range(60):
        plan.admit(ticket(n=(6, 2)), 0.0)
    second = plan.take(0.0)
    assert first and second
    assert plan.bearable((6, 2)) == 2
    assert {row.run.n_draft for batch in (first, second) for row in batch.rows if row.ticket is large} == {first.n_draft}


def test_times_count_once_a_batch_is_whole(pipeline: Pipeline) -> None:
    plan = planner(pipeline)
    plan.admit(ticket(), 0.0)
    batch = plan.take(0.0)
    assert batch
    plan.finished(batch, 50.0, whole=False)
    assert plan.seconds(4, 0.0) == pytest.approx(0.5)
    plan.admit(ticket(), 0.0)
    batch = plan.take(0.0)
    assert batch
    plan.finished(batch, 1.0)
    assert plan.seconds(4, 0.0) == pytest.approx(0.9 * 0.5 + 0.1 * 1.0)
    assert plan.running == 0


def test_times_between_and_beyond_those_that_were_measured() -> None:
    times = Times()
    assert times.seconds(3, 5) == 0.0
    times.add(4, 2, 1.0)
    times.add(4, 6, 2.0)
    assert times.seconds(4, 4) == pytest.approx(1.5)
    assert times.seconds(4, 1) == pytest.approx(1.0)
    assert times.seconds(4, 12) == pytest.approx(4.0)
    assert times.seconds(6, 4) == pytest.approx(1.5)


def test_what_slows_one_n_down_does_so_with_all() -> None:
    times = Times()
    times.add(4, 2, 1.0)
    times.add(6, 2, 2.0)
    for _ in range(100):
        times.observe(4, 2, 3.0)
    assert times.seconds(6, 2) == pytest.approx(6.0, rel=1e-3)
    times.observe(4, 2, 1e9)
    assert times.slowdown < 13
