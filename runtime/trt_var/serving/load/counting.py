"""From outcomes to numbers: latencies from when requests were due, goodput, and everything that went another way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from trt_var.serving.load.answers import Answer
from trt_var.serving.load.client import Outcome
from trt_var.serving.load.mix import Request
from trt_var.serving.load.rows import Moment, Row, Spread
from trt_var.serving.load.run import Run
from trt_var.serving.load.service import OK

MOMENTS, SHORTEST = 50, 0.1  # points of a timeline at most, and seconds of one at least
NO_ANSWER = Answer()
REFUSED = range(400, 500)


def row(run: Run, objective: float | None = None) -> Row:
    """The numbers of a run whose answers have been read; ``objective`` is of the whole latency, in seconds."""
    pairs = list(zip(run.plan.requests, run.outcomes, run.plan.arrivals.tolist(), strict=True))
    invalid = [(request, one) for request, one, _ in pairs if request.rubbish]
    going = [one for request, one, _ in pairs if request.leaves is not None]
    waiting = [found for found in pairs if found[0].leaves is None and not found[0].rubbish]
    valid = [one.fate for request, one, _ in pairs if not request.rubbish]
    served = [found for found in waiting if is_served(found[1])]
    whole = [one.ended - due for _, one, due in served]
    in_time = [(request, one) for request, one, due in served if one.ended - due <= (objective or np.inf)]
    span = max([run.plan.window, *(one.ended for _, one in in_time)])
    good_images = sum(request.images for request, _ in in_time)
    unsound = [_answer(one) for _, one, _ in waiting if one.fate == "answered" and one.status == OK and not is_served(one)]
    images = sum(request.images for request, _, _ in served)
    by_n: Counter[int] = Counter()
    for request, one, _ in served:
        by_n[_answer(one).n_draft or 0] += request.images
    again = [_seconds(one.retry_after) for _, one, _ in waiting if one.status in (429, 503) and one.retry_after]
    firsts = [first - due for _, one, due in served if (first := _answer(one).first) is not None]
    queues = [queue for _, one, _ in served if (queue := _answer(one).queue) is not None]
    wrong = [(request.rubbish, one) for request, one in invalid if one.status not in REFUSED]
    lateness = np.array(run.lateness)
    return Row(
        rate=run.plan.rate,
        window=run.plan.window,
        seconds=run.seconds,
        requests=len(pairs),
        offered=len(waiting),
        offered_images=sum(request.images for request, _, _ in waiting),
        served=len(served),
        images=images,
        in_time=len(in_time),
        images_in_time=good_images,
        goodput=len(in_time) / span,
        image_goodput=good_images / span,
        attainment=len(in_time) / max(len(waiting), 1),
        images_per_second=images / run.seconds,
        whole=spread(whole),
        first=spread(firsts),
        queue=spread(queues),
        statuses=_counted(str(one.status) for _, one, _ in waiting if one.status),
        codes=_counted(_answer(one).code for _, one, _ in waiting),
        n_draft={str(n): by_n[n] for n in sorted(by_n)},
        mean_n=sum(n * count for n, count in by_n.items()) / images if images else None,
        retry_after=len(again),
        retry_least=min(filter(None, again), default=None),
        retry_most=max(filter(None, again), default=None),
        unconnected=valid.count("unconnected"),
        lost=valid.count("lost"),
        broken=valid.count("broken"),
        failed=sum(1 for answer in unsound if answer.code),
        unsound=sum(1 for answer in unsound if not answer.code),
        problems=_counted(one.failure or _answer(one).problem for _, one, _ in waiting),
        left=sum(1 for one in going if one.fate == "left"),
        stayed=sum(1 for one in going if one.fate == "answered"),
        rubbish=len(invalid),
        mistaken=len(wrong),
        mistaken_kinds=_counted(f"{kind}: {one.status or one.fate}" for kind, one in wrong),
        late_p99=float(np.percentile(lateness, 99)),
        late_max=float(lateness.max()),
        cpu=run.cpu / run.seconds,
        timeline=_timeline(run, waiting),
    )


def is_served(outcome: Outcome) -> bool:
    """Whether a request has a sound answer of status 200."""
    return outcome.fate == "answered" and outcome.status == OK and not _answer(outcome).problem


def spread(seconds: Sequence[float] | NDArray[np.float64]) -> Spread | None:
    """Percentiles, or None of nothing."""
    return Spread(*np.percentile(seconds, [50, 95, 99, 100]).tolist()) if len(seconds) else None


def _answer(outcome: Outcome) -> Answer:
    return outcome.answer or NO_ANSWER


def _counted(names: Iterable[str]) -> dict[str, int]:
    """How often each is there, the commonest first; empty ones are left out."""
    return dict(Counter(name for name in names if name).most_common())


def _seconds(text: str) -> float | None:
    return float(text) if text.isascii() and text.isdecimal() else None


def _timeline(run: Run, waiting: Sequence[tuple[Request, Outcome, float]]) -> list[Moment]:
    step = max(run.plan.window / MOMENTS, SHORTEST)
    stretches: list[list[tuple[Outcome, float]]] = [[] for _ in range(int(run.plan.window / step) + 1)]
    for _, one, due in waiting:
        stretches[int(due / step)].append((one, due))
    if not stretches[-1]:
        stretches.pop()
    found = []
    for i, stretch in enumerate(stretches):
        served = [(one, due) for one, due in stretch if is_served(one)]
        whole = spread([one.ended - due for one, due in served])
        queues = [queue for one, _ in served if (queue := _answer(one).queue) is not None]
        drafted = [n for one, _ in served if (n := _answer(one).n_draft) is not None]
        found.append(
            Moment(
                (i + 0.5) * step,
                len(stretch) / step,
                len(served) / step,
                None if whole is None else whole.p50,
                None if whole is None else whole.p99,
                float(np.median(queues)) if queues else None,
                float(np.mean(drafted)) if drafted else None,
            )
        )
    return found
